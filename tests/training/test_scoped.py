import types

import pytest

from nnunet_mtl.training.scoped import swapped


def test_the_name_is_back_afterwards_also_after_an_error() -> None:
    module = types.ModuleType("somewhere")
    module.loader = "theirs"  # type: ignore[attr-defined]
    with swapped(module, "loader", "ours") as original:
        assert (module.loader, original) == ("ours", "theirs")
    with pytest.raises(RuntimeError, match="inside"), swapped(module, "loader", "ours"):
        raise RuntimeError("inside")
    assert module.loader == "theirs"


def test_a_name_that_upstream_dropped_is_an_error() -> None:
    with pytest.raises(AttributeError, match="gone"), swapped(types.ModuleType("somewhere"), "gone", None):
        pass
