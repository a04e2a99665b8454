"""Which regions of completed label maps were annotated and which were predicted, kept beside the labels."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from nnunet_mtl.common.files import write_json

PROVENANCE_NAME = "completed_labels"


@dataclass(frozen=True)
class Provenance:
    """Where one region of one case comes from.

    Attributes:
        origin: "annotated" or "predicted".
        teacher: Folder of the predictions; None for what was annotated.
        voxels: Of the region, as annotated, or as painted because it was predicted.
        implied_voxels: More of them, painted because the annotation of other regions leaves nothing else.
        dropped_voxels: Predicted, but forbidden by the annotation of other regions.
        overruled_voxels: Predicted, but no label stands for this and for what else was predicted there.
        mean_probability: Over `voxels`, by the teacher; None without its probabilities, or without voxels.
        ignored: Whether `voxels` became the ignore label because of that mean.
    """

    origin: str
    teacher: str | None
    voxels: int
    implied_voxels: int = 0
    dropped_voxels: int = 0
    overruled_voxels: int = 0
    mean_probability: float | None = None
    ignored: bool = False


# By case and region.
Table = Mapping[str, Mapping[str, Provenance]]


def write_provenance(folder: Path, table: Table, about: Mapping[str, Any]) -> None:
    """Write the table as `completed_labels.json`, with what holds for all of it, and as `completed_labels.csv`.

    Raises:
        OSError: If the folder cannot be written to.
    """
    cases = {case: {region: asdict(entry) for region, entry in regions.items()} for case, regions in table.items()}
    write_json(folder / f"{PROVENANCE_NAME}.json", {**about, "cases": cases})
    names = [field.name for field in fields(Provenance)]
    with (folder / f"{PROVENANCE_NAME}.csv").open("w", newline="", encoding="utf-8") as file:
        lines = csv.DictWriter(file, ["case", "region", *names])
        lines.writeheader()
        lines.writerows(
            {"case": case, "region": region, **entry}
            for case, regions in cases.items()
            for region, entry in regions.items()
        )


def summary(table: Table) -> str:
    """Return a line: how many cases every region was predicted in, and in how many of them it is ignored."""
    by_region: dict[str, list[Provenance]] = {}
    for regions in table.values():
        for region, entry in regions.items():
            by_region.setdefault(region, []).append(entry)
    return f"predicted: {', '.join(_counted(by_region))}"


def _counted(by_region: Mapping[str, list[Provenance]]) -> Iterator[str]:
    for region, entries in by_region.items():
        predicted = [entry for entry in entries if entry.origin == "predicted"]
        ignored = sum(entry.ignored for entry in predicted)
        yield f"{region} in {len(predicted)} of {len(entries)} cases" + (f" ({ignored} ignored)" if ignored else "")
