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
