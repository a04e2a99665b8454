"""The demonstration over several seeds: each seed's scores and their minimum, with command, device and commit.

python benchmarks/demo_seeds.py --seeds 0 1 2 --out benchmarks/results/demo.json
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Run the demonstration once per seed and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--compare", action="store_true", help="also train stock nnU-Net")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--folder", type=Path, help="where the demonstrations are kept; by default they are removed")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    runs = {str(seed): _run(seed, folder / f"seed_{seed}", options.compare) for seed in options.seeds}
    trainers = list(next(iter(runs.values()))["scores"])
    result = {
        "command": f"python benchmarks/demo_seeds.py {' '.join(sys.argv[1:])}",
        "commit": _output("git", "rev-parse", "HEAD"),
        "device": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "minimum": {trainer: _minimum([run["scores"][trainer] for run in runs.values()]) for trainer in trainers},
        "seeds": runs,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["minimum"], indent=1))
    if options.folder is None:
        shutil.rmtree(folder)


def _run(seed: int, folder: Path, compare: bool) -> dict[str, Any]:
    start = time.monotonic()
    words = ["nnunet_mtl", "demo", "--seed", str(seed), "--folder", str(folder), *(["--compare"] if compare else [])]
    subprocess.run([str(Path(sys.executable).parent / words[0]), *words[1:]], check=True)
    scores = json.loads((folder / "scores.json").read_text())
    kept = ("mean", "headline", "regions", "answers")
    brief = {trainer: {key: table[key] for key in kept if key in table} for trainer, table in scores.items()}
    return {"minutes": round((time.monotonic() - start) / 60, 1), "scores": brief}


def _minimum(scores: list[dict[str, Any]]) -> dict[str, float]:
    return {kind: min(score["headline"][kind] for score in scores) for kind in scores[0]["headline"]}


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
