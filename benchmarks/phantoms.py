"""What the phantoms of the joint methods give away to whoever does not learn: docs/phantoms.md has these figures.

Dice of thresholds on the smoothed image together with maps of place, both the best ones on the training cases; and the
AUC of features that need the true mask: those that are meant to tell the class, and those that are not.

python benchmarks/phantoms.py --out benchmarks/results/phantoms.json
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from chain import provenance, write_result
from lesion_features import lesion_features
from numpy.typing import NDArray
from position_baseline import threshold_and_position_dice
from sklearn.metrics import roc_auc_score

from nnunet_mtl.lab.phantoms import gastric, nested, ultrasound
from nnunet_mtl.lab.phantoms.breast import MASS_CUES, MassCue
from nnunet_mtl.lab.phantoms.options import SharedOptions
from nnunet_mtl.lab.phantoms.patients import plan_visits

SMOOTHINGS = (0.7, 1.5, 3.0)
Features = Callable[[SharedOptions, int], tuple[list[dict[str, float]], list[bool]]]


def main() -> None:
    """Measure every kind and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--patients", type=int, default=240, help="for the AUC, of all seeds together")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    result: dict[str, object] = {"provenance": provenance(), "seeds": options.seeds, "patients": options.patients}
    for name, (dice, auc) in KINDS.items():
        result[name] = {
            "threshold and place: Dice": dice(options.seeds),
            "AUC": auc(options.seeds, options.patients // len(options.seeds)),
        }
        print(json.dumps({name: result[name]}, indent=2), flush=True)
    if options.out:
        write_result(options.out, result)


def dice_over_seeds(
    write: Callable[..., None], options: Callable[[int], SharedOptions], body: float | None
) -> Callable[[Sequence[int]], dict[str, dict[str, float]]]:
    """Return a function that gives, by smoothing in voxels, the mean Dice over data sets of some seeds, by region."""

    def dice(seeds: Sequence[int]) -> dict[str, dict[str, float]]:
        found: dict[float, list[dict[str, float]]] = {smoothing: [] for smoothing in SMOOTHINGS}
        for seed in seeds:
            with tempfile.TemporaryDirectory() as folder:
                write(Path(folder) / "phantom", options(seed), lambda _: None)
                for smoothing, of_seeds in found.items():
                    of_seeds.append(
                        threshold_and_position_dice(Path(folder) / "phantom", smoothing=smoothing, body=body)
                    )
        return {
            f"smoothed by {smoothing}": {
                region: round(float(np.mean([each[region] for each in of_seeds])), 3) for region in of_seeds[0]
            }
            for smoothing, of_seeds in found.items()
        }

    return dice


def aucs(features: Sequence[Mapping[str, float]], positive: Sequence[bool]) -> dict[str, float]:
    """Return the AUC of each feature, 1 or 0 where it tells the class."""
    return {name: round(float(roc_auc_score(positive, [each[name] for each in features])), 3) for name in features[0]}


def ultrasound_aucs(seeds: Sequence[int], patients: int) -> dict[str, dict[str, float]]:
    """Return, by what is to tell, the AUC of malignancy (cysts apart) of features of the true lesion."""
    return {cue: _ultrasound_aucs(seeds, patients, cue) for cue in MASS_CUES}


def _ultrasound_aucs(seeds: Sequence[int], patients: int, cue: MassCue) -> dict[str, float]:
    features, malignant = [], []
    for seed in seeds:
        options = ultrasound.UltrasoundOptions(
            seed=seed, cases=1, test_cases=patients, cyst_share=0.0, malignant_cue=cue
        )
        for visit in plan_visits(options)[1:]:
            scan = ultrasound.render(options, visit)
            rows, columns = np.nonzero(scan.lesion)
            of_mask = lesion_features(scan.image, scan.lesion, (options.spacing_mm,) * 2)
            chosen = {name: of_mask[name] for name in ("compactness", "volume_mm3", "mean", "deviation")}
            chosen["height over width"] = float(rows.std() / columns.std())
            chosen["shadow"] = shadow(scan.image, scan.lesion)
            chosen["mean of the image"] = float(scan.image.mean())
            features.append(chosen)
            malignant.append(bool(scan.malignant))
    return aucs(features, malignant)


def shadow(image: NDArray[np.uint8], lesion: NDArray[np.bool_]) -> float:
    """Return how much brighter it is beside the columns of a lesion than in those of its middle, just below it."""
    rows, columns = np.nonzero(lesion)
    below = image[rows.max() + 2 : rows.max() + 20].astype(float)
    middle = slice(int(columns.mean()) - 4, int(columns.mean()) + 5)
    beside = np.delete(below, np.arange(max(columns.min() - 2, 0), columns.max() + 3), axis=1)
    return float(beside.mean() - below[:, middle].mean())


def gastric_aucs(seeds: Sequence[int], patients: int) -> dict[str, float]:
    """Return the AUC of node status of every feature of the tumour, and of volume and number of the nodes' voxels."""
    features, positive = [], []
    for seed in seeds:
        options = gastric.GastricOptions(seed=seed, cases=1, test_cases=patients)
        for visit in plan_visits(options)[1:]:
            scan = gastric.render(options, visit)
            of_tumour = lesion_features(scan.image, scan.tumour, options.spacing_mm)
            chosen = {f"tumour: {name}": value for name, value in of_tumour.items()}
            chosen["mean of the image"] = float(scan.image.mean())
            chosen["voxels of the nodes"] = float(scan.nodes.sum())
            features.append(chosen)
            positive.append(scan.positive)
    return aucs(features, positive)


KINDS = {
    "ultrasound": (
        dice_over_seeds(
            ultrasound.write_ultrasound_dataset, lambda seed: ultrasound.UltrasoundOptions(seed=seed), body=None
        ),
        ultrasound_aucs,
    ),
    "gastric": (
        dice_over_seeds(gastric.write_gastric_dataset, lambda seed: gastric.GastricOptions(seed=seed), body=None),
        gastric_aucs,
    ),
    "nested": (
        dice_over_seeds(nested.write_nested_dataset, lambda seed: nested.NestedOptions(seed=seed), body=0.0),
        lambda seeds, patients: {},  # no question
    ),
}

if __name__ == "__main__":
    main()
