import shutil
import subprocess
import sys
from pathlib import Path

import packaging
import pytest
import torch

from nnunet_mtl import discovery
from nnunet_mtl.checks.doctor import Finding, diagnose, report

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@pytest.fixture
def healthy(tmp_path, monkeypatch):
    """Set the environment of an installation without a fault; return the folder that holds nnU-Net's three."""
    for name in FOLDERS:
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("nnUNet_n_proc_DA", "nnUNet_def_n_proc", "nnUNet_compile"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("nnUNet_extTrainer", str(discovery.shim_folder()))
    return tmp_path


def _faults(findings):
    return [finding for finding in findings if finding.level != "ok"]


def _only_fault(findings):
    faults = _faults(findings)
    assert len(faults) == 1, report(findings)
    return faults[0]


def test_a_healthy_installation_has_no_fault_and_names_what_it_looked_at(healthy):
    steps = []
    findings = diagnose(progress=steps.append)
    assert _faults(findings) == []
    text = report(findings)
    for word in ("Python 3", "nnunetv2 2.", ">=2.8.1", "torch ", "torchvision ", *FOLDERS, "nnU-Net finds"):
        assert word in text
    assert steps


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_not_set_or_no_folder_is_a_problem(name, healthy, monkeypatch):
    monkeypatch.delenv(name)
    fault = _only_fault(diagnose())
    assert (fault.level, fault.text) == ("problem", f"{name} is not set")
    assert fault.remedy.startswith(f"export {name}=")
    (healthy / "file").touch()
    monkeypatch.setenv(name, str(healthy / "file"))
    fault = _only_fault(diagnose())
    assert fault.level == "problem"
    assert f"{healthy / 'file'} is not a folder" in fault.text


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root can write to")
def test_a_folder_nothing_can_be_written_to_is_a_problem_except_for_raw(healthy, monkeypatch):
    for name in FOLDERS:
        monkeypatch.setenv(name, "/proc")
    faults = _faults(diagnose())
    assert [(fault.level, fault.text.split("=")[0]) for fault in faults] == [
        ("problem", "nnUNet_preprocessed"),
        ("problem", "nnUNet_results"),
    ]
    assert all("not writable" in fault.text for fault in faults)


@pytest.mark.parametrize(
    ("name", "value", "level", "text"),
    [
        ("nnUNet_n_proc_DA", "0", "warning", "planning fails"),
        ("nnUNet_n_proc_DA", "-1", "problem", "not an integer of at least 0"),
        ("nnUNet_n_proc_DA", "many", "problem", "not an integer"),
        ("nnUNet_n_proc_DA", "4", "ok", "nnUNet_n_proc_DA=4"),
        ("nnUNet_def_n_proc", "0", "problem", "not an integer of at least 1"),
        ("nnUNet_compile", "yes", "warning", "nnUNet_compile=yes"),
        ("nnUNet_compile", "F", "ok", "nnUNet_compile=F"),
    ],
)
def test_numbers_and_switches_of_nnunet_are_judged(name, value, level, text, healthy, monkeypatch):
    monkeypatch.setenv(name, value)
    findings = [finding for finding in diagnose() if finding.text.startswith(name)]
    assert [finding.level for finding in findings] == [level]
    assert text in findings[0].text
    assert bool(findings[0].remedy) == (level != "ok")


@pytest.mark.parametrize(
    ("cuda", "mps", "text", "word"),
    [
        (True, False, "torch finds a GPU", ""),
        (False, False, "torch finds no CUDA GPU", "-device cpu"),
        (False, True, "torch finds no CUDA GPU", "-device mps"),
    ],
)
def test_the_device_to_name_is_told(cuda, mps, text, word, healthy, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    (finding,) = (finding for finding in diagnose() if text in finding.text)
    assert finding.level == "ok"
    assert word in finding.text
    assert word in finding.remedy
    assert bool(finding.remedy) == (not cuda)


def test_trainers_that_are_not_announced_are_a_problem_with_both_remedies(healthy, monkeypatch):
    monkeypatch.delenv("nnUNet_extTrainer")
    fault = _only_fault(diagnose())
    assert fault.level == "problem"
    assert "nnunet_mtl enable" in fault.remedy
    assert 'eval "$(nnunet_mtl env)"' in fault.remedy


def test_an_entry_that_does_not_exist_is_a_warning(healthy, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", f"/nowhere/trainers:{discovery.shim_folder()}")
    fault = _only_fault(diagnose())
    assert (fault.level, "/nowhere/trainers" in fault.text) == ("warning", True)


def test_a_pth_file_of_another_installation_is_a_warning(healthy, monkeypatch):
    (healthy / discovery.PTH_NAME).write_text("import os\n")
    here = discovery.state(healthy)
    monkeypatch.setattr(discovery, "state", lambda: here)  # not the environment the tests run in
    fault = _only_fault(diagnose())
    assert (fault.level, fault.remedy) == ("warning", "nnunet_mtl enable")


def test_a_trainer_that_cannot_be_imported_is_a_problem_with_the_cause(healthy, monkeypatch):
    (healthy / "aaa.py").write_text("import a_module_that_is_missing\n")
    monkeypatch.setenv("nnUNet_extTrainer", f"{healthy}:{discovery.shim_folder()}")
    fault = _only_fault(diagnose())
    assert fault.level == "problem"
    assert "a_module_that_is_missing" in fault.text


def test_a_variable_that_names_the_trainers_folder_itself_is_a_problem(healthy, monkeypatch):
    leaf = discovery.look_up("nnUNetTrainerMTLAttention").__module__
    (healthy / "nnUNetTrainerMTLAttention.py").write_text(
        f"from {leaf} import nnUNetTrainerMTLAttention as base\n\nclass nnUNetTrainerMTLAttention(base):\n    pass\n"
    )
    monkeypatch.setenv("nnUNet_extTrainer", f"{healthy}:{discovery.shim_folder()}")
    fault = _only_fault(diagnose())
    assert fault.level == "problem"
    assert "finds another nnUNetTrainerMTLAttention" in fault.text


def test_packages_that_do_not_fit_are_problems(healthy, monkeypatch, tmp_path):
    site = tmp_path / "site"
    for name, version, requires in (
        ("nnunetv2", "2.5.0", ""),
        ("torch", "2.15.0", ""),
        ("torchvision", "0.1", "Requires-Dist: torch (==1.9)\n"),
        ("nnunet_mtl", "0.1.0", "Requires-Dist: nnunetv2<2.9,>=2.8.1\n"),
    ):
        metadata = site / f"{name}-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}")
    monkeypatch.syspath_prepend(site)
    faults = {fault.text: fault for fault in _faults(diagnose())}
    assert set(faults) == {
        "nnunetv2 2.5.0 is not supported",
        "torchvision 0.1 needs torch==1.9, installed is torch 2.15.0",
    }
    assert "nnunetv2<2.9,>=2.8.1" in faults["nnunetv2 2.5.0 is not supported"].remedy


def test_findings_of_a_data_set_come_after_those_of_the_installation(healthy):
    findings = diagnose("900")
    assert findings[:-1] == diagnose()
    assert isinstance(findings[-1], Finding)
    assert findings[-1].level == "problem"
    assert "'900'" in findings[-1].text


def test_it_speaks_where_nothing_is_installed_or_can_be_imported(tmp_path):
    shutil.copytree(Path(discovery.__file__).parents[1], tmp_path / "nnunet_mtl")
    shutil.copytree(Path(packaging.__file__).parent, tmp_path / "packaging")
    for name in ("torch", "torchvision"):
        metadata = tmp_path / f"{name}-1.0.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('operator does not\\n exist')\n")
    code = f"""
import os, sys
sys.path.insert(0, {str(tmp_path)!r})
from nnunet_mtl import discovery
from nnunet_mtl.checks import doctor
os.environ.clear()
os.environ["nnUNet_extTrainer"] = str(discovery.shim_folder())
print(doctor.report(doctor.diagnose("900")))
"""
    # -S: without site-packages
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stderr == ""
    problems = [line.removeprefix("problem  ") for line in run.stdout.splitlines() if line.startswith("problem")]
    assert problems[:3] == [
        "nnunetv2 is not installed",
        "torch 1.0 cannot be imported: operator does not exist",
        "torchvision 1.0 cannot be imported: operator does not exist",
    ]
    assert "No module named 'nnunetv2'" in problems[-2]
    assert problems[-1].startswith("900 was not looked at, because nnU-Net cannot be imported")
