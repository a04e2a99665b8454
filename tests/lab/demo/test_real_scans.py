import hashlib
import importlib.metadata
import io
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK
from packaging.requirements import Requirement

from nnunet_mtl.lab.demo import real_scans
from nnunet_mtl.lab.demo.real_scans import PYRADIOMICS, RealDataError, Release, fetch_real_cases, write_real_dataset
from nnunet_mtl.tasks import TaskSet, read_dataset_json

CASES = {"brain1": "brain", "brain2": "brain", "breast1": "breast", "lung1": "lung", "lung2": "lung"}
LEAVES = {"brain": 1, "breast": 2, "lung": 3}


def silent(_line: str) -> None:
    pass


def scan(values: np.ndarray) -> SimpleITK.Image:
    """A scan with a spacing, an origin and a mirrored axis of its own, as the real brain cases have."""
    image = SimpleITK.GetImageFromArray(values)
    image.SetSpacing((0.75, 0.5, 6.5))
    image.SetOrigin((-99.5, 99.5, -777.5))
    image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
    return image


def nrrd_files(folder: Path) -> dict[str, bytes]:
    files = {}
    for number, case in enumerate(CASES):
        values = np.random.default_rng(number).integers(-1024, 3071, (4, 6, 5)).astype(np.int16)
        mask = np.zeros(values.shape, np.int32)
        mask[1:3, 2:4, number % 3 + 1] = 1
        for kind, array in (("image", values), ("label", mask)):
            SimpleITK.WriteImage(scan(array), str(folder / "scan.nrrd"))
            files[f"data/{case}_{kind}.nrrd"] = (folder / "scan.nrrd").read_bytes()
    (folder / "scan.nrrd").unlink()
    return files


def pack(path: Path, files: dict[str, bytes], extra: tuple[tarfile.TarInfo, ...] = ()) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"scans-1.0/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in extra:
            tar.addfile(member)
    return path


def release_of(archive: Path, files: dict[str, bytes]) -> Release:
    return Release(
        name="scans",
        version="1.0",
        sha256=hashlib.sha256(archive.read_bytes()).hexdigest(),
        members={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    )


@pytest.fixture
def files(tmp_path):
    return nrrd_files(tmp_path)


@pytest.fixture
def archive(tmp_path, files):
    return pack(tmp_path / "scans-1.0.tar.gz", files)


@pytest.fixture
def release(archive, files):
    return release_of(archive, files)


def test_a_given_archive_is_checked_and_used_where_it_lies(archive, release, tmp_path):
    lines = []
    assert fetch_real_cases(tmp_path / "kept", source=archive, progress=lines.append, release=release) == archive
    assert not (tmp_path / "kept").exists()
    assert len(lines) == 1


def test_an_altered_archive_is_refused(archive, release, tmp_path):
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    with pytest.raises(RealDataError, match=rf"--source .*SHA-256 .*expected {release.sha256[:16]}.*scans==1\.0"):
        fetch_real_cases(tmp_path / "kept", source=archive, progress=silent, release=release)
    with pytest.raises(RealDataError, match="SHA-256"):
        write_real_dataset(archive, tmp_path / "raw", silent, release)
    assert not (tmp_path / "raw").exists()


def test_a_missing_source_is_refused_in_one_line(tmp_path):
    with pytest.raises(RealDataError, match=r"--source .*nowhere: no such file.*pyradiomics==3\.0\.1") as refusal:
        fetch_real_cases(tmp_path, source=tmp_path / "nowhere", progress=silent)
    assert "\n" not in str(refusal.value)


def test_an_archive_that_arrived_before_is_not_downloaded_again(archive, release, tmp_path):
    # The fixture's archive has the name that a download would get, and no index carries this release.
    assert fetch_real_cases(tmp_path, progress=silent, release=release) == archive


def test_a_newer_python_is_told_to_bring_the_archive(tmp_path, monkeypatch):
    monkeypatch.setattr(real_scans.sys, "version_info", (3, 12, 1, "final", 0))
    with pytest.raises(RealDataError, match=r"Python 3\.11 or older.*--source FILE") as refusal:
        fetch_real_cases(tmp_path / "kept", progress=silent)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "kept").exists()


@pytest.fixture
def local_index(tmp_path, monkeypatch):
    """pip itself, which finds nothing but what lies in this folder."""
    for name in ("pip", "setuptools>=70.1"):
        if not real_scans._is_installed(Requirement(name)):
            pytest.skip(f"{name} is not installed here")
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(real_scans.sys, "version_info", (3, 11, 7, "final", 0))
    return folder


def distribution(folder: Path, files: dict[str, bytes], trace: Path) -> tuple[Path, Release]:
    """A source distribution whose set-up leaves a trace that it was run."""
    setup = f"open({str(trace)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='scans', version='1.0')\n"
    archive = pack(folder / "scans-1.0.tar.gz", {**files, "setup.py": setup.encode()})
    return archive, release_of(archive, files)


def test_pip_fetches_the_release_by_name_and_version(local_index, files, tmp_path):
    archive, release = distribution(local_index, files, tmp_path / "trace")
    arrived = fetch_real_cases(tmp_path / "kept", progress=silent, release=release)
    assert arrived == tmp_path / "kept" / "scans-1.0.tar.gz"
    assert arrived.read_bytes() == archive.read_bytes()
    assert [path.name for path in arrived.parent.iterdir()] == [arrived.name]
    assert (tmp_path / "trace").exists()


def test_another_archive_under_that_name_is_not_kept_and_its_set_up_not_run(local_index, files, tmp_path):
    _, release = distribution(local_index, files, tmp_path / "trace")
    with pytest.raises(RealDataError, match=r"pip could not download scans==1\.0 .*--source FILE") as refusal:
        fetch_real_cases(tmp_path / "kept", progress=silent, release=replace(release, sha256="0" * 64))
    assert "\n" not in str(refusal.value)
    assert list((tmp_path / "kept").iterdir()) == []
    assert not (tmp_path / "trace").exists()


def test_pips_own_reason_is_passed_on_with_the_way_out(local_index, release, tmp_path):
    with pytest.raises(RealDataError, match=r"\(ERROR: No matching distribution found.*--source FILE"):
        fetch_real_cases(tmp_path / "kept", progress=silent, release=replace(release, version="2.0"))


@pytest.mark.parametrize("installed", [[], [SimpleNamespace(version="65.5.0")]])
def test_missing_and_old_tools_are_named(release, tmp_path, monkeypatch, installed):
    monkeypatch.setattr(real_scans.sys, "version_info", (3, 11, 7, "final", 0))
    found = importlib.metadata.distributions
    hidden = {"setuptools": installed}
    monkeypatch.setattr(
        real_scans.importlib.metadata, "distributions", lambda *, name: hidden.get(name, found(name=name))
    )
    with pytest.raises(RealDataError, match=r"needs setuptools>=70.1 in this Python environment.*--source FILE"):
        fetch_real_cases(tmp_path / "kept", progress=silent, release=release)


def test_images_keep_values_and_grid_and_masks_carry_their_tasks_label(archive, release, files, tmp_path):
    folder = tmp_path / "Dataset901_Real"
    lines = []
    write_real_dataset(archive, folder, lines.append, release)
    assert len(lines) == len(CASES)
    for case, task in CASES.items():
        original, mask = {}, {}
        for kind, into in (("image", original), ("label", mask)):
            (tmp_path / "original.nrrd").write_bytes(files[f"data/{case}_{kind}.nrrd"])
            into["image"] = SimpleITK.ReadImage(str(tmp_path / "original.nrrd"))
        label = SimpleITK.ReadImage(str(folder / "labelsTr" / f"{case}.nii.gz"))
        for images in ("imagesTr", "imagesTs"):
            image = SimpleITK.ReadImage(str(folder / images / f"{case}_0000.nii.gz"))
            assert image.IsCongruentImageGeometry(original["image"], 1e-4, 1e-6)
            assert image.IsSameImageGeometryAs(label)
            np.testing.assert_array_equal(*(SimpleITK.GetArrayFromImage(i) for i in (image, original["image"])))
        expected = SimpleITK.GetArrayFromImage(mask["image"]) * LEAVES[task]
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(label), expected)
        assert label.GetPixelID() == SimpleITK.sitkUInt8


def test_a_mask_on_another_grid_is_brought_to_the_images(files, tmp_path):
    # The same place in the patient at half the slice spacing, and the image's last slice not covered.
    SimpleITK.WriteImage(mask := thin_mask(), str(tmp_path / "mask.nrrd"))
    files["data/lung1_label.nrrd"] = (tmp_path / "mask.nrrd").read_bytes()
    archive = pack(tmp_path / "scans-1.0.tar.gz", files)
    write_real_dataset(archive, tmp_path / "raw", silent, release_of(archive, files))
    label = SimpleITK.ReadImage(str(tmp_path / "raw" / "labelsTr" / "lung1.nii.gz"))
    image = SimpleITK.ReadImage(str(tmp_path / "raw" / "imagesTr" / "lung1_0000.nii.gz"))
    assert label.IsSameImageGeometryAs(image)
    expected = 3 * SimpleITK.GetArrayFromImage(mask)[::2]
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(label), np.pad(expected, ((0, 1), (0, 0), (0, 0))))


def thin_mask() -> SimpleITK.Image:
    values = np.zeros((6, 6, 5), np.uint8)
    values[2:6, 1:4, 2] = 1
    mask = scan(values)
    mask.SetSpacing((0.75, 0.5, 3.25))
    return mask


def test_each_case_is_annotated_for_its_own_task_in_regions_that_are_regions_for_nnunet(archive, release, tmp_path):
    write_real_dataset(archive, tmp_path / "raw", silent, release)
    description = read_dataset_json(tmp_path / "raw" / "dataset.json")
    taskset = TaskSet.from_dataset_json(description)
    assert taskset.has_regions
    assert [task.name for task in taskset.tasks] == ["brain", "breast", "lung"]
    assert {case: [taskset.tasks[i].name for i in taskset.annotated_tasks(case)] for case in taskset.cases} == {
        case: [task] for case, task in CASES.items()
    }
    for case in CASES:
        label = SimpleITK.ReadImage(str(tmp_path / "raw" / "labelsTr" / f"{case}.nii.gz"))
        taskset.check_leaves(case, np.unique(SimpleITK.GetArrayFromImage(label)).tolist())
    # nnU-Net normalises by the channel's name; these are the names that mean anything but a z-score.
    assert description["channel_names"]["0"].casefold() not in {
        "ct",
        "nonorm",
        "zscore",
        "rescale_to_0_1",
        "rgb_to_0_1",
    }
    assert any(isinstance(value, list) and len(value) > 1 for value in description["labels"].values())


def test_a_folder_with_files_is_left_alone(archive, release, tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(RealDataError, match="holds files already"):
        write_real_dataset(archive, folder, silent, release)
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("path", ["../escaped.nrrd", "/escaped.nrrd", "scans-1.0/../../escaped.nrrd"])
def test_a_member_that_leads_out_of_the_archive_is_refused(files, tmp_path, path):
    archive = pack(tmp_path / "scans-1.0.tar.gz", files, (tarfile.TarInfo(path),))
    with pytest.raises(RealDataError, match="leads out of its folder"):
        write_real_dataset(archive, tmp_path / "raw", silent, release_of(archive, files))


def test_a_link_in_place_of_a_file_is_refused(files, tmp_path):
    del files["data/lung2_label.nrrd"]
    link = tarfile.TarInfo("scans-1.0/data/lung2_label.nrrd")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
    archive = pack(tmp_path / "scans-1.0.tar.gz", files, (link,))
    release = release_of(archive, {**files, "data/lung2_label.nrrd": b""})
    with pytest.raises(RealDataError, match=r"holds no file 'data/lung2_label\.nrrd'"):
        write_real_dataset(archive, tmp_path / "raw", silent, release)


def test_a_file_with_other_content_is_refused(archive, release, tmp_path):
    wrong = {**release.members, "data/brain1_image.nrrd": "0" * 64}
    with pytest.raises(RealDataError, match=r"'data/brain1_image\.nrrd' is not that of scans==1\.0"):
        write_real_dataset(archive, tmp_path / "raw", silent, replace(release, members=wrong))


def test_what_is_no_archive_is_refused(files, tmp_path):
    archive = tmp_path / "scans-1.0.tar.gz"
    archive.write_bytes(b"not an archive")
    with pytest.raises(RealDataError, match=r"cannot be read as a \.tar\.gz archive"):
        write_real_dataset(archive, tmp_path / "raw", silent, release_of(archive, files))


def test_every_case_of_the_real_release_has_two_checksums():
    assert set(PYRADIOMICS.members) == {f"data/{case}_{kind}.nrrd" for case in CASES for kind in ("image", "label")}
    assert all(len(sha256) == 64 for sha256 in (PYRADIOMICS.sha256, *PYRADIOMICS.members.values()))
    assert PYRADIOMICS.requirement == "pyradiomics==3.0.1"
