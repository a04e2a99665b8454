"""Chooses, for every case, the network that describes the case and the cases on which its probe is fitted."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from nnunet_mtl.common.errors import UserError

Fold = int | str


class ProbeError(UserError):
    """A probe cannot be fitted, scored or exported as asked."""


@dataclass(frozen=True)
class Part:
    """Cases that are predicted by the same network and the same probe.

    Attributes:
        network: The fold whose network describes the cases in `fit` and in `predict`.
        fit: Cases on which the probe is fitted.
        predict: Cases that the probe predicts; none of their patients is in `fit`.
    """

    network: Fold
    fit: tuple[str, ...]
    predict: tuple[str, ...]


@dataclass(frozen=True)
class Folds:
    """The folds that nnU-Net trained with.

    Attributes:
        splits: Content of `splits_final.json`: for each fold the cases of "train" and "val".
        patient_of: Patient of every labelled case.
    """

    splits: Sequence[Mapping[str, Sequence[str]]]
    patient_of: Mapping[str, Hashable]

    def seen(self, network: Fold, case: str) -> bool:
        """Return whether the network of a fold was, or may have been, trained on an image of the case's patient."""
        if isinstance(network, str) or network >= len(self.splits):
            return True
        return self._patient(case) in {self._patient(other) for other in self.splits[network]["train"]}

    def parts(self, cases: Sequence[str], networks: Sequence[Fold]) -> list[Part]:
        """Divide the cases of the validation parts; a case that is in several validation parts counts in the first.

        The channels of different networks have different meanings, so a probe that was fitted on the features of one
        network cannot read the features of another. Therefore one network describes all cases of a part. If possible,
        this network was not trained on the cases to predict.

        Args:
            cases: Labelled cases.
            networks: The folds whose networks exist, at least one.
        """
        validated_in: dict[str, int] = {}
        for index, split in enumerate(self.splits):
            for case in split["val"]:
                validated_in.setdefault(case, index)
        shares: dict[tuple[int, Fold], list[str]] = {}
        for case in cases:
            if case in validated_in:
                unseen = (network for network in networks if not self.seen(network, case))
                shares.setdefault((validated_in[case], next(unseen, networks[0])), []).append(case)
        parts = []
        for (fold, network), predict in sorted(shares.items(), key=lambda item: item[0][0]):
            held_out = {self._patient(case) for case in (*self.splits[fold]["val"], *predict)}
            fit = tuple(case for case in cases if self._patient(case) not in held_out)
            parts.append(Part(network, fit, tuple(predict)))
        return [part for part in parts if part.fit]

    def _patient(self, case: str) -> Hashable:
        return self.patient_of.get(case, ("case", case))
