import torch

from nnunet_mtl.networks.standardisation import RunningStandardiser


def test_the_standardiser_learns_mean_and_scale_and_keeps_them_in_evaluation() -> None:
    torch.manual_seed(0)
    standardise = RunningStandardiser(3)
    centre, scale = torch.tensor([5.0, 0.0, -2.0]), torch.tensor([0.01, 1.0, 100.0])
    for _ in range(300):
        standardise(centre + scale * torch.randn(2, 3))
    standardise.eval()
    before = {name: value.clone() for name, value in standardise.state_dict().items()}
    values = standardise(centre + scale * torch.randn(500, 3))
    torch.testing.assert_close(values.mean(0), torch.zeros(3), atol=0.35, rtol=0)
    torch.testing.assert_close(values.std(0), torch.ones(3), atol=0.3, rtol=0)
    assert all(torch.equal(value, before[name]) for name, value in standardise.state_dict().items())


def test_the_standardiser_forgets_an_overflow() -> None:
    standardise = RunningStandardiser(2)
    for values in (torch.randn(2, 2), torch.tensor([[float("inf"), 1.0], [float("nan"), 2.0]]), torch.randn(2, 2)):
        standardise(values)
    assert all(value.isfinite().all() for value in standardise.state_dict().values())


def test_the_standardiser_does_not_mix_the_samples_of_a_batch_in_evaluation() -> None:
    standardise = RunningStandardiser(4)
    standardise(torch.randn(8, 4))
    standardise.eval()
    values = torch.randn(3, 4)
    assert torch.equal(standardise(values)[1:2], standardise(values[1:2]))


def test_samples_that_do_not_count_leave_no_trace_and_are_standardised_like_the_others() -> None:
    torch.manual_seed(0)
    some, all_of_them = RunningStandardiser(3), RunningStandardiser(3)
    for _ in range(5):
        values = 2 + torch.randn(4, 3)
        counts = torch.tensor([True, False, True, False])
        strange = torch.where(counts[:, None], values, torch.tensor(float("inf")))
        some(strange, counts)
        all_of_them(values[counts])
    for name, value in all_of_them.state_dict().items():
        torch.testing.assert_close(some.state_dict()[name], value)
    some.eval()
    values = torch.randn(4, 3)
    torch.testing.assert_close(some(values, torch.zeros(4, dtype=torch.bool)), some(values), atol=0, rtol=0)


def test_a_batch_that_does_not_count_is_no_batch() -> None:
    torch.manual_seed(0)
    standardise = RunningStandardiser(2)
    nobody = torch.zeros(3, dtype=torch.bool)
    assert bool(standardise(torch.randn(3, 2), nobody).isfinite().all())
    assert float(standardise.num_batches) == 0
    standardise(torch.randn(3, 2))
    before = {name: value.clone() for name, value in standardise.state_dict().items()}
    standardise(torch.randn(3, 2), nobody)
    assert all(torch.equal(value, before[name]) for name, value in standardise.state_dict().items())


def test_the_first_batches_are_averaged_plainly() -> None:
    standardise = RunningStandardiser(1, momentum=0.25)
    for value in (1.0, 2.0, 6.0):
        standardise(torch.full((2, 1), value))
    torch.testing.assert_close(standardise.mean, torch.tensor([3.0]))
    for _ in range(3):
        standardise(torch.full((2, 1), 3.0))
    before = float(standardise.mean)
    standardise(torch.full((2, 1), 7.0))
    assert abs(float(standardise.mean) - (before + 0.25 * (7 - before))) < 1e-5
