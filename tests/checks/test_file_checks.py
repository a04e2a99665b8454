import os

import numpy as np
import pytest
import SimpleITK
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_mtl.checks import file_checks
from nnunet_mtl.checks.file_checks import CaseToCheck, Fault, check_files, findings_of
from nnunet_mtl.common.errors import UserError


def cases_of(folder, number, n_channels=1):
    made = []
    for index in range(number):
        image = folder / f"{index}_0000.nii.gz"
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.full((1, 2, 3), index, np.uint8)), str(image))
        made.append(CaseToCheck(str(index), (image,), image, range(n_channels, n_channels + 1)))
    return made


def test_every_case_is_told_with_an_estimate_of_what_is_left(tmp_path, monkeypatch):
    now = iter(range(0, 10000, 30))
    monkeypatch.setattr(file_checks.time, "monotonic", lambda: next(now))
    lines = []
    found = list(check_files(cases_of(tmp_path, 5), SimpleITKIO, lines.append))
    assert [(case.name, case.faults, case.values) for case in found] == [(str(i), (), (float(i),)) for i in range(5)]
    assert lines == [
        "case 1 of 5: 0, about 2 min left",
        "case 2 of 5: 1, about 2 min left",
        "case 3 of 5: 2, about 60 s left",
        "case 4 of 5: 3, about 30 s left",
        "case 5 of 5: 4",
    ]


def test_faults_become_a_finding_of_each_kind_however_many_there_are():
    faults = [Fault("values", "a"), Fault("label spacing", "b"), Fault("missing", "c"), Fault("values", "d")]
    found = list(findings_of(faults))
    assert [(finding.text.split()[0], finding.details) for finding in found] == [
        ("1", ("c",)),
        ("2", ("a", "d")),
        ("1", ("b",)),
    ]
    assert all(finding.level == "problem" and finding.remedy for finding in found)
    assert list(findings_of([])) == []


class Dies(SimpleITKIO):
    """A reader that the system kills, as it does where memory is short."""

    def read_images(self, image_fnames):
        os._exit(1)


@pytest.mark.slow
def test_that_a_process_died_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(file_checks, "default_num_processes", 2)
    monkeypatch.setattr(file_checks.os, "cpu_count", lambda: 2)
    with pytest.raises(UserError, match="nnUNet_def_n_proc=1"):
        list(check_files(cases_of(tmp_path, 9), Dies, lambda line: None))
