"""The table of methods is computed from the networks that trainers build."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from nnunet_mtl.cli import main
from nnunet_mtl.lab.methods.catalogue import Method, methods
from nnunet_mtl.lab.methods.cost import Cost, Passes
from nnunet_mtl.lab.methods.setting import chosen_setting
from nnunet_mtl.lab.methods.table import MethodTable, method_table
from nnunet_mtl.planning.folders import PlanningError
from nnunet_mtl.training.trainer import MultiTaskTrainer

ROOT = Path(__file__).parents[3]
LEAVES = {path.stem for path in (ROOT / "trainers").glob("nnUNetTrainer*.py")}

CHANNELS = (32, 64, 128, 256, 320, 320)
SKIPS = CHANNELS[:-1]
K, REGIONS = 7, 11
LAST_LAYERS = sum(channels + 1 for channels in SKIPS)  # a weight and a bias per output channel, at every scale


@pytest.fixture(scope="module")
def costs(table: MethodTable) -> dict[str, Any]:
    return {method.name.removeprefix("nnUNetTrainer"): cost for method, cost in table.rows}


def of_head(outputs: int) -> int:
    """What it adds to have another number of channels than regions."""
    return (outputs - REGIONS) * LAST_LAYERS


def dynamic_head() -> int:
    weights = 8 * 8 + 8 * 8 + 2 * 8
    return (320 + K + 1) * (weights + 8 + 8 + 2) + 2 * 320 + of_head(8)


def test_methods_are_all_trainers_but_controls_without_tasks() -> None:
    names = {method.name for method in methods()}
    assert names == LEAVES - {"nnUNetTrainerStockSchedule", "nnUNetTrainerSTLCls"}


def test_every_method_says_whom_it_follows() -> None:
    for method in methods():
        assert method.title.endswith("."), method.name
        assert re.search(r"\b(19|20)\d\d\b", method.paper) or method.paper == "own", method.name
        assert method.source or method.paper == "own"


@pytest.mark.parametrize(
    ("source", "paper"),
    [
        ("After Fang and Yan, Multi-organ segmentation, IEEE TMI 2020: loss.", "Fang and Yan, TMI 2020"),
        ("After Liu et al., CLIP-driven model, ICCV 2023. No encoder.", "Liu et al., ICCV 2023"),
        ("After TGNet (Wu, Pang, Sowmya, ISBI 2022).", "Wu et al., ISBI 2022"),
        ("In that of TGNet (Wu, Pang, ISBI 2022), after Chen, Ma, 2019 (arXiv:1904.00625).",
         "Wu et al., ISBI 2022; Chen et al., 2019"),
        ("Own method of this package, as in TGNet (Wu, Pang, ISBI 2022).", "own, after Wu et al., ISBI 2022"),
        ("", "own"),
    ],
)  # fmt: skip
def test_the_paper_is_read_from_the_docstring(source: str, paper: str) -> None:
    assert Method(MultiTaskTrainer, "Title.", source).paper == paper


@pytest.mark.parametrize(
    ("trainer", "where", "passes"),
    [
        ("CondNO", (), (1, 1, 1)),
        ("MultiTalent", (), (1, 1, 1)),
        ("TAL", (), (1, 1, 1)),
        ("CLIPDriven", (), (1, 1, 1)),
        ("MTLNoAttention", (), (1, 1, 1)),
        ("CondInput", ("input",), (K, K, K)),
        ("CondDec", ("decoder",), (1, K, K)),
        ("MultiHead", ("decoder",), (1, K, K)),
        ("UniSeg", ("bottleneck",), (1, K, K)),
        ("DoDNet", ("head",), (1, 1, K)),
        ("MTLAttention", ("skips",), (1, K, K)),
        ("TGNetA", ("skips", "head"), (1, K, K)),
        ("TGNet", ("encoder", "skips", "head"), (K, K, K)),
    ],
)
def test_where_the_task_enters_and_what_it_costs(
    costs: dict[str, Cost], trainer: str, where: tuple[str, ...], passes: tuple[int, ...]
) -> None:
    assert (costs[trainer].enters, costs[trainer].passes) == (where, passes)


@pytest.mark.parametrize(
    ("trainer", "flops"),
    [("MTLAttention", 5.257), ("TGNet", 7.017), ("DoDNet", 1.011), ("OMNet", 1.851), ("ACSNet", 1.338), ("CTAN", 8.683),
     ("MultiHead", 5.248)],
)  # fmt: skip
def test_what_all_seven_tasks_cost(table: MethodTable, costs: dict[str, Cost], trainer: str, flops: float) -> None:
    assert costs[trainer].flops / table.stock.tile_flops == pytest.approx(flops, abs=5e-4)


@pytest.mark.parametrize(
    ("passes", "tasks", "text"),
    [
        ((1, 1, 1), 7, "1"),
        ((7, 7, 7), 7, "K"),
        ((1, 7, 7), 7, "1 encoder, K decoders"),
        ((1, 1, 7), 7, "1 encoder, 1 decoder, K heads"),
        ((1, 1, 1), 1, "1"),
        ((1, 3, 3), 7, "1 encoder, 3 decoders"),
    ],
)
def test_passes_in_words(passes: tuple[int, int, int], tasks: int, text: str) -> None:
    assert Passes(*passes).text(tasks) == text


def test_the_stock_network_is_nnunets_default(table: MethodTable) -> None:
    assert f"{table.stock.parameters / 1e6:.2f}" == "31.20"
    assert len(table.setting.tasks.tasks) == K
    assert len(table.setting.tasks.regions) == REGIONS
    # the same network with the outputs of one task, K times, instead of one with all of them
    outputs = [2, 2, 2, 2, 1, 1, 1]
    assert table.multi_nets_added == (K - 1) * table.stock.parameters + sum(of_head(number) for number in outputs)
    # at full resolution a 1x1 convolution of 32 channels has 9 or 10 outputs less than that of all regions
    fewer = sum(REGIONS - number for number in outputs)
    assert table.multi_nets.tile_flops == K * table.stock.tile_flops - 2 * 32 * fewer * 128**3


def test_parameters_by_the_published_formulas(costs: dict[str, Cost]) -> None:
    on_skips = sum((channels + K) * channels + 3 * channels for channels in SKIPS)
    on_shortcuts = sum((channels + K) * channels + channels for channels in CHANNELS)
    assert on_skips + on_shortcuts == 498_240
    assert costs["TGNetA"].added == on_skips + dynamic_head()
    # plain stages have no shortcuts: a projection with a normalisation wherever size or channels change
    projections = sum(before * after + 2 * after for before, after in pairwise((1, *CHANNELS)))
    assert costs["TGNet"].added == on_skips + on_shortcuts + projections + dynamic_head()
    assert costs["TGNetSpatial"].added == sum(3 * channels + K + 1 for channels in SKIPS) + dynamic_head()
    assert costs["DoDNet"].added == costs["DoDNet"].added_by_head == dynamic_head()
    assert costs["CondNO"].added == of_head(2)
    assert costs["CondInput"].added == K * 32 * 27 + of_head(2)
    assert costs["CondDec"].added == sum(K * channels * 27 for channels in SKIPS) + of_head(2)
    assert costs["MultiTalent"].added == costs["MTLNoAttention"].added == 0
    assert costs["TAL"].added == of_head(REGIONS + 1)
    decoder = sum(
        below * channels * 8 + channels + (2 * channels + channels) * channels * 27 + 2 * channels + 4 * channels
        for channels, below in pairwise(CHANNELS)
    )
    assert costs["MultiHead"].added == (K - 1) * (decoder + 2 * LAST_LAYERS) + of_head(2)
    for cost in costs.values():
        assert cost.parameters == cost.added + 31_202_839


def test_the_command_prints_the_table(
    table: MethodTable, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nnunet_mtl.lab.methods.table.method_table", lambda setting: table)
    assert main(["methods"]) == 0
    head, *lines, last = capsys.readouterr().out.splitlines()
    assert head.startswith("trainer ")
    assert [line.split()[0] for line in lines] == [method.name for method, _ in table.rows] + ["Multi-Nets"]
    (row,) = [line for line in lines if line.startswith("nnUNetTrainerDoDNet ")]
    assert re.split(r"\s{2,}", row) == [
        "nnUNetTrainerDoDNet", "Zhang et al., CVPR 2021", "head", "1 encoder, 1 decoder, K heads", "1.011",
        "+51,361 (+0.16 %)", "+51,361",
    ]  # fmt: skip
    assert last.startswith("stock: nnU-Net's default 3D network, 31,202,839 parameters")
    assert "955.7 GFLOPs" in last
    assert main(["methods", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(table.content()))


def write_plans(folder: Path, network: str, settings: dict[str, Any]) -> None:
    """Plans of a small 2D network of three stages, for two tasks with a question; written as nnU-Net lays them out."""
    architecture = {
        "network_class_name": network,
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": [4, 6, 8],
            "conv_op": "torch.nn.modules.conv.Conv2d",
            "kernel_sizes": [[3, 3]] * 3,
            "strides": [1, 2, [2, 1]],
            "n_blocks_per_stage" if "Residual" in network else "n_conv_per_stage": [1, 2, 2],
            "n_conv_per_stage_decoder": [1, 1],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
    }
    configuration = {"patch_size": [16, 12], "architecture": architecture, "batch_size": 2, "spacing": [1, 1]}
    plans = {"configurations": {"2d": configuration}, "nnunet_mtl": {"settings": settings}}
    dataset_json = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "liver": [1, 2], "liver_tumour": [2], "spleen": [3]},
        "regions_class_order": [1, 2, 3],
        "file_ending": ".nii.gz",
        "nnunet_mtl": {
            "version": 1,
            "tasks": {
                "liver": {"regions": ["liver", "liver_tumour"], "slots": ["organ", "tumour"]},
                "spleen": {"regions": ["spleen"], "slots": ["organ"]},
            },
            "classification": {"grade": {"kind": "nominal", "classes": ["low", "high"], "evidence": "liver_tumour"}},
        },
    }
    data = folder / "Dataset900_Small"
    data.mkdir(exist_ok=True)
    (data / "nnUNetPlans.json").write_text(json.dumps(plans))
    (data / "dataset.json").write_text(json.dumps(dataset_json))


@pytest.fixture
def preprocessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


STOCK = "dynamic_network_architectures.architectures.unet."


@pytest.mark.parametrize(
    "network",
    [f"{STOCK}PlainConvUNet", f"{STOCK}ResidualEncoderUNet", "nnunet_mtl.networks.unet.TaskGuidedPlainConvUNet"],
)
def test_the_table_of_plans(preprocessed: Path, network: str) -> None:
    write_plans(preprocessed, network, {})
    table = method_table(chosen_setting("900", None, "2d"))
    costs: dict[str, Any] = {method.name.removeprefix("nnUNetTrainer"): cost for method, cost in table.rows}
    shared = -(4 + 1 + 6 + 1)  # two slots instead of three regions, at two scales
    assert costs["CondInput"].added == 2 * 4 * 9 + shared
    assert costs["CondInput"].passes == (2, 2, 2)
    assert costs["CondNO"].added == shared
    assert costs["MultiTalent"].added == 0  # without the classification head, whatever the data set asks
    assert costs["MTLAttention"].passes == (1, 2, 2)
    # two networks instead of one: two regions and one instead of three
    assert table.multi_nets_added == table.stock.parameters + shared + 2 * shared
    assert costs["MultiTalent"].flops == costs["MTLNoAttention"].flops == table.stock.tile_flops
    assert "nnUNetPlans, 2d of Dataset900_Small" in table.text().splitlines()[-1]


def test_plans_may_be_named_alone_or_be_a_file(preprocessed: Path) -> None:
    write_plans(preprocessed, f"{STOCK}PlainConvUNet", {})
    path = preprocessed / "Dataset900_Small" / "nnUNetPlans.json"
    of_dataset = chosen_setting("900", None, "2d")
    assert chosen_setting(None, "nnUNetPlans", "2d") == of_dataset
    assert chosen_setting(None, str(path), "2d") == of_dataset
    other = preprocessed / "Dataset901_Other"
    other.mkdir()
    (other / path.name).write_text(path.read_text())
    with pytest.raises(PlanningError, match="have them: Dataset900_Small, Dataset901_Other; give one with -d"):
        chosen_setting(None, "nnUNetPlans", "2d")


def test_a_trainer_that_refuses_the_plans_says_why(preprocessed: Path) -> None:
    write_plans(preprocessed, f"{STOCK}PlainConvUNet", {"head": "slots"})
    table = method_table(chosen_setting("900", "nnUNetPlans", "2d"))
    refused = {method.name for method, cost in table.rows if isinstance(cost, str)}
    assert "nnUNetTrainerDoDNet" in refused
    assert "nnUNetTrainerCondNO" not in refused
    (reason,) = [line for line in table.text().splitlines() if line.startswith("nnUNetTrainerDoDNet: refused: ")]
    assert "head='slots' is not a head of nnUNetTrainerDoDNet" in reason
    (row,) = [row for row in table.content()["methods"] if row["trainer"] == "nnUNetTrainerDoDNet"]
    assert "added" not in row
    assert reason.endswith(row["refused"])


def test_what_is_not_there_is_refused(preprocessed: Path) -> None:
    with pytest.raises(PlanningError, match="'nnUNetPlans': data sets that have them: none; give one with -d"):
        chosen_setting(None, "nnUNetPlans", None)
    with pytest.raises(PlanningError, match="give them with -p"):
        chosen_setting(None, None, "2d")
    write_plans(preprocessed, f"{STOCK}PlainConvUNet", {})
    with pytest.raises(PlanningError, match="no configuration '3d_fullres'; known are 2d"):
        chosen_setting("900", None, None)
    with pytest.raises(PlanningError, match="no such plans"):
        chosen_setting("900", "others", "2d")
