"""Who may say something of whom: which network describes a case, and which cases its probe may have been fitted on."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from nnunet_mtl.common.errors import UserError

Fold = int | str


class ProbeError(UserError):
    """A probe cannot be fitted, scored or exported as asked."""


@dataclass(frozen=True)
class Part:
    """Cases that are predicted alike.

    Attributes:
        network: The fold whose network describes the cases to predict, and those that the probe is fitted on.
        fit: Cases the probe is fitted on.
        predict: Cases it is then asked for; no patient of theirs is in `fit`.
    """

    network: Fold
    fit: tuple[str, ...]
    predict: tuple[str, ...]


@dataclass(frozen=True)
class Folds:
    """The folds that nnU-Net trained with.

    Attributes:
        splits: Content of `splits_final.json`: for each fold the cases of "train" and "val".
        patient_of: Whose each labelled case is.
    """

    splits: Sequence[Mapping[str, Sequence[str]]]
    patient_of: Mapping[str, Hashable]

    def seen(self, network: Fold, case: str) -> bool:
        """Return whether the network of a fold was trained on an image of the case's patient, or may have been."""
        if isinstance(network, str) or network >= len(self.splits):
            return True
        return self._patient(case) in {self._patient(other) for other in self.splits[network]["train"]}

    def parts(self, cases: Sequence[str], networks: Sequence[Fold]) -> list[Part]:
        """Share out the cases that are in a validation part; a case that is in several counts in the first.

        Networks do not share their channels: what one says of a case means nothing to a probe that was fitted on
        another. So a part is one network, which describes all of its cases: where there is one, a network that was
        not trained on the cases to predict.

        Args:
            cases: Labelled cases.
            networks: The folds whose networks there are, at least one.
        """
        home: dict[str, int] = {}
        for index, split in enumerate(self.splits):
            for case in split["val"]:
                home.setdefault(case, index)
        shares: dict[tuple[int, Fold], list[str]] = {}
        for case in cases:
            if case in home:
                unseen = (network for network in networks if not self.seen(network, case))
                shares.setdefault((home[case], next(unseen, networks[0])), []).append(case)
        parts = []
        for (fold, network), predict in sorted(shares.items(), key=lambda item: item[0][0]):
            held_out = {self._patient(case) for case in (*self.splits[fold]["val"], *predict)}
            fit = tuple(case for case in cases if self._patient(case) not in held_out)
            parts.append(Part(network, fit, tuple(predict)))
        return [part for part in parts if part.fit]

    def _patient(self, case: str) -> Hashable:
        return self.patient_of.get(case, ("case", case))
