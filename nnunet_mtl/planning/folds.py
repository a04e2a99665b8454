"""Assigns patients to folds so that every region is annotated in every fold, or says why that is impossible."""

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp
from sklearn.model_selection import StratifiedGroupKFold

from nnunet_mtl.planning.folders import PlanningError

_Bools = npt.NDArray[np.bool_]
_Ints = npt.NDArray[np.int_]
_N_DRAWS = 10
_MAX_NODES = 10_000


def assign_folds(
    annotated: npt.ArrayLike,
    patients: Sequence[str],
    regions: Sequence[str],
    n_folds: int,
    seed: int,
    labels: npt.ArrayLike = (),
) -> _Ints:
    """Assign cases to folds, all cases of a patient to the same one.

    The most even of several stratified draws is taken. Where none annotates every region in every fold, an integer
    programme looks for an assignment that does; its search is bounded, but exact for the few patients that make it
    necessary.

    Args:
        annotated: Which regions are annotated, (cases, R) bool.
        patients: The patient of every case.
        regions: Names of the R regions, for the message.
        n_folds: Number of folds.
        seed: Seed of the first draw; the others count on from it.
        labels: Which classes of the questions hold, (cases, L) bool. Of the draws with the fewest missing regions, the
            draw that leaves the fewest classes out of a fold is preferred. A rare class is no reason to refuse.

    Returns:
        The fold of every case, (cases,), from 0 to `n_folds` - 1.

    Raises:
        PlanningError: If there are too few patients, too few patients with a region annotated, or no assignment.
    """
    labelled: _Bools = np.asarray(annotated, dtype=bool).reshape(len(patients), len(regions))
    groups: _Ints = np.unique(np.asarray(patients, dtype=str), return_inverse=True)[1].reshape(-1)
    per_patient = np.stack([labelled[groups == patient].any(0) for patient in range(len(set(patients)))])
    _require_patients(per_patient, regions, n_folds)
    classes: _Bools = np.asarray(labels, dtype=bool).reshape(len(patients), -1)
    best = _most_even(_draws(labelled, classes, groups, n_folds, seed), labelled, classes, n_folds)
    missing: _Bools = np.asarray(_missing(labelled, best, n_folds).any(0))
    if not missing.any():
        return best
    solved = _solve(per_patient, np.bincount(groups), n_folds)
    if solved is None:
        names = ", ".join(repr(name) for name, is_missing in zip(regions, missing, strict=True) if is_missing)
        raise PlanningError(
            f"{n_folds} folds: found no assignment of {len(per_patient)} patients with every region annotated in every "
            f"validation part (the nearest leaves out {names}); use fewer folds"
        )
    return solved[groups]


def _require_patients(per_patient: _Bools, regions: Sequence[str], n_folds: int) -> None:
    n_patients = len(per_patient)
    if not 2 <= n_folds <= n_patients:
        raise PlanningError(f"{n_folds} folds: there must be at least 2, and no more than the {n_patients} patients")
    short = {name: int(n) for name, n in zip(regions, per_patient.sum(0), strict=True) if n < n_folds}
    if short:
        counts = ", ".join(f"{n} for {name!r}" for name, n in short.items())
        fewest = min(short.values())
        remedy = f"use at most {fewest} folds or annotate more" if fewest >= 2 else "annotate more"
        raise PlanningError(
            f"{n_folds} folds need {n_folds} patients annotated for every region, there are {counts}; {remedy}"
        )


def _draws(labelled: _Bools, classes: _Bools, groups: _Ints, n_folds: int, seed: int) -> Iterator[_Ints]:
    # Two stratifications: by everything that is annotated in a case, which is exact but has rare strata where cases
    # have several tasks, and by the rarest region of it. The third has no strata and so always exists.
    rarity = np.argsort(np.argsort(labelled.sum(0), kind="stable"), kind="stable")
    combination = np.unique(labelled, axis=0, return_inverse=True)[1].reshape(-1)
    rarest = np.where(labelled, rarity, len(rarity)).min(1, initial=len(rarity))
    everything = [combination, rarest, np.zeros_like(groups)]
    if classes.any():
        by_label = np.unique(np.hstack((labelled, classes)), axis=0, return_inverse=True)[1].reshape(-1)
        everything[:0] = [by_label, np.unique(classes, axis=0, return_inverse=True)[1].reshape(-1)]
    for draw in range(_N_DRAWS):
        for strata in everything:
            folding = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed + draw)
            folds = np.zeros(len(groups), dtype=int)
            # Rarer strata than folds are expected here: a warning where some are, an error where all are.
            if np.bincount(strata).max() < n_folds:
                continue
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
                for fold, (_, held_out) in enumerate(folding.split(groups, strata, groups)):
                    folds[held_out] = fold
            yield folds


def _most_even(draws: Iterator[_Ints], labelled: _Bools, classes: _Bools, n_folds: int) -> _Ints:
    # No folds are more even than counts that differ by one where the total is not divisible.
    totals = np.append(labelled.sum(0), len(labelled))
    ideal = (0, 0, int((totals % n_folds != 0).sum()))
    best = next(draws)
    for folds in draws:
        if _unevenness(labelled, classes, best, n_folds) <= ideal:
            break
        best = min(best, folds, key=lambda candidate: _unevenness(labelled, classes, candidate, n_folds))
    return best


def _missing(labelled: _Bools, folds: _Ints, n_folds: int) -> _Bools:
    """Regions that no case of a fold is annotated for, (folds, R)."""
    return np.stack([~labelled[folds == fold].any(0) for fold in range(n_folds)])


def _unevenness(labelled: _Bools, classes: _Bools, folds: _Ints, n_folds: int) -> tuple[int, int, int]:
    counts = np.stack([np.append(labelled[folds == fold].sum(0), (folds == fold).sum()) for fold in range(n_folds)])
    regions, labels = (int(_missing(columns, folds, n_folds).sum()) for columns in (labelled, classes))
    return regions, labels, int(np.ptp(counts, axis=0).sum())


def _solve(per_patient: _Bools, n_cases: _Ints, n_folds: int) -> _Ints | None:
    """Return the fold of every patient, (patients,), with a small largest fold; None if no assignment is found.

    The unknowns are `x[patient, fold]` in {0, 1} and the size of the largest fold.
    """
    n_patients = len(per_patient)
    n_binary = n_patients * n_folds
    one_fold = sparse.kron(sparse.eye(n_patients), np.ones((1, n_folds)))
    every_region = sparse.kron(per_patient.T, sparse.eye(n_folds))
    fold_sizes = sparse.kron(n_cases[None], sparse.eye(n_folds))
    n_demands = n_patients + every_region.shape[0]
    largest = np.append(np.zeros(n_demands), np.ones(n_folds))[:, None]
    rows = sparse.hstack([sparse.vstack([one_fold, every_region, -fold_sizes]), largest])
    at_least = np.append(np.ones(n_demands), np.zeros(n_folds))
    at_most = np.append(np.ones(n_patients), np.full(len(at_least) - n_patients, np.inf))
    result = milp(
        np.append(np.zeros(n_binary), 1.0),
        constraints=LinearConstraint(rows.tocsr(), at_least, at_most),
        integrality=np.append(np.ones(n_binary), 0.0),
        bounds=Bounds(0.0, np.append(np.ones(n_binary), np.inf)),
        # A limit in nodes, not in seconds: the same answer on every machine.
        options={"node_limit": _MAX_NODES},
    )
    if result.x is None:
        return None
    folds: _Ints = np.argmax(result.x[:n_binary].reshape(n_patients, n_folds), axis=1)
    return folds
