"""`-pretrained_weights` through nnU-Net's own function, which builds the trainer's network and loads right after."""

import gc
import json
import pickle
import weakref
from pathlib import Path
from typing import Any

import nnunetv2.run.run_training as run_training
import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint
from torch import Tensor

from nnunet_mtl.inference.model_folder import ModelFolderError
from nnunet_mtl.trainers.nnUNetTrainerCondInput import nnUNetTrainerCondInput
from nnunet_mtl.trainers.nnUNetTrainerHPS import nnUNetTrainerHPS
from nnunet_mtl.trainers.nnUNetTrainerMTLAttention import nnUNetTrainerMTLAttention
from nnunet_mtl.training.pretrained import PretrainedWeightsError, load_what_fits

CPU = torch.device("cpu")
OTHER_TASKS = {
    "organs": {"regions": ["liver", "kidney", "spleen"]},
    "tumours": {"regions": ["liver_tumour", "kidney_tumour"]},
}
SAME_NUMBER = {
    "abdomen": {"regions": ["liver", "kidney"]},
    "spleen": {"regions": ["spleen"]},
    "tumours": {"regions": ["liver_tumour", "kidney_tumour"]},
}
State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def results(prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_results", str(tmp_path))


def stock(plans: str = "tiny") -> Any:
    trainer = get_trainer_from_args("900", "3d_fullres", 0, "nnUNetTrainer", plans, device=CPU)
    trainer.initialize()
    return trainer


def ours(prepared: Any, plans: str = "tiny", cls: Any = nnUNetTrainerMTLAttention, tasks: Any = None) -> Any:
    dataset_json = json.loads(json.dumps(prepared.dataset_json))
    if tasks is not None:
        cases = {case: {"annotated": list(tasks)} for case in dataset_json["nnunet_mtl"]["cases"]}
        dataset_json["nnunet_mtl"] = {"version": 1, "tasks": tasks, "cases": cases}
    trainer = cls(prepared.plans(plans), "3d_fullres", 0, dataset_json, CPU)
    trainer.initialize()
    return trainer


def saved(trainer: Any, folder: Path) -> Path:
    trainer.save_checkpoint(str(folder / "source.pth"))
    return folder / "source.pth"


def state(trainer: Any) -> State:
    return {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}


def load(trainer: Any, path: Path) -> None:
    maybe_load_checkpoint(trainer, False, False, str(path))


def log(trainer: Any) -> str:
    return Path(trainer.log_file).read_text()


def assert_body_from(source: State, before: State, after: State) -> None:
    """Encoder and decoder are the source's, all else is as it was."""
    for name, tensor in after.items():
        shared = name.startswith(("encoder.", "decoder.")) and ".seg_layers." not in name
        assert torch.equal(tensor, (source if shared else before)[name]), name


FIRST = {"tiny": "encoder.stages.0.0.convs.0.conv.weight", "tiny_resenc": "encoder.stem.convs.0.conv.weight"}


@pytest.mark.parametrize(
    ("plans", "came"),
    [("tiny", "encoder 24 of 24, decoder 20 of 20"), ("tiny_resenc", "encoder 71 of 71, decoder 12 of 12")],
)
def test_a_stock_checkpoint_gives_encoder_and_decoder(prepared: Any, tmp_path: Path, plans: str, came: str) -> None:
    source, trainer = stock(plans), ours(prepared, plans)
    before = state(trainer)
    load(trainer, saved(source, tmp_path))
    assert_body_from(state(source), before, state(trainer))
    assert not torch.equal(before[FIRST[plans]], state(trainer)[FIRST[plans]])
    assert f"taken {came} tensors; fresh segmentation layers 4, task_attention 16, classification 17" in log(trainer)
    assert run_training.load_pretrained_weights is load_pretrained_weights


@pytest.mark.parametrize("tasks", [OTHER_TASKS, SAME_NUMBER], ids=["two tasks for three", "three others for three"])
def test_a_checkpoint_of_other_tasks_gives_no_gate_and_no_head(prepared: Any, tmp_path: Path, tasks: Any) -> None:
    source, trainer = ours(prepared, tasks=tasks), ours(prepared)
    with torch.no_grad():
        for parameter in source.network.parameters():  # as after training
            parameter.add_(1.0)
    before = state(trainer)
    load(trainer, saved(source, tmp_path))
    assert_body_from(state(source), before, state(trainer))


def test_every_task_s_decoder_starts_from_the_one_of_the_checkpoint(prepared: Any, tmp_path: Path) -> None:
    source, trainer = stock(), ours(prepared, cls=nnUNetTrainerHPS)
    load(trainer, saved(source, tmp_path))
    name = "stages.0.convs.0.conv.weight"
    decoders = [state(trainer)[f"{place}.{name}"] for place in ("decoder", "decoders.others.0", "decoders.others.1")]
    assert all(torch.equal(weight, state(source)[f"decoder.{name}"]) for weight in decoders)
    assert "decoders 40 of 40" in log(trainer)


def test_tensors_of_another_shape_stay_fresh(prepared: Any, tmp_path: Path) -> None:
    source, trainer = stock(), ours(prepared, cls=nnUNetTrainerCondInput)
    before = state(trainer)
    load(trainer, saved(source, tmp_path))
    assert torch.equal(state(trainer)[FIRST["tiny"]], before[FIRST["tiny"]])
    assert "encoder 23 of 24" in log(trainer)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_of_wrappers_are_taken_off(prepared: Any, tmp_path: Path, prefix: str) -> None:
    source, trainer = state(stock()), ours(prepared)
    torch.save({"network_weights": {f"{prefix}{name}": tensor for name, tensor in source.items()}}, tmp_path / "w.pth")
    load_what_fits(trainer.network, tmp_path / "w.pth")
    assert torch.equal(state(trainer)[FIRST["tiny"]], source[FIRST["tiny"]])


def test_a_compiled_network_is_loaded_through_its_wrapper(prepared: Any, tmp_path: Path) -> None:
    source, trainer = stock(), ours(prepared)
    trainer.network = torch.compile(trainer.network)
    load(trainer, saved(source, tmp_path))
    assert torch.equal(trainer.bare_network.state_dict()[FIRST["tiny"]], state(source)[FIRST["tiny"]])


def test_nothing_that_fits_is_one_line(prepared: Any, tmp_path: Path) -> None:
    trainer = ours(prepared)
    with pytest.raises(
        PretrainedWeightsError, match=r"source.pth: nothing of its encoder fits.*encoder\.stages"
    ) as error:
        load(trainer, saved(stock("tiny_resenc"), tmp_path))
    assert "\n" not in str(error.value)
    wide = {name: torch.zeros(1, *tensor.shape) for name, tensor in state(trainer).items()}
    torch.save({"network_weights": wide}, tmp_path / "wide.pth")
    with pytest.raises(PretrainedWeightsError, match=r"has the shape \(1, 4, 1, 3, 3, 3\) there"):
        load_what_fits(trainer.network, tmp_path / "wide.pth")


def test_biases_alone_are_nothing_to_start_from(prepared: Any, tmp_path: Path) -> None:
    """Those of a 2D network have the shapes of a 3D network's, and say nothing without its kernels."""
    trainer = ours(prepared)
    before = state(trainer)
    flat = {name: tensor[..., 0] if tensor.ndim > 2 else tensor + 1 for name, tensor in before.items()}
    torch.save({"network_weights": flat}, tmp_path / "flat.pth")
    with pytest.raises(PretrainedWeightsError, match=r"nothing of its encoder fits.*\(4, 1, 3, 3\) there"):
        load_what_fits(trainer.network, tmp_path / "flat.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(trainer).items())


class Code:
    """What runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize("content", [b"", b"no checkpoint", pickle.dumps({"network_weights": Code()}, 2)])
def test_a_damaged_or_dangerous_file_is_one_line(
    prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.pth").write_bytes(content)
    trainer = ours(prepared)
    with pytest.raises(ModelFolderError, match=r"bad\.pth") as error:
        load(trainer, tmp_path / "bad.pth")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "executed").exists()
    assert run_training.load_pretrained_weights is load_pretrained_weights


def test_a_stock_trainer_meets_nnunet_s_own_function_whoever_waits(prepared: Any, tmp_path: Path) -> None:
    source, waiting, also_waiting, theirs = stock(), ours(prepared), ours(prepared), stock()
    assert run_training.load_pretrained_weights is not load_pretrained_weights
    before = state(theirs)
    load(theirs, saved(source, tmp_path))
    assert_body_from(state(source), before, state(theirs))
    assert run_training.load_pretrained_weights is load_pretrained_weights
    assert not any("pretrained" in log(trainer) for trainer in (waiting, also_waiting))
    with pytest.raises(AssertionError, match="is missing in the pretrained model weights"):
        run_training.load_pretrained_weights(waiting.network, str(tmp_path / "source.pth"))


def test_it_ends_where_training_starts_or_a_checkpoint_is_loaded(prepared: Any, tmp_path: Path) -> None:
    trainer = ours(prepared)
    path = saved(trainer, tmp_path)
    trainer.load_checkpoint(str(path))
    assert run_training.load_pretrained_weights is load_pretrained_weights
    ours(prepared).on_train_start()
    assert run_training.load_pretrained_weights is load_pretrained_weights


def test_a_trainer_is_not_kept_alive(prepared: Any) -> None:
    trainer = ours(prepared)
    network = weakref.ref(trainer.network)
    del trainer
    gc.collect()
    assert network() is None
    assert run_training.load_pretrained_weights is not load_pretrained_weights
