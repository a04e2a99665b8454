"""What the surface metrics of a pair of masks cost, and how they compare with MONAI's where it is installed.

python benchmarks/metrics.py --out benchmarks/results/metrics.json

HD95, ASSD, MSSD and NSD together, on one core (this sets the threads of all libraries to one). Seconds are CPU seconds
of this process, the least of the repeats; a machine that is busy with something else makes them longer, so the load is
noted. MONAI computes each metric from the masks anew, and once: HD95, HD, ASSD and NSD in its sub-voxel form.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402 - reads the number of threads when it is imported
from numpy.typing import NDArray  # noqa: E402

from nnunet_mtl.evaluation.metrics.surface_distance import SurfacePair  # noqa: E402

SPACINGS_MM = ((1.0, 1.0, 1.0), (3.0, 0.8, 0.8))
TOLERANCE_MM = 2.0

Masks = tuple[NDArray[np.bool_], NDArray[np.bool_]]


def main() -> None:
    """Time every pair, print a line each and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=200, help="voxels along each axis")
    parser.add_argument("--repeats", type=int, default=5, help="how often ours are timed")
    parser.add_argument("--out", type=Path, required=True, help="JSON file that is written")
    options = parser.parse_args()
    commit = _output("git", "rev-parse", "HEAD")
    monai = monai_metrics()
    rows = []
    for name, masks in pairs(options.size).items():
        for spacing_mm in SPACINGS_MM:
            row = {"pair": name, "spacing_mm": spacing_mm, **timed(*masks(), spacing_mm, options.repeats, monai)}
            print(json.dumps(row), flush=True)
            rows.append(row)
    slowest = max(row["seconds"] for row in rows)
    result = {
        "command": f"python benchmarks/metrics.py {' '.join(sys.argv[1:])}",
        "commit": commit,
        "device": f"{platform.machine()}, one of {os.cpu_count()} CPU cores",
        "load": [round(load, 1) for load in os.getloadavg()],
        "versions": {name: version(name) for name in ("numpy", "scipy", *(["monai"] if monai else []))},
        "slowest_seconds": slowest,
        "pairs": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"slowest: {slowest} s")


def pairs(size: int) -> dict[str, Callable[[], Masks]]:
    """Return what to compare: sets that good predictions look like, and sets that are hard to search."""
    shape = (size,) * 3

    def ball(centre: tuple[float, float, float], radius: float) -> NDArray[np.bool_]:
        axes = np.ogrid[tuple(slice(0, size) for _ in shape)]
        squares = [(axis - c * size) ** 2 for axis, c in zip(axes, centre, strict=True)]
        return np.asarray(sum(squares) < (radius * size) ** 2)

    def noise(density: float, seed: int) -> NDArray[np.bool_]:
        return np.random.default_rng(seed).random(shape) < density

    middle = (0.5, 0.5, 0.5)
    full = np.ones(shape, dtype=bool)
    return {
        "small: balls of 8 voxels, 2 apart": lambda: (ball(middle, 0.04), ball((0.51, 0.505, 0.495), 0.04)),
        "large: balls of 80 voxels, 4 apart": lambda: (ball(middle, 0.4), ball((0.515, 0.505, 0.49), 0.41)),
        "filling: the image and a box two voxels smaller": lambda: (full, np.pad(full[2:-2, 2:-2, 2:-2], 2)),
        "filling: noise, half of all voxels": lambda: (noise(0.5, 0), noise(0.5, 1)),
        "far: balls in opposite corners": lambda: (ball((0.15,) * 3, 0.125), ball((0.8,) * 3, 0.175)),
        "far: the image and a small ball": lambda: (full, ball(middle, 0.04)),
        "far: the image and a large ball": lambda: (full, ball(middle, 0.3)),
        "far: a ball within a ball": lambda: (ball(middle, 0.3), ball(middle, 0.475)),
        "far: noise, a twentieth of all voxels, and a ball": lambda: (noise(0.05, 0), ball(middle, 0.3)),
    }


def timed(
    prediction: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    spacing_mm: tuple[float, ...],
    repeats: int,
    monai: Callable[..., dict[str, float]] | None,
) -> dict[str, Any]:
    """Return seconds and metrics of ours and, if there, MONAI's seconds and the largest difference between the two.

    Differences of numbers above 1 are relative: MONAI's have 32 bits.
    """
    row: dict[str, Any] = {}
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        surfaces = SurfacePair(prediction, reference, spacing_mm)
        values = {
            "hd95_mm": surfaces.hd95_mm(),
            "mssd_mm": surfaces.mssd_mm(),
            "assd_mm": surfaces.assd_mm(),
            "nsd": surfaces.nsd(TOLERANCE_MM),
        }
        seconds = (time.process_time() - cpu, time.perf_counter() - wall)
        best = min(seconds, row.get("best", seconds))
        row = {"best": best, "values": values}
    row = {"seconds": round(row["best"][0], 3), "wall_seconds": round(row["best"][1], 3), **row["values"]}
    if monai is not None:
        cpu = time.process_time()
        theirs = monai(prediction, reference, spacing_mm)
        row["monai_seconds"] = round(time.process_time() - cpu, 3)
        differences = (abs(theirs[name] - row[name]) / max(row[name], 1) for name in theirs)
        row["largest_difference_from_monai"] = float(f"{max(differences):.1e}")
    return row


def monai_metrics() -> Callable[..., dict[str, float]] | None:
    """Return MONAI's metrics of a pair of masks as a function; None where it is not installed."""
    try:
        from monai import metrics
    except ImportError:
        return None
    import torch

    torch.set_num_threads(1)

    def compute(
        prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing_mm: tuple[float, ...]
    ) -> dict[str, float]:
        masks = [torch.from_numpy(mask)[None, None] for mask in (prediction, reference)]
        options: dict[str, Any] = {"include_background": True, "spacing": spacing_mm}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # MONAI's, about its own call
            nsd = metrics.compute_surface_dice(*masks, [TOLERANCE_MM], use_subvoxels=True, **options)
            return {
                "hd95_mm": metrics.compute_hausdorff_distance(*masks, percentile=95, **options).item(),
                "mssd_mm": metrics.compute_hausdorff_distance(*masks, **options).item(),
                "assd_mm": metrics.compute_average_surface_distance(*masks, symmetric=True, **options).item(),
                "nsd": nsd.item(),
            }

    return compute


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
