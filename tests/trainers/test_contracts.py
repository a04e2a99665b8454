"""The battery every file in trainers/ must pass; a new trainer is tested by existing.

Each is found through nnU-Net's own finder and meets real small plans: 2D and 3D, plain and residual encoder.
"""

import ast
import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_mtl.discovery import look_up
from nnunet_mtl.lab.methods.catalogue import package_methods
from nnunet_mtl.tasks import TaskSetError
from nnunet_mtl.training.case_annotations import CaseAnnotations
from nnunet_mtl.training.trainer import MultiTaskTrainer

pytestmark = pytest.mark.slow

TRAINERS = Path(__file__).parents[2] / "trainers"
NAMES = sorted(path.stem for path in TRAINERS.glob("nnUNetTrainer*.py"))  # found without the code that finds leaves
NETWORKS = [("tiny", "2d"), ("tiny", "3d_fullres"), ("tiny_resenc", "2d"), ("tiny_resenc", "3d_fullres")]
LISTED = inspect.getdoc(MultiTaskTrainer).partition("Hooks:")[2].partition("Attributes:")[0]
HOOKS = set(re.findall(r"^ {4}(\w+): ", LISTED, re.MULTILINE))
N_REGIONS = 5


@pytest.fixture(scope="module")
def find(prepared: Any) -> Any:
    """Look a trainer up once as `nnUNetv2_train -tr` does."""
    found = {name: look_up(name) for name in NAMES}
    return found.__getitem__


@pytest.fixture(params=NAMES)
def trainer_class(request: pytest.FixtureRequest, find: Any) -> Any:
    return find(request.param)


@pytest.fixture
def results(prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    return tmp_path


def build(
    trainer_class: Any, prepared: Any, plans: str = "tiny", configuration: str = "3d_fullres", **settings: Any
) -> Any:
    dataset_json = json.loads(json.dumps(prepared.dataset_json))
    planned = prepared.plans(plans)
    planned["nnunet_mtl"]["settings"] |= settings
    trainer = trainer_class(planned, configuration, 0, dataset_json, torch.device("cpu"))
    trainer.initialize()
    return trainer


def batch_of(trainer: Any, keys: list[str], seed: int = 0) -> dict[str, Any]:
    """A batch as nnU-Net's loader makes it: float data, bool targets, a list of them with deep supervision."""
    rng = torch.Generator().manual_seed(seed)
    patch = trainer.configuration_manager.patch_size
    shapes = [patch]
    if trainer.enable_deep_supervision:
        shapes = [
            [round(edge * scale) for edge, scale in zip(patch, scales, strict=True)]
            for scales in trainer._get_deep_supervision_scales()
        ]
    targets = [torch.rand(len(keys), N_REGIONS, *shape, generator=rng) > 0.7 for shape in shapes]
    data = torch.randn(len(keys), 1, *patch, generator=rng)
    target = targets if trainer.enable_deep_supervision else targets[0]
    return {"data": data, "target": target, "keys": np.array(keys)}


def hides_no_evidence(trainer_class: Any) -> bool:
    """Whether its classification head is one that reads none."""
    return trainer_class.defaults.get("own_evidence") == 0


def test_a_leaf_is_composition_only() -> None:
    for path in TRAINERS.glob("nnUNetTrainer*.py"):
        tree = ast.parse(path.read_text())
        (leaf,) = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        assert leaf.name == path.stem
        assert not [node for node in tree.body if isinstance(node, ast.FunctionDef)]
        functions = {node.name for node in leaf.body if isinstance(node, ast.FunctionDef)}
        targets = [t for node in leaf.body if isinstance(node, ast.Assign) for t in node.targets]
        targets += [node.target for node in leaf.body if isinstance(node, ast.AnnAssign)]
        assert functions | {ast.unparse(target) for target in targets} <= HOOKS
        assert len(path.read_text().splitlines()) <= 40


def test_the_docstring_lists_hooks_that_are_there() -> None:
    assert {"parts", "heads", "course_class", "head_options", "compute_losses"} <= HOOKS
    assert [hook for hook in HOOKS if not hasattr(MultiTaskTrainer, hook)] == []


def test_two_storeys_stand_between_a_leaf_and_the_host(trainer_class: Any) -> None:
    ours = trainer_class.__mro__[1 : trainer_class.__mro__.index(nnUNetTrainer)]
    assert len(ours) <= 2


def test_the_constructor_is_the_hosts(trainer_class: Any) -> None:
    ours = list(inspect.signature(trainer_class.__init__).parameters)
    assert ours == list(inspect.signature(nnUNetTrainer.__init__).parameters)


@pytest.mark.parametrize(("plans", "configuration"), NETWORKS)
def test_a_network_call_returns_one_fresh_tensor(
    trainer_class: Any, prepared: Any, results: Path, plans: str, configuration: str
) -> None:
    trainer = build(trainer_class, prepared, plans, configuration)
    trainer.network.eval()
    trainer.set_deep_supervision_enabled(False)
    x = torch.randn(2, 1, *trainer.configuration_manager.patch_size)
    with torch.no_grad():
        first, second = trainer.network(x), trainer.network(x)
    assert first.shape == (2, N_REGIONS, *x.shape[2:])
    assert torch.isfinite(first).all()
    assert first.data_ptr() != second.data_ptr()
    first += 1  # the host adds mirrored predictions in place
    with torch.no_grad():
        torch.testing.assert_close(trainer.network(x), second, rtol=0, atol=0)


@pytest.mark.parametrize(("plans", "configuration"), NETWORKS)
def test_a_training_and_a_validation_step(
    trainer_class: Any, prepared: Any, results: Path, plans: str, configuration: str
) -> None:
    trainer = build(trainer_class, prepared, plans, configuration)
    before = {name: value.clone() for name, value in trainer.network.named_parameters()}
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    outputs = [trainer.train_step(batch_of(trainer, ["liver_000", "kidney_001"], seed)) for seed in range(2)]
    assert all(np.isfinite(output["loss"]) for output in outputs)
    assert all(torch.isfinite(value.grad).all() for value in trainer.network.parameters() if value.grad is not None)
    assert any(not torch.equal(value, before[name]) for name, value in trainer.network.named_parameters())
    trainer.on_train_epoch_end(outputs)
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        outputs = [trainer.validation_step(batch_of(trainer, ["liver_000", "spleen_002"], seed)) for seed in range(2)]
    trainer.on_validation_epoch_end(outputs)
    trainer.on_epoch_end()
    assert (results / "Dataset900_Tiny").is_dir()
    assert Path(trainer.output_folder, "progress.png").is_file()
    assert Path(trainer.output_folder, "checkpoint_best.pth").is_file()
    assert np.isfinite(trainer.logger.get_value("mean_fg_dice", step=-1))


def test_a_data_set_without_our_block_trains_under_nnunets_own_softmax(
    trainer_class: Any, prepared: Any, results: Path
) -> None:
    labels = {"background": 0, "liver": 1, "liver_tumour": 2, "kidney": 3, "kidney_tumour": 4, "spleen": 5}
    others = ("labels", "regions_class_order", "nnunet_mtl")
    dataset_json = {key: value for key, value in prepared.dataset_json.items() if key not in others}
    arguments = (prepared.plans("tiny"), "3d_fullres", 0, dataset_json | {"labels": labels}, torch.device("cpu"))
    if not getattr(trainer_class, "segments", True):
        with pytest.raises(TaskSetError, match="needs at least one question"):
            trainer_class(*arguments)
        return
    trainer = trainer_class(*arguments)
    trainer.initialize()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    batch = batch_of(trainer, ["liver_000", "kidney_001"])
    batch["target"] = [5 * target[:, :1].float() for target in batch["target"]]
    assert np.isfinite(trainer.train_step(batch)["loss"])
    with torch.no_grad():
        assert np.isfinite(trainer.validation_step(batch)["loss"])
        trainer.set_deep_supervision_enabled(False)
        logits = trainer.network(batch["data"])
    assert logits.shape == (2, len(labels), *batch["data"].shape[2:])


def test_a_checkpoint_restores_the_weights(trainer_class: Any, prepared: Any, results: Path) -> None:
    trainer = build(trainer_class, prepared)
    trainer.on_train_epoch_start()
    trainer.train_step(batch_of(trainer, ["liver_000", "kidney_001"]))
    path = str(results / "checkpoint.pth")
    trainer.save_checkpoint(path)
    other = build(trainer_class, prepared)
    other.load_checkpoint(path)
    assert other.current_epoch == 1
    for name, value in trainer.network.state_dict().items():
        assert torch.equal(other.network.state_dict()[name], value), name


@pytest.mark.parametrize("name", [method.name for method in package_methods() if hides_no_evidence(method.trainer)])
def test_no_evidence_is_hidden_from_a_head_that_reads_none(name: str, find: Any, prepared: Any, results: Path) -> None:
    """Hiding some at random would weigh the same patch now by the annotation, now by the network's own evidence."""
    trainer_class = find(name)

    def first_loss(**settings: float) -> float:
        torch.manual_seed(0)
        trainer = build(trainer_class, prepared, configuration="2d", **settings)
        trainer.on_train_epoch_start()
        step = trainer.train_step(batch_of(trainer, ["liver_000", "liver_001"]))
        return float(step["loss/classification/malignancy"])

    assert first_loss() > 0
    assert first_loss() == first_loss(own_evidence=0.0, class_warmup=0.0)
    assert first_loss() != first_loss(own_evidence=1.0)  # with all of it hidden


@pytest.mark.parametrize("deep_supervision", [True, False])
def test_two_stages_train(trainer_class: Any, prepared: Any, results: Path, deep_supervision: bool) -> None:
    """One scale is supervised then, which nnU-Net's loss weighs with 0 / 0."""
    trainer = build(trainer_class, prepared, "shallow", "2d", deep_supervision=deep_supervision)
    trainer.on_train_epoch_start()
    batch = batch_of(trainer, ["liver_000", "kidney_001"])
    for _ in range(2):
        assert np.isfinite(trainer.train_step(batch)["loss"])
    with torch.no_grad():
        assert np.isfinite(trainer.validation_step(batch)["loss"])


def step_on(trainer_class: Any, prepared: Any, scramble: list[tuple[int, int]]) -> tuple[Any, Any, Any]:
    """One training and one validation step on the same weights and drawing, some label channels inverted."""
    torch.manual_seed(1)
    trainer = build(trainer_class, prepared)
    if isinstance(trainer, MultiTaskTrainer):
        trainer.cases = CaseAnnotations(trainer.cases.tasks, seed=0)
    batch = batch_of(trainer, ["liver_000", "kidney_001"])
    for sample, region in scramble:
        for target in batch["target"]:
            target[sample, region] = ~target[sample, region]
    trainer.on_train_epoch_start()
    train = trainer.train_step(batch)
    parameters = trainer.network.named_parameters()
    gradients = {name: value.grad.clone() for name, value in parameters if value.grad is not None}
    with torch.no_grad():
        validation = trainer.validation_step(batch)
    return train, gradients, validation


def test_labels_of_unannotated_regions_change_nothing(trainer_class: Any, prepared: Any, results: Path) -> None:
    liver, kidney = (0, 1), (2, 3)
    unannotated = [(0, region) for region in (*kidney, 4)] + [(1, region) for region in (*liver, 4)]
    clean = step_on(trainer_class, prepared, [])
    scrambled = step_on(trainer_class, prepared, unannotated)
    if not issubclass(trainer_class, MultiTaskTrainer):  # nnU-Net's own loss: to it they are background
        assert not np.array_equal(clean[0]["loss"], scrambled[0]["loss"])
        return
    annotated = step_on(trainer_class, prepared, [(0, liver[0])])
    for ours, theirs in ((clean[0], scrambled[0]), (clean[2], scrambled[2])):
        assert ours.keys() == theirs.keys()
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key], key)  # NaN equals NaN: nothing to say
    assert all(torch.equal(clean[1][name], scrambled[1][name]) for name in clean[1])
    assert np.array_equal(clean[0]["loss"], annotated[0]["loss"]) != trainer_class.segments


def test_nothing_that_is_saved_holds_the_case_table(trainer_class: Any, prepared: Any, results: Path) -> None:
    trainer = build(trainer_class, prepared)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    trainer.train_step(next(trainer.dataloader_train))
    trainer.save_checkpoint(str(results / "checkpoint.pth"))
    files = [path for path in results.rglob("*") if path.is_file()]
    assert {"plans.json", "dataset.json", "debug.json", "checkpoint.pth"} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        assert b"secretpatient" not in content, path
        assert b'"annotated":' not in content, path
    assert "secretpatient" in json.dumps(prepared.dataset_json)  # what is looked for exists


@pytest.mark.parametrize("deep_supervision", [True, False])
def test_every_parameter_gets_a_gradient(
    trainer_class: Any, prepared: Any, results: Path, monkeypatch: pytest.MonkeyPatch, deep_supervision: bool
) -> None:
    """DDP without `find_unused_parameters` hangs otherwise."""
    trainer = build(trainer_class, prepared, deep_supervision=deep_supervision)
    # what rests loses its gradient when DDP has seen it
    if isinstance(trainer, MultiTaskTrainer):
        monkeypatch.setattr(trainer.course, "resting_parameters", lambda *_: ())
    # nnU-Net gives the lowest resolution no weight, except under DDP; without deep supervision it uses one layer alone
    coarse = ".seg_layers.0." if deep_supervision or issubclass(trainer_class, MultiTaskTrainer) else ".seg_layers."
    unused = {name for name, _ in trainer.network.named_parameters() if coarse in name}
    trainer.on_train_epoch_start()
    trainer.train_step(batch_of(trainer, ["liver_000", "kidney_001"]))
    assert len(unused) >= 2  # of every decoder
    missing = {name for name, value in trainer.network.named_parameters() if value.grad is None}
    assert missing <= (unused if deep_supervision or not issubclass(trainer_class, MultiTaskTrainer) else set())
