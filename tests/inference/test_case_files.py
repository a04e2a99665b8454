from pathlib import Path

import pytest

from nnunet_mtl.inference.case_files import CaseFiles, InputError, find_cases, number_of_channels


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
    assert cases[1].images == [str(folder / "b_0000.png"), str(folder / "b_0001.png")]
    cases[1].check(2)


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
    folder = folder_of(tmp_path, "a_0001.png", "a_0003.png")
    (folder / "a_0001.png").write_bytes(b"")
    (case,) = find_cases(folder, ".png", previous_stage=tmp_path / "lowres")
    with pytest.raises(InputError) as refusal:
        case.check(3)
    message = str(refusal.value)
    for text in ("channel 0000", "channel 0002", "a_0003.png", "a_0001.png: the file is empty", "lowres/a.png: cannot"):
        assert text in message
    assert "channel 0001" not in message


def test_both_names_of_the_channels_are_read() -> None:
    assert number_of_channels({"channel_names": {"0": "CT", "1": "PET"}}) == 2
    assert number_of_channels({"modality": {"0": "CT"}}) == 1


def test_a_case_of_whole_files_is_right(tmp_path: Path) -> None:
    path = tmp_path / "a_0000.png"
    path.write_bytes(b"content")
    CaseFiles("a", {0: path}, path).check(1)
