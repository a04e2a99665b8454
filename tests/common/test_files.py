import json
import os
import stat

import pytest

from nnunet_mtl.common.files import write_json


def test_content_and_key_order_arrive(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, 2.5], "a": None})
    assert list(json.loads(path.read_text()).items()) == [("b", [1, 2.5]), ("a", None)]
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("when", ["replace", "fsync"])
def test_failure_leaves_the_old_file_alone(tmp_path, monkeypatch, when):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr({"replace": "pathlib.Path.replace", "fsync": "os.fsync"}[when], fail)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_value_that_is_not_json_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"new": 2, "bad": {1, 2}})
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_link_keeps_its_place(tmp_path):
    kept, link = tmp_path / "kept.json", tmp_path / "link.json"
    kept.write_text("{}")
    link.symlink_to(kept)
    write_json(link, {"new": 2})
    assert link.is_symlink()
    assert json.loads(kept.read_text()) == {"new": 2}


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    plain, written = tmp_path / "plain", tmp_path / "a.json"
    plain.touch()
    write_json(written, {})
    assert stat.S_IMODE(written.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
