"""What a wheel and a source distribution hold, and that each works away from the checkout."""

import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

from nnunet_mtl import __version__

ROOT = Path(__file__).parents[1]
SOURCES = {
    "nnunet_mtl": "nnunet_mtl",
    "trainers": "nnunet_mtl/trainers",
    "planners": "nnunet_mtl/planners",
}  # folder of the checkout: where a wheel has it

DIST_INFO = f"nnunet_mtl-{__version__}.dist-info"

pytestmark = pytest.mark.slow


def _content(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


@pytest.fixture(scope="module")
def built(built_wheel, tmp_path_factory):
    """What is to be packed, the wheel, and the source distribution with the wheel that is built from it."""
    expected = {
        f"{target}/{path.relative_to(built_wheel.checkout / name).as_posix()}": path.read_bytes()
        for name, target in SOURCES.items()
        for path in (built_wheel.checkout / name).rglob("*")
        if path.is_file()
    }
    return expected, built_wheel.path, built_wheel.build(tmp_path_factory.mktemp("both"))


def test_the_wheel_holds_the_package_and_nothing_beside_it(built):
    expected, wheel, _ = built
    content = _content(wheel)
    assert {name.split("/")[0] for name in content} == {"nnunet_mtl", DIST_INFO}
    assert {name: data for name, data in content.items() if name.startswith("nnunet_mtl/")} == expected
    for name in ("py.typed", "discovery/ext_trainers/nnunet_mtl_shim.py", "trainers/nnUNetTrainerMTLAttention.py"):
        assert f"nnunet_mtl/{name}" in expected
    assert any(name.endswith("/licenses/LICENSE") for name in content)


def test_the_wheel_of_the_source_distribution_is_the_same(built):
    _, wheel, both = built
    assert _content(both[".whl"]) == _content(wheel)
    with tarfile.open(both[".gz"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "setup.cfg", "pyproject.toml", "trainers", "planners", "nnunet_mtl"} <= names


def test_the_wheel_declares_its_command_and_its_dependency(built):
    content = _content(built[1])
    entry_points = ConfigParser()
    entry_points.read_string(content[f"{DIST_INFO}/entry_points.txt"].decode())
    assert dict(entry_points["console_scripts"]) == {"nnunet_mtl": "nnunet_mtl.cli:main"}
    metadata = content[f"{DIST_INFO}/METADATA"].decode()
    assert "Requires-Dist: nnunetv2" in metadata
    assert "License-Expression: Apache-2.0" in metadata or "License: Apache-2.0" in metadata


def test_an_unpacked_wheel_is_complete_without_the_checkout(built, tmp_path):
    with zipfile.ZipFile(built[1]) as archive:
        archive.extractall(tmp_path / "site")
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path / "site")!r})
import nnunet_mtl, nnunet_mtl.trainers, nnunet_mtl.planners
from nnunet_mtl import cli, discovery
print(nnunet_mtl.__file__, nnunet_mtl.trainers.__file__, nnunet_mtl.planners.__file__, discovery.shim_folder())
cli.main(["env"])
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    places, line = run.stdout.splitlines()
    assert all(place.startswith(str(tmp_path / "site" / "nnunet_mtl")) for place in places.split())
    assert line.startswith("export nnUNet_extTrainer=")
    assert str(tmp_path / "site" / "nnunet_mtl" / "discovery" / "ext_trainers") in line
