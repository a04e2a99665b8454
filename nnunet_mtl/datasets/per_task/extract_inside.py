"""`nnunet_mtl extract --inside_parent`: writes the data set for one network of a cascade, crops around the parent.

The images of a training case are cut to the box around the parent's annotation. The origin of a crop is that of its
first voxel, so voxels keep their place in the world. The label values of the task are among its parent's, so no voxel
of the task is cut off.
"""

from collections import Counter
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from tqdm import tqdm  # type: ignore[import-untyped]  # it ships no types

from nnunet_mtl.common.messages import did_you_mean, listed, shown
from nnunet_mtl.datasets.file_integrity import file_problem
from nnunet_mtl.datasets.label_maps import LabelMapReader, refuse
from nnunet_mtl.datasets.per_task.extracted_block import Chosen, channel_names, channels_kept, restricted
from nnunet_mtl.datasets.per_task.extracted_labels import TaskLabels, regions_of, structure_of
from nnunet_mtl.datasets.per_task.parent_box import DEFAULT_MARGIN_MM, Box, description_of, parent_box
from nnunet_mtl.datasets.raw_dataset import (
    CaseFiles,
    RawDataset,
    RawDatasetError,
    link_spacing,
    place_of,
    plain_name,
    write_description,
    written_whole,
)
from nnunet_mtl.tasks import TaskSet


def extract_inside(
    source: Path,
    tasks: Sequence[str],
    dataset_id: int,
    name: str | None = None,
    *,
    margin_mm: float = DEFAULT_MARGIN_MM,
    with_block: bool = False,
) -> str:
    """Write a data set of one task inside its parent.

    The data set has the training cases in which every region of task and parent was annotated and the parent is not
    empty, and the source's folds for these cases. It has no test images: test cases have no annotation to crop by, so
    `nnunet_mtl cascade-predict` crops them by the parent's prediction.

    Args:
        source: Folder of the data set in `nnUNet_raw`; without a block, every region is a task.
        tasks: Name of exactly one task, which must have a parent.
        dataset_id: Number of the new data set, which lies beside the source.
        name: Name of the new data set; by default the source's name with task and parent.
        margin_mm: Margin around the parent on every side.
        with_block: Keep the block, restricted to this task.

    Returns:
        Text for the user: cases left out, the data set written, and the next command.

    Raises:
        UserError: If the data set, the task, a number or a file is invalid; nothing is written then.
    """
    if not (isfinite(margin_mm) and margin_mm >= 0):
        raise RawDatasetError(f"--margin {margin_mm:g}: must be a number of mm, 0 or more")
    raw = RawDataset.read(source, regions_are_tasks=not with_block)
    chosen = Chosen.from_names(raw.taskset, tasks, [], source.name)
    if chosen.names != chosen.segmentations or len(chosen.names) > 1:
        raise RawDatasetError(f"-t {' '.join(tasks)}: --inside_parent makes crops for one segmentation task; name that")
    task = chosen.names[0]
    parent = parent_of(raw.taskset, task, source.name)
    target = place_of(source, dataset_id, name or plain_name(source, f"{task}_inside_{parent}"))
    labels = TaskLabels.of_tasks(raw.taskset, [task], plain=not with_block)
    crops = _Crops(raw, parent, labels, LabelMapReader(raw.reader(), []), margin_mm)
    with written_whole(target) as folder:
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir()
        kept = [case for case in tqdm(raw.training, desc="crops", unit="case") if crops.write(case, folder)]
        refuse(crops.reader.problems)
        if not kept:
            raise RawDatasetError(f"{source.name}: no training case of {shown(task)} is left ({crops.left_out()})")
        splits = raw.splits(kept)
        keys: dict[str, Any] = {
            "labels": labels.labels,
            "regions_class_order": labels.order,
            **channel_names(raw.dataset_json, crops.channels),
            **description_of(task, parent, margin_mm),
        }
        if with_block:
            block = restricted(raw.taskset, chosen).to_block()
            keys["nnunet_mtl"] = block | {"cases": {case: block["cases"][case] for case in kept}}
        write_description(folder, raw.description(target.name, len(kept), **keys), splits)
    folds = ", the same folds" if splits is not None else ""
    return (
        f"{task} inside {parent}: {len(kept)} of {len(raw.training)} training cases; left out: {crops.left_out()}\n"
        f"wrote {target}: crops of {crops.share():.0%} of the images, labels {labels}{folds}; "
        f"next: nnUNetv2_plan_and_preprocess -d {dataset_id} --verify_dataset_integrity"
    )


def parent_of(taskset: TaskSet, task: str, source: str) -> str:
    """Return the name of a task's parent.

    Raises:
        RawDatasetError: If the task has no parent, or a label value that is not the parent's.
    """
    parents = {entry.name: entry.parent for entry in taskset.tasks}
    parent = parents.get(task)
    if parent is None:
        inner = listed(name for name, outer in parents.items() if outer) or "none"
        similar = "" if task in parents else did_you_mean(task, parents)
        raise RawDatasetError(
            f"-t {shown(task)}: has no parent in {source}{similar}, those that have one: {inner}; "
            "leave --inside_parent out"
        )
    outside = set(structure_of(taskset, task)) - set(structure_of(taskset, parent))
    if outside:
        raise RawDatasetError(
            f"-t {shown(task)}: its label values {sorted(outside)} are not among those of its parent {parent}, so it "
            "would be cut away; add them to a region of the parent"
        )
    return parent


class _Crops:
    """Cuts training cases to the box around the parent.

    Args:
        raw: The data set.
        parent: Name of the parent task.
        labels: Labels of the task in the new data set.
        reader: Reads label maps.
        margin_mm: Margin around the parent on every side.
    """

    def __init__(
        self, raw: RawDataset, parent: str, labels: TaskLabels, reader: LabelMapReader, margin_mm: float
    ) -> None:
        self.raw, self.labels, self.reader, self.margin_mm = raw, labels, reader, margin_mm
        self.channels = channels_kept(raw.taskset, None)
        self._parent_regions = regions_of(raw.taskset, [parent])
        self._parent_values = np.zeros(len(labels.renumbered), np.bool_)
        self._parent_values[list(structure_of(raw.taskset, parent))] = True
        self._left_out: Counter[str] = Counter()
        self._shares: list[float] = []
        if "Reorient" in type(reader.reader).__name__:
            # such a reader turns the array, so that the box would not fit the file
            raise RawDatasetError(
                f"{type(reader.reader).__name__}: turns the images it reads, and crops would lie elsewhere; name "
                'another "overwrite_image_reader_writer" in dataset.json, or reorient the files'
            )

    def write(self, case: str, folder: Path) -> bool:
        """Write the crop of a case; return whether a crop was written."""
        known = self.raw.taskset.annotated(case)
        for regions, what in ((self._parent_regions, "parent"), (self.labels.regions, "task")):
            if not all(known[region] for region in regions):
                return self._leave_out(f"{what} not wholly annotated")
        files, n_problems = self.raw.training[case], len(self.reader.problems)
        label = self.reader.read(files.label, len(self.labels.renumbered))
        if label is None or len(self.reader.problems) > n_problems:
            return False
        inside = self._parent_values[label.labels]
        box = parent_box(inside, label.properties["spacing"], self.margin_mm)
        if box is None:
            return self._leave_out("parent empty")
        values = self.labels.renumbered[label.labels]
        self._cut(case, files, folder, box, values.astype(np.uint8) if values.max() < 256 else values)
        self._shares.append(np.prod([side.stop - side.start for side in box]) / inside.size)
        return True

    def _cut(self, case: str, files: CaseFiles, folder: Path, box: Box, values: Any) -> None:
        ending = self.raw.file_ending
        images = files.images if self.channels is None else [files.images[channel] for channel in self.channels]
        for channel, path in enumerate(images):
            _write(_crop(path, box, values.shape), folder / "imagesTr" / f"{case}_{channel:04d}{ending}")
        link_spacing(files.images[0], f"_0000{ending}", folder / "imagesTr" / f"{case}.json")
        reference = _crop(files.label, box, values.shape)
        crop = SimpleITK.GetImageFromArray(values[box].reshape(reference.GetSize()[::-1]))
        crop.CopyInformation(reference)
        _write(crop, folder / "labelsTr" / f"{case}{ending}")
        link_spacing(files.label, ending, folder / "labelsTr" / f"{case}.json")

    def _leave_out(self, reason: str) -> bool:
        self._left_out[reason] += 1
        return False

    def left_out(self) -> str:
        """Return a text with the number of cases left out for every reason."""
        return ", ".join(f"{number} {reason}" for reason, number in sorted(self._left_out.items())) or "none"

    def share(self) -> float:
        """Return the mean share of an image's voxels that are in its crop."""
        return float(np.mean(self._shares))


def _crop(path: Path, box: Box, shape: Sequence[int]) -> Any:
    """Return the part of an image inside a box; the origin of the part is that of its first voxel.

    Args:
        path: File of the image.
        box: Slices in the order of arrays, (Z, Y, X); a 2D image has one slice in Z.
        shape: Shape of the label map, (Z, Y, X).

    Raises:
        RawDatasetError: If the image cannot be read or has another shape.
    """
    if problem := file_problem(path):  # SimpleITK fills with zeros what a file lacks
        raise RawDatasetError(f"{path}: cannot be read ({problem}); write the image again")
    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError:
        raise RawDatasetError(f"{path}: cannot be read; write the image again") from None
    size = image.GetSize()[::-1]
    if tuple(size) != tuple(shape)[-len(size) :]:
        raise RawDatasetError(f"{path}: {size} voxels, its label map has {tuple(shape)}; both must be on one grid")
    return image[tuple(box[-len(size) :][::-1])]


def _write(image: Any, path: Path) -> None:
    try:
        SimpleITK.WriteImage(image, str(path), useCompression=True)
    except RuntimeError:
        raise RawDatasetError(f"{path.name}: the crop cannot be written; check the disk, nothing was written") from None
