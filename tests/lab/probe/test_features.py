from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.inference.model_folder import read_model
from nnunet_mtl.lab.probe.features import Describer, Source, describe_cases, open_source
from nnunet_mtl.lab.probe.images import Images
from nnunet_mtl.networks.pre_norm import run_encoder
from nnunet_mtl.networks.probe_head import patch_descriptor
from nnunet_mtl.tasks import TaskSet, read_dataset_json

CPU = torch.device("cpu")
Trained = Callable[..., Path]
CASES = ["liver_000", "kidney_001"]


def opened(folder: Path, data: Path, folds: tuple[int, ...] = (0,)) -> Source:
    tasks = TaskSet.from_dataset_json(read_dataset_json(data / "dataset.json"))
    return open_source(read_model(folder, folds, "checkpoint_final.pth"), tasks, tasks.classification)


def corners(length: int) -> list[int]:
    return [0] if length <= 16 else [0, length - 16] if length <= 24 else [0, (length - 16) // 2, length - 16]


@torch.no_grad()
def by_hand(source: Source, image: torch.Tensor, probability: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Descriptor of a case under a region, and evenly, from eight patches of 16 voxels."""
    network: Any = source.network
    network.eval()
    under, evenly, weights = [], [], []
    for z, y, x in torch.cartesian_prod(*[torch.tensor(corners(length)) for length in image.shape[1:]]).tolist():
        patch = image[None, :, z : z + 16, y : y + 16, x : x + 16]
        _, features = run_encoder(network.encoder, patch)
        mask = probability(network(patch))
        mask = mask * (mask >= 0.1)  # what is less probable is no evidence
        under.append(patch_descriptor(features, mask)[0])
        evenly.append(patch_descriptor(features, None)[0])
        weights.append(mask.sum()[None])
    weight = torch.stack(weights)
    return (torch.stack(under) * weight).sum(0) / weight.sum(), torch.stack(evenly).mean(0)


@pytest.mark.parametrize(
    ("model", "probability"),
    [
        ({}, lambda logits: logits[:, 1:2].sigmoid()),
        ({"plans": "tiny_resenc"}, lambda logits: logits[:, 1:2].sigmoid()),
        ({"trainer": "nnUNetTrainer", "labels": "regions"}, lambda logits: logits[:, 1:2].sigmoid()),
        ({"trainer": "nnUNetTrainer", "labels": "softmax"}, lambda logits: logits.softmax(1)[:, 2:3]),
    ],
    ids=["block", "residual encoder", "regions", "softmax"],
)
def test_a_case_is_the_mean_of_its_patches_weighted_by_the_evidence_the_network_predicts(
    trained: Trained, data: Path, model: Any, probability: Any
) -> None:
    source = opened(trained(**model), data)
    ((_, image),) = Images(source.model, data, CASES[:1])
    assert image.shape[1:] == (20, 24, 24)
    found = Describer(source, 0, CPU).describe(image)
    under, evenly = by_hand(source, image, probability)
    torch.testing.assert_close(found["malignancy"][0], under, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["severity"][0], evenly, rtol=1e-4, atol=1e-5)
    assert (under - evenly).abs().max() > 0.05
    assert found["severity"][1] is None
    assert found["malignancy"][1] is not None
    assert under.shape == (3 * sum(source.network.encoder.output_channels),)


def test_labels_that_make_up_a_region_are_added_up(trained: Trained, data: Path) -> None:
    tasks = TaskSet.from_dataset_json(read_dataset_json(data / "dataset.json"))
    question = replace(tasks.classification[0], evidence="liver")
    model = read_model(trained("nnUNetTrainer", labels="softmax"), (0,), "checkpoint_final.pth")
    source = open_source(model, tasks, [question])
    assert source.channels == {"malignancy": (1, 2)}
    image = torch.randn(1, 16, 16, 16)
    found, most = Describer(source, 0, CPU).describe(image)["malignancy"]
    under, _ = by_hand(source, image, lambda logits: logits.softmax(1)[:, 1:3].sum(1, keepdim=True))
    torch.testing.assert_close(found, under, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        probability = source.network(image[None]).softmax(1)[:, 1:3].sum(1)
    torch.testing.assert_close(most, probability[probability >= 0.1].sum())


def test_slices_are_described_by_a_network_for_slices(trained: Trained, data: Path) -> None:
    source = opened(trained("nnUNetTrainer", configuration="2d"), data)
    ((_, image),) = Images(source.model, data, CASES[:1])
    found = Describer(source, 0, CPU).describe(image)
    assert all(descriptor.isfinite().all() for descriptor, _ in found.values())
    alone = Describer(source, 0, CPU).describe(image[:, :1])
    assert not torch.equal(found["severity"][0], alone["severity"][0])


def test_the_weights_of_the_fold_are_used(trained: Trained, data: Path) -> None:
    source = opened(trained(folds=(0, 1)), data, (0, 1))
    images = Images(source.model, data, CASES)
    first, second, again = (describe_cases(source, fold, images, CPU) for fold in (0, 1, 0))
    for name in ("malignancy", "severity"):
        assert first[name].descriptors.shape[0] == len(CASES)
        assert np.array_equal(first[name].descriptors, again[name].descriptors)
        assert not np.allclose(first[name].descriptors, second[name].descriptors)
    assert first["severity"].evidence is None
    assert first["malignancy"].evidence is not None
    assert first["malignancy"].evidence.shape == (len(CASES),)


def test_a_network_that_learnt_no_segmentation_is_read_evenly(trained: Trained, data: Path) -> None:
    source = opened(trained("nnUNetTrainerSTLCls"), data)
    assert source.channels == {}
    found = Describer(source, 0, CPU).describe(torch.randn(1, 16, 16, 16))
    assert torch.equal(found["malignancy"][0], found["severity"][0])


def test_a_model_that_does_not_segment_the_evidence_is_refused(trained: Trained, data: Path) -> None:
    tasks = TaskSet.from_dataset_json(read_dataset_json(data / "dataset.json"))
    model = read_model(trained("nnUNetTrainer"), (0,), "checkpoint_final.pth")
    others = replace(tasks, region_labels=((1, 2), (1, 3), *tasks.region_labels[2:]))
    with pytest.raises(UserError, match=r"liver_tumour.*malignancy") as raised:
        open_source(model, others, tasks.classification)
    assert "\n" not in str(raised.value)


def test_features_that_are_not_finite_are_refused(trained: Trained, data: Path) -> None:
    source = opened(trained(), data)
    source.model.weights[0]["encoder.stages.0.0.convs.0.conv.weight"].fill_(float("nan"))
    with pytest.raises(UserError, match=r"liver_000.*not finite"):
        describe_cases(source, 0, Images(source.model, data, CASES), CPU)
