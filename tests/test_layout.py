"""The tests mirror the package: whoever changes a module knows the name of the file that tests it."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What is about no single module: chains through all rooms, and the files about the repository itself.
WHOLE = {"integration", "docs", "."}
# What every trainer must pass, whichever file it is in.
BATTERIES = {"contracts", "mechanisms", "overfitting", "published_defaults"}


def _subjects(room: Path) -> set[str]:
    """Return what a test file of a room may be about: a module, the room as a whole, or a page of the documentation."""
    tops = ROOT if room.parts[:1] in (("trainers",), ("planners",), ("benchmarks",)) else ROOT / "nnunet_mtl"
    if not (tops / room).is_dir():
        return set()
    modules = {path.stem for path in (tops / room).glob("*.py")} - {"__init__"}
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    return modules | pages | {room.name} | (BATTERIES if room.name == "trainers" else set())


def _strangers(rooms: Path) -> Iterator[str]:
    for path in sorted(rooms.rglob("test_*.py")):
        room = path.parent.relative_to(rooms)
        name = path.stem.removeprefix("test_")
        named = any(name == subject or name.startswith(f"{subject}_") for subject in _subjects(room))
        if room.as_posix() not in WHOLE and not named:
            yield path.relative_to(rooms).as_posix()


def test_a_test_file_is_named_after_a_module_of_its_room() -> None:
    assert list(_strangers(ROOT / "tests")) == []


def test_a_test_file_that_mirrors_nothing_is_seen(tmp_path: Path) -> None:
    names = ("tasks/test_labels.py", "tasks/test_labels_twice.py", "tasks/test_label.py", "labels/test_labels.py")
    for name in (*names, "planners/test_nnUNetPlannerMTL.py", "integration/test_all.py", "test_repository.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(_strangers(tmp_path)) == ["labels/test_labels.py", "tasks/test_label.py"]
