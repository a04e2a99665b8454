import warnings
from importlib.metadata import version

import pytest
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_mtl.inference.overrides import OVERRIDES, Override, changed, source_hash
from nnunet_mtl.inference.predictor import MultiTaskPredictor


def test_the_list_names_every_overridden_method_and_no_other() -> None:
    ours = vars(MultiTaskPredictor)
    overridden = {name for name, value in ours.items() if callable(value) and name in dir(nnUNetPredictor)}
    assert overridden == {override.name for override in OVERRIDES}


@pytest.mark.parametrize("override", OVERRIDES, ids=lambda override: override.name)
def test_the_replaced_method_does_not_call_the_original_and_extended_ones_do(override: Override) -> None:
    method = vars(MultiTaskPredictor)[override.name]
    method = getattr(method, "__wrapped__", method)  # under inference_mode
    assert ("super" in method.__code__.co_names) == (override.kind == "extended")


def test_upstream_is_what_the_overrides_were_compared_with() -> None:
    installed = version("nnunetv2")
    for line in changed():
        if installed in OVERRIDES[0].sha256:
            pytest.fail(f"{line}: read it again, then correct nnunet_mtl/inference/overrides.py")
        warnings.warn(line, stacklevel=1)  # another release: worth reading, not worth failing


def test_a_changed_source_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def manual_initialization(self: object, network: object) -> None:
        """Something else."""

    monkeypatch.setattr(nnUNetPredictor, "manual_initialization", manual_initialization)
    (line,) = changed()
    assert line.startswith("manual_initialization of nnunetv2 ")


def test_an_unknown_release_is_compared_with_the_newest_known_one() -> None:
    known = Override.of("source_hash", "extended", "", v0_1="another", v0_2=source_hash(source_hash))
    assert known.differs_from(source_hash) == ""
    assert known.differs_from(changed).startswith("source_hash of nnunetv2 ")
