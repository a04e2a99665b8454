"""The method of docs/add-a-method.md, in a folder of a user who has installed the wheel and has no checkout."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "add-a-method.md").read_text(encoding="utf-8")
EXAMPLE = PAGE[: PAGE.index("## In this package")]
FILES = dict(re.findall(r"\*\*\d\. Write [^`]*`([^`]+)`.*?```python\n(.*?)```", EXAMPLE, flags=re.DOTALL))
COMMANDS = "".join(re.findall(r"```bash\n(.*?)```", EXAMPLE, flags=re.DOTALL))
TRAINER = "nnUNetTrainerSkipExcitation"
# What a reader with a GPU and time leaves out, by command.
SMALL = {
    "nnunet_mtl methods": "-p tiny",
    "nnUNetv2_train": "-p tiny -device cpu",
    "nnunet_mtl predict": "-p tiny -device cpu -npp 0 -nps 0",
    "nnUNetv2_predict": "-p tiny -device cpu -npp 0 -nps 0 --disable_tta",
}
SCRIPT = """#!{python}
import sys
from importlib.metadata import entry_points
if __name__ == "__main__":
    (command,) = entry_points(group="console_scripts", name="{name}")
    sys.exit(command.load()())
"""
SAME_CLASS_EVERYWHERE = f"""
import multiprocessing, pickle
import nnunet_mtl
from nnunet_mtl.discovery import look_up
trainer = look_up("{TRAINER}")
assert look_up("{TRAINER}") is trainer
assert pickle.loads(pickle.dumps(trainer)) is trainer
with multiprocessing.get_context("spawn").Pool(1) as pool:
    assert pool.apply(getattr, (trainer, "__name__")) == "{TRAINER}"
print(trainer.__module__, nnunet_mtl.__file__)
"""


def install(wheel: Path, folder: Path) -> Path:
    """Install the wheel into a new environment that borrows the dependencies of this one; return its bin folder."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # A line with a path adds that folder only; the .pth files in it, the editable installation's too, are not read.
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(borrowed))
    for name in ("nnunet_mtl", "nnUNetv2_train", "nnUNetv2_predict"):
        script = folder / "bin" / name
        script.write_text(SCRIPT.format(python=folder / "bin" / "python", name=name))
        script.chmod(0o755)
    return folder / "bin"


@pytest.fixture(scope="module")
def mine(prepared: Any, built_wheel: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Follow the page: write its files, run its commands; what was printed, and a call of the environment's Python."""
    root = tmp_path_factory.mktemp("own")
    folder = root / "mine"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    (folder / "in").mkdir()
    for case in ("liver_000", "kidney_001"):
        image = f"{case}_0000.nii.gz"
        (folder / "in" / image).symlink_to(prepared.raw / "imagesTr" / image)
    binaries = install(built_wheel.path, root / "environment")
    bare = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV", "nnUNet_ext"))}
    environment = bare | {"PATH": f"{binaries}:{os.environ['PATH']}", "nnUNet_results": str(root / "results")}
    (root / "results").mkdir()

    def bash(script: str) -> str:
        words = ["bash", "-euc", script]
        run = subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    lines = [
        next((f"{line} {words}" for command, words in SMALL.items() if line.startswith(command)), line)
        for line in COMMANDS.splitlines()
    ]
    return folder, root / "results" / "Dataset900_Tiny" / f"{TRAINER}__tiny__3d_fullres", bash("\n".join(lines)), bash


def test_the_page_has_a_module_a_leaf_and_a_shim() -> None:
    module, leaf, shim = FILES.items()
    assert (module[0], leaf[0], shim[0]) == (
        "my_methods/skip_excitation.py",
        f"my_methods/{TRAINER}.py",
        "shim/my_methods_shim.py",
    )
    assert all(re.search(rf"^{command} ", COMMANDS, flags=re.MULTILINE) for command in SMALL)


def test_the_table_of_methods_has_it(mine: Any) -> None:
    (row,) = [line for line in mine[2].splitlines() if line.startswith(f"{TRAINER} ")]
    # skips of 8 and of 4 channels, and 4 hidden units for both: weights and biases of two layers
    added = sum(2 * 4 * skip + 4 + skip for skip in (8, 4))
    assert re.split(r"\s{2,}", row)[1:4] == ["Hu et al., CVPR 2018", "nowhere", "1"]
    assert f" +{added} (" in row


def test_it_trains(mine: Any) -> None:
    model = mine[1]
    plans = json.loads((model / "plans.json").read_text())
    stored = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["task_attention"]
    assert stored == "my_methods.skip_excitation.SkipExcitation"
    checkpoint = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert checkpoint["trainer_name"] == TRAINER
    assert checkpoint["network_weights"]["task_attention.0.excite.0.weight"].shape == (4, 8)
    assert (model / "fold_0" / "validation" / "summary.json").is_file()


def test_both_commands_predict_the_same_files(mine: Any) -> None:
    ours, stock = (
        {path.name: path.read_bytes() for path in (mine[0] / name).glob("*.nii.gz")} for name in ("out", "out_stock")
    )
    assert sorted(ours) == ["kidney_001.nii.gz", "liver_000.nii.gz"]
    assert ours == stock
    assert (mine[0] / "out" / "classification.csv").is_file()


def test_the_trainer_is_the_same_class_everywhere_and_comes_from_the_wheel(mine: Any) -> None:
    announced = COMMANDS.splitlines()[0]
    module, package = mine[3](f"{announced}\npython -c '{SAME_CLASS_EVERYWHERE}'").split()
    assert module == f"my_methods.{TRAINER}"
    assert Path(package).is_relative_to(mine[0].parent / "environment")
