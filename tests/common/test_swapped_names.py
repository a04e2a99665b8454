import types

import pytest

from nnunet_mtl.common.swapped_names import UntilCalled, swapped


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


def test_a_function_stands_in_for_one_call() -> None:
    module = types.ModuleType("somewhere")
    module.load = theirs = lambda name: f"theirs {name}"  # type: ignore[attr-defined]
    UntilCalled(module, "load", lambda original, name: f"ours, not {original(name)}")
    assert module.load("x") == "ours, not theirs x"
    assert module.load is theirs


def test_one_that_waits_is_never_taken_for_the_original() -> None:
    module = types.ModuleType("somewhere")
    module.load = theirs = lambda: "theirs"  # type: ignore[attr-defined]
    first = UntilCalled(module, "load", lambda original: "first")
    second = UntilCalled(module, "load", lambda original: original())
    first.put_back()
    assert module.load is second
    assert module.load() == "theirs"
    first.put_back()
    second.put_back()
    assert module.load is theirs
    with pytest.raises(AttributeError, match="gone"):
        UntilCalled(types.ModuleType("somewhere"), "gone", None)  # type: ignore[arg-type]
