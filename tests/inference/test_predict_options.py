from pathlib import Path

import pytest
import torch

from nnunet_mtl.inference.predict_options import PredictError, PredictOptions, device_to_use


def options(**values: object) -> PredictOptions:
    return PredictOptions(images=Path("in"), output=Path("out"), **values)  # type: ignore[arg-type]  # by name


def test_numbers_of_processes_come_from_nnunets_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_npp", raising=False)
    monkeypatch.setenv("nnUNet_nps", "7")
    assert (options().npp, options().nps) == (3, 7)
    monkeypatch.setenv("nnUNet_npp", "many")
    assert options().npp == 3


def test_folds_are_nnunets() -> None:
    assert options().fold_names == (0, 1, 2, 3, 4)
    assert options(folds=("3", "all")).fold_names == (3, "all")


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"step_size": 0}, "-step_size"),
        ({"step_size": 1.1}, "-step_size"),
        ({"npp": -1}, "-npp"),
        ({"nps": -1}, "-nps"),
        ({"folds": ("all", "best")}, "-f best"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(values: dict[str, object], name: str) -> None:
    with pytest.raises(PredictError, match=f"^{name}"):
        options(**values).check()


def test_threads_are_nnunets_and_given_back() -> None:
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("multiprocessing.cpu_count", lambda: before + 1)
        with device_to_use("cpu") as device:
            assert (device.type, torch.get_num_threads()) == ("cpu", before + 1)
        with pytest.raises(KeyError), device_to_use("cpu"):
            raise KeyError
    assert torch.get_num_threads() == before


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(PredictError, match=r"-device tpu: .*cpu"), device_to_use("tpu"):
        pass
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    with device_to_use(None) as device:
        assert device.type == expected
