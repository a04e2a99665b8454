"""Does the head read texture? Phantoms whose class shows in the fine texture of a liver tumour and in nothing else.

100 training cases, one in five malignant, 30 % of the labels missing; 60 balanced test cases. Rows: the head; the head
on features it does not shape (frozen), whose segmentation is that of a network without a head; on features it shapes
with its whole gradient (shaped); the usual head on the bottleneck; a linear probe on frozen features; features of the
predicted lesion and a logistic regression; a network for the question alone. One more arm trains where the class goes
with the scanner and tests where it does not. Volume and position alone must tell nothing.

python benchmarks/classification.py --seeds 0 1 2 --out benchmarks/results/classification.json

With --folder, what is there already is not trained or predicted again: several processes may each do a part.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from chain import Chain, positive_chances, provenance, write_result
from lesion_features import lesion_features, position_features
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nnunet_mtl.evaluation.answers.discrimination import auc_difference_interval, auc_interval
from nnunet_mtl.evaluation.runs.run_dice import run_dice
from nnunet_mtl.tasks import TaskSet, read_dataset_json

PHANTOM = (
    *("--tasks", "liver", "--cases_per_task", "100", "--test_cases", "60", "--malignant_cue", "texture"),
    *("--malignant_share", "0.2", "--test_malignant_share", "0.5", "--labelled_share", "0.7"),
    *("--tumour_prevalence", "1", "--domain_task_coupling", "0"),
)
# An unusual shape: a CPU convolves a batch of one three times slower where channels x depth x height is at most 20480.
SIZE = ("--patch_size", "40", "36", "20", "--features", "16", "32", "64", "--batch_size", "2")
SETTINGS = {
    "iterations": 125,
    "val_iterations": 4,
    "initial_lr": 0.05,
    "momentum": 0.9,
    "test_time_mirroring": "false",
    "evidence_crops": 0.5,
    "class_every": 100,
    # With few malignant cases the weights of "inverse" make steps unequal: AUC 0.67 against 0.97, measured on seed 0.
    "class_sampling": "balanced",
    "class_balance": "none",
}
OVERLAP = ("-step_size", "0.75")
TUMOUR, QUESTION, POSITIVE = 3, "malignancy", "malignant"
CONFIGURATION = "3d_fullres"
MTL, STL = "nnUNetTrainerMTLAttention", "nnUNetTrainerSTLCls"
ROWS = ("head", "frozen", "shaped", "bottleneck", "probe", "stl", "domain")
# The whole gradient of the answers reaches the features: the best chance for a control, at the segmentation's cost.
SHAPED = {"class_gradient": 1}


def main() -> None:
    """Run the rows for every seed and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS, help="what is trained")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--folder", type=Path, help="where the data sets and models are kept")
    options = parser.parse_args()
    folder = (options.folder or Path(tempfile.mkdtemp())).resolve()
    seeds = {}
    for seed in options.seeds:
        seeds[str(seed)] = Benchmark(folder / f"seed_{seed}", seed, options.epochs).run(options.rows)
    write_result(options.out, {**provenance(), "seeds": seeds})
    print(json.dumps(seeds, indent=1))


class Benchmark:
    """All rows of one seed.

    Args:
        folder: Of this seed; data sets and models are kept there and used again.
        seed: Of the phantoms.
        epochs: Of every training.
    """

    def __init__(self, folder: Path, seed: int, epochs: int) -> None:
        self.folder, self.seed = folder, seed
        self.chain = Chain(folder, CONFIGURATION, SIZE, {**SETTINGS, "epochs": epochs})

    def run(self, rows: list[str]) -> dict[str, Any]:
        """Train and test the rows."""
        probabilities: dict[str, dict[str, float]] = {}
        self._data(900, "Texture")
        truth = self._truth("Dataset900_Texture")
        result: dict[str, Any] = {"position_and_volume": self._position(), "minutes": {}}
        if "head" in rows:
            probabilities["head"] = self._trained(result, "head", 900, MTL)
            probabilities["segment_then_classify"] = self._segment_then_classify(truth)
        if "frozen" in rows:
            probabilities["frozen"] = self._trained(result, "frozen", 900, MTL, class_gradient=0)
        if "shaped" in rows:
            probabilities["shaped"] = self._trained(result, "shaped", 900, MTL, **SHAPED)
        if "bottleneck" in rows:
            control = SHAPED | {"class_head": "bottleneck"}
            probabilities["bottleneck"] = self._trained(result, "bottleneck", 900, MTL, **control)
        if "probe" in rows:
            probabilities["probe"] = self._probe(result, 900, "bottleneck")
        if "stl" in rows:
            probabilities["stl"] = self._trained(result, "stl", 900, STL)
        if "domain" in rows:
            self._data(901, "TextureDomain", "--class_domain_coupling", "1")
            probabilities["domain"] = self._trained(result, "domain", 901, MTL, **SHAPED)
        result["dice"] = {row: self._dice(row) for row in ("head", "frozen", "shaped") if row in rows}
        return result | self._scored(probabilities, truth)

    def _data(self, dataset: int, name: str, *more: str) -> None:
        phantom = ("-d", str(dataset), "--name", name, "--seed", str(self.seed), *PHANTOM, *more)
        self.chain.made(dataset, "nnunet_mtl", "phantom", *phantom, folds=10)

    def _trained(
        self, result: dict[str, Any], row: str, dataset: int, trainer: str, **changed: Any
    ) -> dict[str, float]:
        """Train, predict the test images of the first data set, and return each case's probability."""
        plans = f"nnUNetPlans_{row}"
        result["minutes"][row] = self.chain.trained(dataset, trainer, plans, **changed)
        return self._predicted(dataset, row, trainer, plans)

    def _predicted(self, dataset: int, row: str, trainer: str, plans: str) -> dict[str, float]:
        out, _ = self.chain.predicted(row, self.chain.raw(900) / "imagesTs", dataset, trainer, plans, *OVERLAP)
        return positive_chances(out, QUESTION, POSITIVE)

    def _dice(self, row: str) -> dict[str, float]:
        labels = self.folder / "nnUNet_raw" / "Dataset900_Texture" / "labelsTs"
        description = read_dataset_json(labels.parent / "dataset.json")
        tasks = TaskSet.from_dataset_json(description)
        scores = run_dice(self.folder / "predictions" / row, labels, tasks, description, fully_labelled=True)
        return {region: round(scores.mean_over_regions([region]), 3) for region in scores.regions}

    def _probe(self, result: dict[str, Any], dataset: int, row: str) -> dict[str, float]:
        exported = "nnUNetPlans_probe"
        minutes = self.folder / "probe_minutes.json"
        if not minutes.is_file():
            start = time.monotonic()
            model = ("-d", str(dataset), "-c", CONFIGURATION, "-f", "0", "-p", f"nnUNetPlans_{row}", "-tr", MTL)
            self.chain.runner.run("nnunet_mtl", "probe", *model, "-device", "cpu", "--export", exported)
            minutes.write_text(json.dumps(round((time.monotonic() - start) / 60, 1)))
        result["minutes"]["probe"] = json.loads(minutes.read_text())
        return self._predicted(dataset, "probe", MTL, exported)

    def _segment_then_classify(self, truth: dict[str, bool]) -> dict[str, float]:
        """Describe the lesions drawn in the training cases, and those predicted in the test cases."""
        raw = self.folder / "nnUNet_raw" / "Dataset900_Texture"
        training = self._training_labels(raw)
        rows = [_described(raw / "imagesTr", raw / "labelsTr", case) for case in training]
        model = _regression().fit(rows, list(training.values()))
        predicted = {case: _described(raw / "imagesTs", self.folder / "predictions" / "head", case) for case in truth}
        chances = model.predict_proba([np.nan_to_num(row) for row in predicted.values()])[:, 1]
        return dict(zip(predicted, map(float, chances), strict=True))

    def _position(self) -> dict[str, float]:
        """Return the cross-validated AUC of volume and position of the true lesions of all test and training cases."""
        raw = self.folder / "nnUNet_raw" / "Dataset900_Texture"
        rows, labels = [], []
        truth = self._truth("Dataset900_Texture")
        for folder, known in (("labelsTr", self._training_labels(raw)), ("labelsTs", truth)):
            for case, label in known.items():
                image = SimpleITK.ReadImage(str(raw / folder / f"{case}.nii.gz"))
                mask = SimpleITK.GetArrayFromImage(image) == TUMOUR
                rows.append(list(position_features(mask, image.GetSpacing()[::-1]).values()))
                labels.append(label)
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        chances = cross_val_predict(_regression(), rows, labels, cv=folds, method="predict_proba")[:, 1]
        return _area(chances, np.array(labels))

    def _training_labels(self, raw: Path) -> dict[str, bool]:
        cases = json.loads((raw / "dataset.json").read_text())["nnunet_mtl"]["cases"]
        return {name: case["classes"][QUESTION] == POSITIVE for name, case in cases.items() if "classes" in case}

    def _truth(self, name: str) -> dict[str, bool]:
        path = self.folder / "nnUNet_raw" / name / "labelsTs.json"
        cases = json.loads(path.read_text())["nnunet_mtl"]["cases"]
        return {name: case["classes"][QUESTION] == POSITIVE for name, case in cases.items() if "classes" in case}

    def _scored(self, rows: dict[str, dict[str, float]], truth: dict[str, bool]) -> dict[str, Any]:
        positive = np.array(list(truth.values()))
        chances = {row: np.array([of_case[case] for case in truth]) for row, of_case in rows.items()}
        scored: dict[str, Any] = {row: _area(values, positive) for row, values in chances.items()}
        for better, row in (("head", "bottleneck"), ("head", "stl"), ("shaped", "bottleneck"), ("shaped", "domain")):
            if better in chances and row in chances:
                low_high = auc_difference_interval(chances[better], chances[row], positive)
                scored[f"{better}_minus_{row}_95"] = None if low_high is None else [round(end, 3) for end in low_high]
        return {"test_cases": {"benign": int((~positive).sum()), "malignant": int(positive.sum())}, "auc": scored}


def _area(chances: Any, positive: Any) -> dict[str, Any]:
    from sklearn.metrics import roc_auc_score

    interval = auc_interval(chances, positive)
    bounds = None if interval is None else [round(value, 3) for value in interval]
    return {"auc": round(float(roc_auc_score(positive, chances)), 3), "auc_95": bounds}


def _described(images: Path, labels: Path, case: str) -> list[float]:
    image = SimpleITK.ReadImage(str(images / f"{case}_0000.nii.gz"))
    mask = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(labels / f"{case}.nii.gz"))) == TUMOUR
    return list(lesion_features(SimpleITK.GetArrayFromImage(image), mask, image.GetSpacing()[::-1]).values())


def _regression() -> Any:
    model = LogisticRegressionCV(
        class_weight="balanced", max_iter=5000, scoring="roc_auc", l1_ratios=(0,), use_legacy_attributes=False
    )
    return make_pipeline(StandardScaler(), model)


if __name__ == "__main__":
    main()
