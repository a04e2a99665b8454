"""`nnunet_mtl complete-labels`: fills un-annotated regions with the predictions of single-task networks.

The result is a stock data set with every region labelled in every case, on which one stock network is trained: the
simplest rival of methods that learn from partial labels. Annotated regions never change, and a record beside the labels
names the regions that come from predictions.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm  # type: ignore[import-untyped]  # it ships no types

from nnunet_mtl.common.messages import listed, one_line
from nnunet_mtl.datasets.label_maps import Combinations, LabelMap, LabelMapReader, combinations, refuse
from nnunet_mtl.datasets.per_task.completed_labels import Completer, Completion
from nnunet_mtl.datasets.per_task.completion_record import PROVENANCE_NAME, Provenance, summary, write_provenance
from nnunet_mtl.datasets.per_task.extracted_block import channel_names, channels_kept
from nnunet_mtl.datasets.prediction_folders import PredictionFolder, open_folders
from nnunet_mtl.datasets.raw_dataset import (
    RawDataset,
    RawDatasetError,
    link_images,
    link_label,
    place_of,
    plain_name,
    write_description,
    written_whole,
)

Probabilities = npt.NDArray[np.floating[Any]]  # (C, Z, Y, X)


def complete_labels(
    source: Path, folders: Sequence[Path], dataset_id: int, name: str | None = None, least_confidence: float = 0.0
) -> str:
    """Write a stock data set whose label maps are completed by predictions on its training images.

    Images and the label maps of wholly annotated cases are linked. A voxel with nnU-Net's ignore label keeps the label.
    Answers to the image-level questions are left out, because stock nnU-Net has no questions.

    Args:
        source: Folder of the data set in `nnUNet_raw`.
        folders: Folders that `nnUNetv2_predict` wrote for the training images, with networks trained on extracts of
            the source.
        dataset_id: Number of the new data set, which lies beside the source.
        name: Name of the new data set; by default the source's name with "_completed".
        least_confidence: Least mean probability, 0 to 1. The predicted voxels of a region with a smaller mean
            probability in a case get the ignore label; voxels that follow from the annotation stay. A value above 0
            needs the probabilities of the predictions.

    Returns:
        Text for the user: regions filled, the data set written, and the next command.

    Raises:
        UserError: If an argument or a file is invalid, with every problem; nothing is written then.
    """
    raw = RawDataset.read(source)
    target = place_of(source, dataset_id, name or plain_name(source, "completed"))
    if not 0 <= least_confidence <= 1:
        raise RawDatasetError(f"--least_confidence {least_confidence:g}: is a probability, 0 to 1")
    problems: list[str] = []
    teachers = open_folders(folders, raw.taskset, raw.file_ending, problems)
    _require_teachers(raw, teachers, problems)
    refuse(problems)
    splits = raw.splits(raw.training)
    labels = _Labels(raw, teachers, LabelMapReader(raw.reader(), problems), least_confidence)
    with written_whole(target) as folder:
        (folder / "imagesTr").mkdir()
        (folder / "labelsTr").mkdir()
        for case, files in tqdm(raw.training.items(), desc="complete", unit="case"):
            # images alone: a stock network would take the channel of a regression target for an image
            link_images(case, files.images, folder / "imagesTr", raw.file_ending, channels_kept(raw.taskset, None))
            labels.complete(case, files.label, folder / "labelsTr")
        refuse(problems)
        about = {
            "source": source.name,
            "teachers": [str(teacher.folder.resolve()) for teacher in teachers],
            "least_confidence": least_confidence,
        }
        write_provenance(folder, labels.provenance, about)
        write_description(folder, labels.description(target.name), splits)
    return (
        f"{summary(labels.provenance)}\nwrote {target}: {len(raw.training)} training cases with every region; what was "
        f"annotated and what predicted: {PROVENANCE_NAME}.json there; "
        f"next: nnUNetv2_plan_and_preprocess -d {dataset_id} --verify_dataset_integrity"
    )


def _require_teachers(raw: RawDataset, teachers: Sequence[PredictionFolder], problems: list[str]) -> None:
    for number, region in enumerate(raw.taskset.regions):
        without = [case for case in raw.training if not raw.taskset.annotated(case)[number]]
        if without and not any(number in teacher.channels for teacher in teachers):
            problems.append(
                f"region {region}: not annotated in {len(without)} case(s) ({listed(without)}), and no folder predicts "
                "it; add one with -i"
            )


class _Labels:
    """Writes the completed label maps and keeps the origin of every region."""

    def __init__(
        self, raw: RawDataset, teachers: Sequence[PredictionFolder], reader: LabelMapReader, least_confidence: float
    ) -> None:
        taskset = raw.taskset
        self.raw, self.teachers, self.reader, self.least_confidence = raw, teachers, reader, least_confidence
        self.completer = Completer(taskset.region_labels, taskset.regions_class_order, taskset.ignore_label)
        self.n_leaves = len(self.completer.membership)
        self.provenance: dict[str, dict[str, Provenance]] = {}

    def complete(self, case: str, label: Path, folder: Path) -> None:
        """Write the completed label map of a case, unless the map or a prediction has a problem."""
        n_problems = len(self.reader.problems)
        annotated = np.array(self.raw.taskset.annotated(case))
        teachers = [teacher for teacher in self.teachers if any(not annotated[region] for region in teacher.channels)]
        n_values = self.n_leaves + (self.raw.taskset.ignore_label is not None)
        annotation = self.reader.read(label, n_values)
        name = f"{case}{self.raw.file_ending}"
        maps = [self.reader.read(teacher.folder / name, teacher.n_values, annotation) for teacher in teachers]
        files = [self._probability_file(teacher, case) for teacher in teachers]
        if annotation is None or len(self.reader.problems) > n_problems:
            return
        together = combinations([annotation.labels, *(one.labels for one in maps if one is not None)])
        predicted = np.zeros((len(together.values), len(annotated)), np.bool_)
        for place, teacher in enumerate(teachers, start=1):
            predicted |= teacher.regions(together.values[:, place], len(annotated))
        completion = self.completer.complete(together.values[:, 0], predicted, annotated)
        entries = self._annotated(together, annotated)
        for teacher, file in zip(teachers, files, strict=True):
            entries |= self._predicted(teacher, file, together, completion, annotated)
        self.provenance[case] = {region: entries[region] for region in self.raw.taskset.regions if region in entries}
        if annotated.all():
            link_label(case, label, folder, self.raw.file_ending)
        else:
            self._write(folder / name, annotation, together, completion, self.provenance[case])

    def description(self, name: str) -> dict[str, Any]:
        """Return the content of `dataset.json`, with an ignore label if the source has one or a map uses one."""
        labels = dict(self.raw.dataset_json["labels"])
        if any(entry.ignored for regions in self.provenance.values() for entry in regions.values()):
            labels["ignore"] = self.n_leaves
        channels = channel_names(self.raw.dataset_json, channels_kept(self.raw.taskset, None))
        return self.raw.description(name, len(self.raw.training), labels=labels, **channels)

    def _write(
        self,
        path: Path,
        annotation: LabelMap,
        together: Combinations,
        completion: Completion,
        entries: dict[str, Provenance],
    ) -> None:
        leaves = completion.leaves.astype(np.uint16)
        for number, region in enumerate(self.raw.taskset.regions):
            if entries[region].ignored:
                leaves[completion.filled[:, number]] = self.n_leaves
        self.reader.write(path, leaves[together.of_voxel], annotation)

    def _annotated(self, together: Combinations, annotated: npt.NDArray[np.bool_]) -> dict[str, Provenance]:
        labels = together.values[:, 0]
        known = labels < self.n_leaves  # the ignore label is above
        voxels = together.voxels[known] @ self.completer.membership[labels[known]]
        return {
            region: Provenance("annotated", None, int(voxels[number]))
            for number, region in enumerate(self.raw.taskset.regions)
            if annotated[number]
        }

    def _predicted(
        self,
        teacher: PredictionFolder,
        file: Path | None,
        together: Combinations,
        completion: Completion,
        annotated: npt.NDArray[np.bool_],
    ) -> dict[str, Provenance]:
        probabilities = self._probabilities(teacher, file, together.of_voxel.shape)
        entries = {}
        for number, channel in teacher.channels.items():
            if annotated[number]:
                continue
            filled, implied, dropped, overruled = (
                int(together.voxels @ table[:, number])
                for table in (completion.filled, completion.implied, completion.forbidden, completion.overruled)
            )
            mean = None
            if probabilities is not None and filled:
                mean = float(probabilities[channel][completion.filled[together.of_voxel, number]].mean(dtype=float))
            entries[self.raw.taskset.regions[number]] = Provenance(
                "predicted",
                str(teacher.folder.resolve()),
                filled,
                implied,
                dropped,
                overruled,
                mean,
                mean is not None and mean < self.least_confidence,
            )
        return entries

    def _probability_file(self, teacher: PredictionFolder, case: str) -> Path | None:
        file = teacher.folder / f"{case}.npz"
        if file.is_file():
            return file
        if self.least_confidence > 0:
            self.reader.problems.append(
                f"{file}: is not there, and --least_confidence needs it; predict with --save_probabilities"
            )
        return None

    def _probabilities(
        self, teacher: PredictionFolder, file: Path | None, shape: tuple[int, ...]
    ) -> Probabilities | None:
        """Return nnU-Net's saved probabilities on the grid of the label map, (C, *shape); None if there is a problem.

        A channel belongs to a region, or without regions to a class, background first.
        """
        if file is None:
            return None
        try:
            with np.load(file) as stored:
                probabilities: Probabilities = stored["probabilities"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            problem = f"cannot be read ({one_line(error)})"
        else:
            expected = (len(teacher.taskset.regions), *shape)
            if probabilities.shape == expected:
                return probabilities
            problem = f"holds {probabilities.shape}, not {expected}: channels and voxels"
        self.reader.problems.append(f"{file}: {problem}; predict again with --save_probabilities")
        return None
