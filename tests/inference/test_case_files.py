from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO

from nnunet_mtl.inference.case_files import CaseFiles, InputError, find_cases, number_of_channels


class Reader:
    """Reads so many channels from every file."""

    def __init__(self, channels_of_a_file: int = 1) -> None:
        self.channels = channels_of_a_file

    def read_images(self, files: list[str]) -> tuple[Any, dict[str, Any]]:
        return np.zeros((self.channels * len(files), 1, 2, 2)), {"files": files}


def folder_of(tmp_path: Path, *names: str) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"content")
    return folder


def test_files_are_joined_to_cases_in_nnunets_order(tmp_path: Path) -> None:
    names = ("b_0001.png", "b_0000.png", "a_1_0000.png", "notes.txt", "a_0000.nii.gz", "._b_0000.png", "c_000.png")
    folder = folder_of(tmp_path, *names)
    cases = find_cases(folder, ".png")
    assert [case.name for case in cases] == ["a_1", "b"]
    assert cases[1].images == (folder / "b_0000.png", folder / "b_0001.png")
    image, properties = cases[1].read(Reader(), 2)
    assert len(image) == 2
    assert properties == {"files": [str(path) for path in cases[1].images]}


def test_parts_hold_every_case_once(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, *(f"case{i}_0000.png" for i in range(5)))
    whole = [case.name for case in find_cases(folder, ".png")]
    parts = [[case.name for case in find_cases(folder, ".png", part=part, parts=3)] for part in range(3)]
    assert parts == [whole[0::3], whole[1::3], whole[2::3]]
    assert find_cases(folder, ".png", part=6, parts=7) == []


@pytest.mark.parametrize("part", [-1, 2])
def test_a_part_that_is_none_is_refused(tmp_path: Path, part: int) -> None:
    with pytest.raises(InputError, match=f"-part_id {part}"):
        find_cases(folder_of(tmp_path, "a_0000.png"), ".png", part=part, parts=2)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    (case,) = find_cases(folder_of(tmp_path, "a_0001.png", "a_0003.png"), ".png")
    with pytest.raises(InputError) as refusal:
        case.read(Reader(), 3)
    message = str(refusal.value)
    assert message == (
        '"a_0001.png", "a_0003.png": 2 channel(s) in 2 file(s), the model reads 3; channel 0000 is missing; '
        'channel 0002 is missing; "a_0003.png" is too much'
    )


def test_a_file_may_hold_every_channel(tmp_path: Path) -> None:
    (case,) = find_cases(folder_of(tmp_path, "a_0000.png"), ".png")
    assert len(case.read(Reader(channels_of_a_file=3), 3)[0]) == 3
    with pytest.raises(InputError, match=r'^"a_0000.png": 3 channel\(s\) in 1 file\(s\), the model reads 1$'):
        case.read(Reader(channels_of_a_file=3), 1)


def test_numbers_with_gaps_are_read_in_order_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As by nnU-Net, which takes what the reader gives."""
    (case,) = find_cases(folder_of(tmp_path, "a_0001.png", "a_0002.png"), ".png")
    assert len(case.read(Reader(), 2)[0]) == 2
    assert capsys.readouterr().out.startswith("a: files are not numbered 0000, 0001")


def test_a_file_that_is_not_whole_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a_0000.png")
    (folder / "a_0000.png").write_bytes(b"")
    (case,) = find_cases(folder, ".png", previous_stage=tmp_path / "lowres")
    with pytest.raises(InputError) as refusal:
        case.read(Reader(), 1)
    for text in ("a_0000.png: the file is empty", "lowres/a.png: cannot"):
        assert text in str(refusal.value)


def test_both_names_of_the_channels_are_read() -> None:
    assert number_of_channels({"channel_names": {"0": "CT", "1": "PET"}}) == 2
    assert number_of_channels({"modality": {"0": "CT"}}) == 1


def test_a_case_of_whole_files_is_right(tmp_path: Path) -> None:
    path = tmp_path / "a_0000.png"
    path.write_bytes(b"content")
    CaseFiles("a", (path,), path).check()


def test_what_a_reader_cannot_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a_0000.png"
    path.write_bytes(b"no picture at all")
    with pytest.raises(InputError, match=r"a_0000\.png: cannot be read \(.+\); write it again$"):
        CaseFiles("a", (path,)).read(NaturalImage2DIO(), 3)
