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
