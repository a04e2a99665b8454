"""The record of completed label maps: which regions were annotated in a case, and which were predicted."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from nnunet_mtl.common.files import write_json

PROVENANCE_NAME = "completed_labels"


@dataclass(frozen=True)
class Provenance:
    """The origin of one region in one case.

    Attributes:
        origin: "annotated" or "predicted".
        teacher: Folder of the predictions; None for an annotated region.
        voxels: Number of annotated voxels, or of voxels painted because of the prediction.
        implied_voxels: Number of further voxels, painted because the annotation of other regions allows nothing else.
        dropped_voxels: Number of predicted voxels that the annotation of other regions forbids.
        overruled_voxels: Number of predicted voxels not painted, because no label agrees with all predictions there.
        mean_probability: Mean of the teacher's probability over `voxels`; None without probabilities or voxels.
        ignored: Whether `voxels` got the ignore label because of a small mean probability.
    """

    origin: str
    teacher: str | None
    voxels: int
    implied_voxels: int = 0
    dropped_voxels: int = 0
    overruled_voxels: int = 0
    mean_probability: float | None = None
    ignored: bool = False


Table = Mapping[str, Mapping[str, Provenance]]  # by case, then region


def write_provenance(folder: Path, table: Table, about: Mapping[str, Any]) -> None:
    """Write the table as `completed_labels.csv` and, with `about` beside it, as `completed_labels.json`.

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
    """Return a line with the number of cases in which every region was predicted, and in which it is ignored."""
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
