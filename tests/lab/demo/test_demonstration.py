from pathlib import Path

import pytest

from nnunet_mtl.lab.demo.demonstration import DemoError, DemoOptions, run_demo
from nnunet_mtl.lab.demo.recipes import PHANTOM, PHANTOM_QUICK, REAL, REAL_QUICK
from nnunet_mtl.tasks.settings import Settings


def test_a_folder_of_the_users_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DemoError, match="did not write; give another --folder"):
        run_demo(DemoOptions(folder=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_comparing_needs_a_full_reference(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="--compare"):
        run_demo(DemoOptions(folder=tmp_path / "new", data="real", compare=True))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("recipe", [PHANTOM, PHANTOM_QUICK, REAL, REAL_QUICK])
def test_recipes_hold_settings_that_exist(recipe: object) -> None:
    assignments = [f"{name}={value}" for name, value in recipe.settings.items()]  # type: ignore[attr-defined]
    assert Settings.parse(assignments, {}).epochs == recipe.epochs  # type: ignore[attr-defined]


def test_the_options_choose_the_recipe(tmp_path: Path) -> None:
    chosen = [
        DemoOptions(folder=tmp_path, data=data, quick=quick).recipe
        for data in ("phantom", "real")
        for quick in (False, True)
    ]
    assert chosen == [PHANTOM, PHANTOM_QUICK, REAL, REAL_QUICK]
