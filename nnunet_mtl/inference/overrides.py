"""The methods of nnU-Net's prediction that this package overrides, with reasons, and the form of such lists.

The list has a hash of the source of every original. `changed` compares the hashes with the installed nnU-Net, and so
names what has to be read before a new release is supported.
"""

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Override:
    """One overridden method or swapped name.

    Attributes:
        name: Name of the method, or of the function or class in its module.
        kind: An "extended" method calls the original, a "replaced" one does not; "swapped" stands for the original
            during one call.
        reason: Why the original is not enough.
        sha256: First twelve digits of the hash of the original's source, by nnU-Net version.
    """

    name: str
    kind: str
    reason: str
    sha256: Mapping[str, str]

    @classmethod
    def of(cls, name: str, kind: str, reason: str, **sha256: str) -> "Override":
        """Return an override; a hash is given under the version of nnU-Net: `v2_8_1="..."`."""
        by_version = {key[1:].replace("_", "."): value for key, value in sha256.items()}
        return cls(name, kind, reason, MappingProxyType(by_version))

    def differs_from(self, source: Any) -> str:
        """Return one line if the hash of a function or class is not the stored hash; otherwise an empty string."""
        installed = version("nnunetv2")
        known = self.sha256.get(installed) or list(self.sha256.values())[-1]
        if source_hash(source) == known:
            return ""
        return f"{self.name} of nnunetv2 {installed} differs from the version it was compared with"


def source_hash(source: Any) -> str:
    """Return the first twelve digits of the hash of the source of a function or class."""
    return hashlib.sha256(inspect.getsource(source).encode()).hexdigest()[:12]


OVERRIDES = (
    Override.of(
        "initialize_from_trained_model_folder",
        "replaced",
        "nothing that a checkpoint holds is executed; errors of one line",
        v2_8_1="8b601a28f717",
    ),
    Override.of(
        "manual_initialization", "extended", "tasks, questions and settings of the model", v2_8_1="2d91a136e0e9"
    ),
    Override.of(
        "predict_logits_from_preprocessed_data", "extended", "answers and values of each fold", v2_8_1="0511306e59b4"
    ),
    Override.of(
        "predict_sliding_window_return_logits", "extended", "answers and values of a network", v2_8_1="aedfd07402fc"
    ),
    Override.of(
        "_internal_predict_sliding_window_return_logits",
        "extended",
        "a sliding window that is tried again answers once; the order of its patches",
        v2_8_1="c22b59e40406",
    ),
    Override.of(
        "_internal_maybe_mirror_and_predict",
        "extended",
        "answers and values of a patch and its mirrors",
        v2_8_1="220a7ee99a71",
    ),
)


def changed() -> list[str]:
    """Return a line for every original that the installed nnU-Net has changed since the comparison."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    lines = (override.differs_from(getattr(nnUNetPredictor, override.name)) for override in OVERRIDES)
    return [line for line in lines if line]
