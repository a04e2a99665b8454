import pytest
import torch

from nnunet_mtl.networks.gradient import scale_gradient


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_the_values_stay_and_the_gradient_is_scaled(factor: float) -> None:
    x = torch.randn(3, 4, requires_grad=True)
    scaled = scale_gradient(x, factor)
    assert torch.equal(scaled, x)
    assert scaled.data_ptr() == x.data_ptr()
    (scaled * 3).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.full_like(x, 3 * factor))


def test_with_zero_no_gradient_is_computed() -> None:
    x = torch.randn(3, requires_grad=True)
    assert torch.equal(scale_gradient(x, 0.0), x)
    assert not scale_gradient(x, 0.0).requires_grad


def test_of_zero_a_gradient_can_be_computed_all_the_same() -> None:
    x = torch.ones(2, requires_grad=True)
    scale_gradient(3 * x, 0.0, attached=True).sum().backward()
    assert x.grad is not None
    assert not x.grad.any()
    assert not scale_gradient(3 * x, 0.0).requires_grad
    assert scale_gradient(x, 1.0, attached=True) is x
