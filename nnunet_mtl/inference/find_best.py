"""`nnunet_mtl find-best`: nnU-Net's choice among trained models, by the regions that are annotated in each case.

nnU-Net's function is called with three names of its module replaced during the call: the search for post-processing,
the score by which it chooses, and the prediction commands that it prints; see `nnunet_mtl.training.overrides`.
"""

import math
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nnunetv2.evaluation.find_best_configuration as theirs
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json, save_pickle
from nnunetv2.configuration import default_num_processes
from nnunetv2.evaluation.evaluate_predictions import (
    compute_metrics_on_folder,
    load_summary_json,
    save_summary_json,
)
from nnunetv2.postprocessing.remove_connected_components import apply_postprocessing_to_folder
from nnunetv2.utilities.file_path_utilities import get_output_folder
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import did_you_mean, listed
from nnunet_mtl.common.swapped_names import swapped
from nnunet_mtl.datasets.region_postprocessing import Judgement, Maps, judge, mean, write_mark
from nnunet_mtl.inference.model_location import results_folder
from nnunet_mtl.planning.folders import preprocessed_folder, raw_folder, read_plans
from nnunet_mtl.tasks import TaskSet, read_dataset_json


class FindBestError(UserError):
    """There is no model to choose from, or no score to choose by."""


@dataclass(frozen=True)
class FindBestOptions:
    """The models among which the command chooses, as in `nnUNetv2_find_best_configuration`.

    Attributes:
        dataset: Id or name of the data set.
        plans: Names of plans.
        configurations: Names of configurations; a configuration that a plans file lacks is left out.
        trainers: Class names of trainers, of this package or stock.
        folds: The folds whose validation predictions are merged and scored.
        n_processes: Number of processes.
        ensembling: Whether pairs of models are tried too, which needs the `.npz` files of every fold's validation.
        overwrite: Whether predictions that an earlier call merged are merged again.
    """

    dataset: str
    plans: Sequence[str]
    configurations: Sequence[str]
    trainers: Sequence[str]
    folds: Sequence[int]
    n_processes: int
    ensembling: bool = True
    overwrite: bool = True

    @classmethod
    def from_namespace(cls, options: Namespace) -> "FindBestOptions":
        """Build the options from the parsed arguments; without `-np` the number of processes is nnU-Net's default.

        Raises:
            FindBestError: If the number of processes is below 1.
        """
        n_processes = default_num_processes if options.n_processes is None else options.n_processes
        if n_processes < 1:
            raise FindBestError(f"-np {n_processes}: must be at least 1")
        return cls(
            options.dataset,
            options.plans,
            options.configurations,
            options.trainers,
            options.folds,
            n_processes,
            not options.disable_ensembling,
            not options.no_overwrite,
        )


def find_best(options: FindBestOptions) -> dict[str, Any]:
    """Choose a model or an ensemble, fit its post-processing and print the commands that predict with it.

    Returns:
        The result of nnU-Net's `find_best_configuration`.

    Raises:
        UserError: If the data set, a model or a fold is missing, or no region has a score.
    """
    raw, preprocessed = raw_folder(options.dataset), preprocessed_folder(options.dataset)
    dataset_json = read_dataset_json(raw / "dataset.json")
    tasks = TaskSet.from_dataset_json(dataset_json, str(raw / "dataset.json"))
    models = theirs.dumb_trainer_config_plans_to_trained_models_dict(
        list(options.trainers), list(options.configurations), list(options.plans)
    )
    _refuse_untrained(models, preprocessed)
    known = theirs.filter_available_models(models, raw.name)
    if not known:
        planned = [name for plans in options.plans for name in _configurations(preprocessed, plans)]
        wanted = f"{listed(options.configurations)} in {listed(options.plans)}"
        similar = did_you_mean(options.configurations[0], planned)
        raise FindBestError(f"{raw.name}: there is no {wanted}{similar}; check -c and -p")
    replaced = _Replacements(
        tasks,
        str(dataset_json["file_ending"]),
        theirs.determine_postprocessing,
        theirs.generate_inference_command,
    )
    with ExitStack() as stack:
        for name in ("determine_postprocessing", "load_summary_json", "generate_inference_command"):
            stack.enter_context(swapped(theirs, name, getattr(replaced, name)))
        try:
            best: dict[str, Any] = theirs.find_best_configuration(
                raw.name,
                known,
                allow_ensembling=options.ensembling,
                num_processes=options.n_processes,
                overwrite=options.overwrite,
                folds=tuple(options.folds),
            )
        except (RuntimeError, FileNotFoundError) as error:  # how nnU-Net reports that a model or a fold is missing
            raise FindBestError(" ".join(str(error).split())) from error
    return best


def _refuse_untrained(models: Sequence[dict[str, str]], preprocessed: Path) -> None:
    """Refuse plans and models that are not there with the nearest name, which nnU-Net's own messages do not give."""
    for model in models:
        if model["configuration"] in _configurations(preprocessed, model["plans"]):
            results_folder(preprocessed.name, model["trainer"], model["plans"], model["configuration"])


def _configurations(preprocessed: Path, plans: str) -> list[str]:
    return list(read_plans(preprocessed / f"{plans}.json")["configurations"])


class _Replacements:
    """The functions that replace three functions of nnU-Net's module while `find_best_configuration` runs.

    Args:
        tasks: The task set of the data set, with its case table.
        ending: File ending of the label maps.
        determine: nnU-Net's `determine_postprocessing`.
        generate: nnU-Net's `generate_inference_command`.
    """

    def __init__(
        self, tasks: TaskSet, ending: str, determine: Callable[..., Any], generate: Callable[..., str]
    ) -> None:
        self.tasks, self._ending = tasks, ending
        self._determine, self._generate = determine, generate

    def load_summary_json(self, filename: str) -> dict[str, Any]:
        """Read a summary. Its mean Dice becomes the mean over the regions; a region counts where it is annotated.

        Raises:
            FindBestError: If no region has a Dice.
        """
        summary: dict[str, Any] = load_summary_json(filename)
        scores: dict[Any, list[float]] = {key: [] for key in summary["mean"]}
        for case in summary["metric_per_case"]:
            annotated = self._annotated(Path(case["prediction_file"]).name.removesuffix(self._ending))
            for key, metrics in case["metrics"].items():
                if annotated[_labels(key)]:
                    scores[key].append(metrics["Dice"])
        dice = mean([mean(values) for key, values in scores.items() if key != 0])
        if math.isnan(dice):
            raise FindBestError(f"{filename}: no region has a Dice, so there is nothing to choose by; train more folds")
        summary["foreground_mean"]["Dice"] = dice
        return summary

    def _annotated(self, case: str) -> dict[frozenset[int], bool]:
        """Return whether a region is annotated in a case, by the label values of the region."""
        return dict(zip(map(frozenset, self.tasks.region_labels), self.tasks.annotated(case), strict=True))

    def determine_postprocessing(
        self,
        folder_predictions: str,
        folder_ref: str,
        plans_file_or_dict: Any,
        dataset_json_file_or_dict: Any,
        num_processes: int,
        keep_postprocessed_files: bool = True,
    ) -> Any:
        """Fit the post-processing: with nnU-Net's own function if every region is annotated in every case.

        Args:
            folder_predictions: Folder of the merged validation maps; `postprocessing.pkl` and the processed maps are
                written into it.
            folder_ref: Folder of the reference maps.
            plans_file_or_dict: Path of the plans.
            dataset_json_file_or_dict: Path of the `dataset.json`.
            num_processes: Number of processes.
            keep_postprocessed_files: For nnU-Net's own function; otherwise the files are always kept.
        """
        folder = Path(folder_predictions)
        if all(all(self.tasks.annotated(case)) for case in self.tasks.cases):
            fitted = self._determine(
                folder_predictions,
                folder_ref,
                plans_file_or_dict,
                dataset_json_file_or_dict,
                num_processes,
                keep_postprocessed_files,
            )
            write_mark(folder, (), self.tasks, beside=load_json(str(folder / "postprocessing.json")))
            return fitted
        plans = PlansManager(plans_file_or_dict)
        cases = sorted(path.name.removesuffix(self._ending) for path in folder.glob(f"[!.]*{self._ending}"))
        annotated = {case: self.tasks.annotated(case) for case in cases}
        reader = plans.image_reader_writer_class()
        judged = judge(Maps(folder, Path(folder_ref), self._ending, reader, annotated, self.tasks), num_processes)
        chosen = [known.rule.as_nnunet() for known in judged if known.kept]
        functions, words = [function for function, _ in chosen], [kwargs for _, kwargs in chosen]
        save_pickle((functions, words), str(folder / "postprocessing.pkl"))
        write_mark(folder, judged, self.tasks)
        print(self._account(judged))  # noqa: T201 - among what nnU-Net's function prints
        processed = folder / "postprocessed"
        apply_postprocessing_to_folder(
            str(folder),
            str(processed),
            functions,
            words,
            plans_file_or_dict,
            dataset_json_file_or_dict,
            num_processes,
        )
        self._summarise(processed, folder_ref, reader, num_processes)
        return functions, words

    def _account(self, judged: Sequence[Judgement]) -> str:
        lines = []
        for known in judged:
            region = self.tasks.regions[known.rule.region]
            text = (
                f"Dice {known.before:.4f} -> {known.after:.4f} over {known.n_cases} annotated cases: "
                f"{'kept' if known.kept else 'not kept'}"
                if known.n_cases
                else f"not kept, as {region} is annotated in none of the cases"
            )
            lines.append(f"largest component of {region}: {text}")
        tried = {known.rule.region for known in judged}
        left = [name for number, name in enumerate(self.tasks.regions) if number not in tried]
        if left:
            lines.append(f"not tried, because other tasks' regions may lie in or over them: {listed(left)}")
        return "\n".join(lines)

    def _summarise(self, folder: Path, references: str, reader: Any, n_processes: int) -> None:
        path = str(folder / "summary.json")
        keys = [tuple(labels) for labels in self.tasks.region_labels]
        ignored = self.tasks.ignore_label
        compute_metrics_on_folder(references, str(folder), path, reader, self._ending, keys, ignored, n_processes)
        save_summary_json(self.load_summary_json(path), path)

    def generate_inference_command(
        self,
        dataset_name_or_id: Any,
        configuration_name: str,
        plans_identifier: str,
        trainer_name: str,
        folds: Any,
        *,
        save_npz: bool = False,
        output_folder: str = "OUTPUT_FOLDER",
    ) -> str:
        """Return the prediction command, after that of a cascade's previous stage; without a GPU with `-device cpu`."""
        device = "" if torch.cuda.is_available() else " -device cpu"
        folder = get_output_folder(dataset_name_or_id, trainer_name, plans_identifier, configuration_name)
        previous = (
            PlansManager(str(Path(folder, "plans.json"))).get_configuration(configuration_name).previous_stage_name
        )
        model = (plans_identifier, trainer_name, folds)
        first, before = "", None
        if previous is not None:
            before = f"{output_folder}_PREVIOUS_STAGE"
            first = self._generate(dataset_name_or_id, previous, *model, None, output_folder=before) + device + "\n"
        command = self._generate(
            dataset_name_or_id, configuration_name, *model, before, output_folder=output_folder, save_npz=save_npz
        )
        return f"{first}{command}{device}"


def _labels(key: Any) -> frozenset[int]:
    return frozenset(key if isinstance(key, tuple) else [key])
