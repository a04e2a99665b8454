"""Every shell block of README, CONTRIBUTING and docs is run on small data, line by line, page by page.

A block that cannot run here has `<!-- not run here: REASON -->` on the line above; NOT_RUN counts these blocks.
"""

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from nnunet_mtl.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
    if path.is_file()
]
NOT_RUN = {
    "README.md": 2,
    "CONTRIBUTING.md": 7,
    "docs/add-a-method.md": 2,
    "docs/loss_weighting.md": 1,
    "docs/phantoms.md": 1,
    "docs/predict.md": 1,
    "docs/start.md": 4,
}
FENCE = re.compile(r"^(?P<above>[^\n]*)\n(?P<fence> *```bash\n)(?P<lines>.*?)^ *```$", flags=re.MULTILINE | re.DOTALL)
MARKER = re.compile(r"<!-- not run here:(?P<reason>.*)-->")
SHELL_ELSEWHERE = re.compile(r"^( *```(sh|shell|console)$| *(\$ )?(nnunet_mtl|nnUNetv2_\w+) )", flags=re.MULTILINE)
ATTENTION = "nnUNetTrainerMTLAttention"


@dataclass(frozen=True)
class Line:
    """A line of a block, with what is continued after a backslash."""

    page: str
    number: int
    text: str

    @property
    def commands(self) -> list[str]:
        return [part.strip() for part in self.text.split("&&")]


@dataclass(frozen=True)
class Block:
    """A block: its lines, and why they are not run, None where they are."""

    lines: tuple[Line, ...]
    reason: str | None


def blocks_of(page: str, text: str) -> Iterator[Block]:
    for found in FENCE.finditer("\n" + text):
        marker = MARKER.fullmatch(found["above"].strip())
        number = text[: found.start("lines") - 1].count("\n") + 1
        lines = []
        for joined in re.findall(r"(?:[^\n]*\\\n)*[^\n]*\n", found["lines"]):
            if (line := " ".join(joined.replace("\\\n", " ").split())) and not line.startswith("#"):
                lines.append(Line(page, number, line))
            number += joined.count("\n")
        yield Block(tuple(lines), marker["reason"].strip() if marker else None)


TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
BLOCKS = {page: list(blocks_of(page, text)) for page, text in TEXTS.items()}
LINES_NOT_RUN = [line for blocks in BLOCKS.values() for block in blocks if block.reason for line in block.lines]


# What the reader of a page has before its first line, besides data set 900.


class Desk:
    """A page's folder: data set 900, its test images as `in` and `imagesTs`, their truth as `labelsTs`."""

    def __init__(self, shell: Any, raw_union: Path) -> None:
        self.shell, self.folder = shell, shell.folder
        self.union = Path(shutil.copytree(raw_union, self.folder / "nnUNet_raw" / raw_union.name))
        for name in ("in", "imagesTs"):
            (self.folder / name).symlink_to(self.union / "imagesTs")
        for name in ("labelsTs", "labelsTs.json"):
            (self.folder / name).symlink_to(self.union / name)

    def run(self, *lines: str) -> None:
        for line in lines:
            done = self.shell.run(line)
            assert done.status == 0, f"{line}\n{done.output}"

    def take(self, prepared: Path) -> None:
        """Copy what was planned, preprocessed and trained once for all pages."""
        for name in ("nnUNet_preprocessed", "nnUNet_results"):
            shutil.copytree(prepared / name, self.folder / name, dirs_exist_ok=True)
        (model,) = (self.folder / "nnUNet_results").glob("*/*")
        for name in ("MODEL_FOLDER", "FOLDER"):
            (self.folder / name).symlink_to(model)

    def predicted(self, *names: str, tasks: tuple[str, ...] | None = None, part: str = "Ts") -> None:
        """Write folders as nnUNetv2_predict leaves them: the truth of the tasks, by default of all."""
        described = json.loads((self.union / "dataset.json").read_text())
        block = described.pop("nnunet_mtl")
        chosen = block["tasks"] if tasks is None else tasks
        of_tasks = {region for task in chosen for region in block["tasks"][task]["regions"]}
        painted = dict(zip(list(described["labels"])[1:], described["regions_class_order"], strict=True))
        painted = {region: value for region, value in painted.items() if region in of_tasks}
        new = {value: number for number, value in enumerate(painted.values(), start=1)}
        labels = {region: [new[value] for value in described["labels"][region]] for region in painted}
        described |= {"labels": {"background": 0} | labels, "regions_class_order": list(new.values())}
        if not labels:  # a network of questions alone
            described |= {"labels": {"background": 0, "nothing": [1, 1]}, "regions_class_order": [1]}
        for name in names:
            (self.folder / name).mkdir()
            (self.folder / name / "dataset.json").write_text(json.dumps(described))
            for path in (self.union / f"truth{part}").iterdir():
                truth = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
                shown = np.zeros_like(truth)
                for value, number in new.items():
                    shown[truth == value] = number
                SimpleITK.WriteImage(SimpleITK.GetImageFromArray(shown), str(self.folder / name / path.name))

    def answer(self, name: str) -> None:
        """Write the answers of a folder to the question about malignancy."""
        rows = [
            f"{path.name.removesuffix('.nii.gz')},malignancy,{answer},{probability},"
            for path in (self.union / "labelsTs").iterdir()
            for answer, probability in (("benign", 0.25), ("malignant", 0.75))
        ]
        head = "case,task,class,probability,evidence_volume_mm3"
        (self.folder / name / "classification.csv").write_text("\n".join([head, *rows, ""]))


# The pages speak of a union of liver and kidney: their `test_kidney` has all the tasks that `test_liver` has not.
OTHERS = ("kidney", "whole", "core", "enhancing")
PREPARE = (
    "nnUNetv2_plan_and_preprocess -d 900 --verify_dataset_integrity -c 3d_fullres",
    "nnunet_mtl make-splits -d 900",
    f"nnUNetv2_train 900 3d_fullres 0 -tr {ATTENTION}",
)


@pytest.fixture(scope="module")
def prepared(shell: Callable[[Path], Any], raw_union: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which data set 900 was planned, preprocessed and trained."""
    desk = Desk(shell(tmp_path_factory.mktemp("prepared")), raw_union)
    desk.run(*PREPARE)
    return desk.folder


def before_first_planning(desk: Desk, _: Path) -> None:
    """Nothing is planned yet."""


def before_phantoms(desk: Desk, _: Path) -> None:
    shutil.rmtree(desk.union)


def before_evaluation(desk: Desk, _: Path) -> None:
    desk.predicted("out", "out_tgnet", "out_dodnet")


def before_stl(desk: Desk, prepared: Path) -> None:
    desk.take(prepared)
    desk.predicted("test_hps")
    desk.predicted("test_kidney", tasks=OTHERS)
    desk.predicted("test_malignancy", tasks=())
    for name in ("test_hps", "test_malignancy"):
        desk.answer(name)


def before_multi_nets(desk: Desk, prepared: Path) -> None:
    desk.take(prepared)
    desk.predicted("out")
    desk.predicted("test_kidney", tasks=OTHERS)
    desk.predicted("train_kidney", tasks=OTHERS, part="Tr")


def before_postprocessing(desk: Desk, _: Path) -> None:
    desk.predicted("predictions")
    (desk.folder / "rules.json").write_text('{"liver": {"keep_largest": 1}}')


def before_regression(desk: Desk, _: Path) -> None:
    """A dose phantom that was trained, and one that is not planned yet."""
    (desk.folder / "imagesTs").unlink()
    (desk.folder / "in").unlink()
    desk.run("nnunet_mtl phantom -d 903 --kind dose --dimension 2 --name Dose")
    desk.run("nnUNetv2_plan_and_preprocess -d 903 -c 2d", "nnUNetv2_train 903 2d 0 -tr nnUNetTrainerHPS")
    shutil.copytree(desk.folder / "nnUNet_raw" / "Dataset903_Dose", desk.folder / "nnUNet_raw" / "Dataset904_Dose")
    for name in ("in", "imagesTs"):
        (desk.folder / name).symlink_to(desk.folder / "nnUNet_raw" / "Dataset904_Dose" / "imagesTs")


BEFORE: dict[str, Callable[[Desk, Path], None]] = {
    "README.md": before_first_planning,
    "docs/data.md": before_first_planning,
    "docs/evaluation.md": before_evaluation,
    "docs/multi_nets.md": before_multi_nets,
    "docs/phantoms.md": before_phantoms,
    "docs/postprocessing.md": before_postprocessing,
    "docs/regression.md": before_regression,
    "docs/stl.md": before_stl,
}


def option(words: list[str], name: str, default: str = "") -> str:
    return words[words.index(name) + 1] if name in words else default


def made_by(words: list[str]) -> list[str]:
    """Return patterns of what a command leaves in the page's folder, by the names in the command."""
    name = " ".join(words[:2]) if words[0] == "nnunet_mtl" else words[0]
    number, output = option(words, "-d"), option(words, "-o")
    if name == "nnUNetv2_train":
        trainer, plans = option(words, "-tr", "nnUNetTrainer"), option(words, "-p", "nnUNetPlans")
        fold = f"nnUNet_results/Dataset{words[1]}_*/{trainer}__{plans}__{words[2]}/fold_{words[3]}"
        return [f"{fold}/checkpoint_final.pth", f"{fold}/validation/summary.json"]
    if name in ("nnunet_mtl extract", "nnunet_mtl complete-labels"):
        return [f"nnUNet_raw/Dataset{output}_*/dataset.json"]
    if name == "nnunet_mtl plan":
        return [f"nnUNet_preprocessed/Dataset{number}_*/{option(words, '--name')}.json"]
    if name == "nnunet_mtl evaluate":
        return [f"{output}/*.md" if output else f"{option(words, '-pred')}/evaluation/summary.json"]
    if name.endswith(("predict", "merge-predictions", "postprocess")):
        return [f"{output}/*.nii.gz"]
    return [output] if output else []


def run_page(page: str, desk: Desk) -> None:
    for line in (line for block in BLOCKS[page] if block.reason is None for line in block.lines):
        for command in line.commands:
            words = shlex.split(command, comments=True)
            if words[:2] == ["nnunet_mtl", "find-best"]:  # presupposes what the page trains for fold 0 only
                trained = f"{words[2]} {option(words, '-c')} {{}} -tr {option(words, '-tr')}"
                desk.run(*(f"nnUNetv2_train {trained.format(fold)}" for fold in range(1, 5)))
            done = desk.shell.run(command)
            last = "\n".join(done.output.splitlines()[-15:])
            where = f"{page}:{line.number}: {command}"
            assert done.status == 0, f"{where}\nended with status {done.status}; last lines:\n{last}"
            for pattern in made_by(words):
                assert list(desk.folder.glob(pattern)), f"{where}\nleft no {pattern}; last lines:\n{last}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(block.reason is None for block in BLOCKS[page])])
def test_every_line_of_a_page_runs_in_order(
    page: str, shell: Callable[[Path], Any], raw_union: Path, prepared: Path, tmp_path: Path
) -> None:
    desk = Desk(shell(tmp_path), raw_union)
    BEFORE.get(page, Desk.take)(desk, prepared)
    run_page(page, desk)


def test_blocks_that_do_not_run_here_are_counted_and_say_why() -> None:
    marked = {page: [block for block in blocks if block.reason is not None] for page, blocks in BLOCKS.items()}
    assert {page: len(blocks) for page, blocks in marked.items() if blocks} == NOT_RUN
    for page, text in TEXTS.items():
        assert len(MARKER.findall(text)) == len(marked[page]), f"{page}: a marker that is not right above a block"
        for block in marked[page]:
            assert len(block.reason.split()) > 3, f"{page}:{block.lines[0].number}: no reason"


@pytest.mark.parametrize("page", PAGES)
def test_commands_stand_in_shell_blocks(page: str) -> None:
    """So that none is shown without being run."""
    rest = FENCE.sub("", "\n" + TEXTS[page])
    for fence in re.findall(r"^ *```.*?^ *```", rest, flags=re.MULTILINE | re.DOTALL):
        assert not SHELL_ELSEWHERE.search(fence), fence


OURS = [line for line in LINES_NOT_RUN for command in line.commands if command.startswith("nnunet_mtl ")]


@pytest.mark.parametrize("line", OURS, ids=lambda line: line.text)
def test_our_commands_that_do_not_run_here_are_understood(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    for command in line.commands:
        if command.startswith("nnunet_mtl "):
            with pytest.raises(SystemExit, match="2"):
                main([*shlex.split(command, comments=True)[1:], "--no_such_option"])
            assert capsys.readouterr().err.splitlines()[-1].endswith("unrecognized arguments: --no_such_option")
