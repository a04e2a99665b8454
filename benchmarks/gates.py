"""How much of a trained gate is decided by the task, by the image, and by the two together.

Every gate's factors over N patches x K tasks are split per channel as in a two-way analysis of variance; the shares of
a gate are those of its channels, weighted by their variance. A gate with a small image share knows the task only.

    python benchmarks/gates.py                                  trains a small network on synthetic patches first
    python benchmarks/gates.py --model FOLDER --patches FOLDER  a trainer's results folder, and the folder of the
                                                                preprocessed configuration it was trained on;
                                                                nnU-Net must find the trainer (nnunet_mtl enable)
"""

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_mtl.networks.attention import Gates, TaskGuidedAttention
from nnunet_mtl.networks.tgnet.descriptor_gate import DescriptorGate
from nnunet_mtl.networks.unet import TaskGuidedPlainConvUNet

NUM_TASKS = 5
PATCH = 64


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="results folder TRAINER__PLANS__CONFIGURATION")
    parser.add_argument("--patches", type=Path, help="folder of preprocessed cases to cut patches from")
    parser.add_argument("--fold", default="0", help="fold of --model, a number or all")
    parser.add_argument("--checkpoint", default="checkpoint_final.pth", help="file name in the fold's folder")
    parser.add_argument("--gates", default="identity", choices=("identity", "faithful"), help="of the synthetic run")
    parser.add_argument("--steps", type=int, default=400, help="training steps of the synthetic run")
    parser.add_argument("--images", type=int, default=64, help="number of patches the factors are computed on")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if (arguments.model is None) != (arguments.patches is None):
        parser.error("--model and --patches go together")
    torch.manual_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    if arguments.model is None:
        network: nn.Module = synthetic_network(arguments.gates)
        train(network, arguments.steps, rng)
        images = synthetic_patches(arguments.images, rng)[0]
    else:
        network, patch_size = load_network(arguments.model, arguments.fold, arguments.checkpoint)
        images = preprocessed_patches(arguments.patches, patch_size, arguments.images, rng)
    print(table(factors_of(network, images)))


def gates_of(network: nn.Module) -> dict[str, nn.Module]:
    """Return every gate by its name in the network: on the skips, and in the encoder if there are any."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, TaskGuidedAttention | DescriptorGate)
    }


@contextmanager
def recorded_factors(gates: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Collect the factors (B, C) of every gate; of a gate for voxels those of the voxels' mean."""
    found: dict[str, Tensor] = {}

    def record(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(module, TaskGuidedAttention):
            _, coarser, _, task = inputs
            found[name] = module.factors(coarser, task)
        else:
            found[name] = output.flatten(2).mean(2)

    handles = [gate.register_forward_hook(partial(record, name)) for name, gate in gates.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def factors_of(network: Any, images: Tensor, batch: int = 8) -> dict[str, Tensor]:
    """Return the factors of each gate by its name, each (N, K, C)."""
    network.eval()
    gates = gates_of(network)
    if not gates:
        raise SystemExit("the network has no gates")
    rows: dict[str, list[Tensor]] = {name: [] for name in gates}
    for part in torch.split(images, batch):
        of_tasks = []
        for task in range(network.passes.num_tasks):
            with recorded_factors(gates) as found:
                network(part, torch.full((len(part),), task))
            of_tasks.append(found)
        for name, of_gate in rows.items():
            of_gate.append(torch.stack([of_task[name] for of_task in of_tasks], dim=1))
    return {name: torch.cat(parts) for name, parts in rows.items()}


def shares(factors: Tensor) -> tuple[float, float, float, float]:
    """Return the shares of task, image and interaction in the variance of factors (N, K, C), and that variance."""
    centred = (factors - factors.mean((0, 1))).double()
    of_task = centred.mean(0, keepdim=True)
    of_image = centred.mean(1, keepdim=True)
    interaction = centred - of_task - of_image
    parts = [float(part.square().mean((0, 1)).sum()) for part in (of_task, of_image, interaction)]
    total = max(sum(parts), 1e-30)
    return parts[0] / total, parts[1] / total, parts[2] / total, total / factors.shape[2]


def table(gates: Mapping[str, Tensor]) -> str:
    """Return the shares of every gate as text."""
    width = max(map(len, gates))
    lines = [f"{'gate':{width}}  channels  factor std   task  image  interaction"]
    for name, factors in gates.items():
        task, image, both, variance = shares(factors)
        lines.append(
            f"{name:{width}}  {factors.shape[2]:8}  {variance**0.5:10.4f}  {task:5.1%}  {image:5.1%}  {both:11.1%}"
        )
    images, tasks = next(iter(gates.values())).shape[:2]
    return "\n".join([*lines, f"({images} patches x {tasks} tasks; gates on skips from the coarsest on)"])


def synthetic_network(gates: Gates) -> TaskGuidedPlainConvUNet:
    """Return a small 2D network with one region per task, initialised as nnU-Net does."""
    features = [16, 32, 64, 96]
    network = TaskGuidedPlainConvUNet(
        input_channels=1,
        n_stages=len(features),
        features_per_stage=features,
        conv_op=nn.Conv2d,
        kernel_sizes=[[3, 3]] * len(features),
        strides=[[1, 1]] + [[2, 2]] * (len(features) - 1),
        n_conv_per_stage=[2] * len(features),
        n_conv_per_stage_decoder=[2] * (len(features) - 1),
        conv_bias=True,
        norm_op=nn.InstanceNorm2d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        num_classes=NUM_TASKS,
        task_of_region=list(range(NUM_TASKS)),
        gates=gates,
    )
    network.apply(TaskGuidedPlainConvUNet.initialize)
    return network


def synthetic_patches(count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw patches of bodies with organs: images (N, 1, Y, X), z-scored, and organ masks (N, K, Y, X).

    An organ has its place, shape and grey value; field of view, contrast phase, noise and smoothness differ per image.
    """
    axis = np.linspace(-1, 1, PATCH)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    place = np.array([(-0.3, -0.4), (-0.3, 0.45), (0.35, -0.35), (0.35, 0.4), (0.05, 0.0)])
    radius = np.array([(0.35, 0.25), (0.22, 0.25), (0.25, 0.16), (0.25, 0.16), (0.14, 0.22)])
    grey = np.array([0.8, 0.7, 0.5, 0.5, 0.6])
    uptake = np.array([0.3, 0.5, 0.9, 0.9, -0.2])
    images = np.empty((count, 1, PATCH, PATCH), np.float32)
    masks = np.zeros((count, NUM_TASKS, PATCH, PATCH), np.float32)
    for n in range(count):
        zoom, shift = rng.uniform(0.7, 1.6), rng.uniform(-0.5, 0.5, 2)
        body = ((y * zoom - shift[0]) / 0.8) ** 2 + ((x * zoom - shift[1]) / 0.95) ** 2 < 1
        image = np.where(body, 0.3, 0.0)
        phase = rng.uniform()
        for k in range(NUM_TASKS):
            centre = place[k] + rng.normal(0, 0.05, 2) + shift
            size = radius[k] * rng.uniform(0.8, 1.2)
            inside = ((y * zoom - centre[0]) / size[0]) ** 2 + ((x * zoom - centre[1]) / size[1]) ** 2 < 1
            masks[n, k] = inside & body
            image = np.where(masks[n, k] > 0, grey[k] + uptake[k] * phase, image)
        images[n, 0] = _acquire(image, rng)
    return torch.from_numpy(images), torch.from_numpy(masks)


def _acquire(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    tensor = torch.from_numpy(image + rng.normal(0, rng.uniform(0.05, 0.4), image.shape))[None, None]
    for _ in range(rng.integers(1, 4)):
        tensor = functional.avg_pool2d(tensor, 3, stride=1, padding=1)
    return ((tensor - tensor.mean()) / tensor.std())[0, 0].numpy()


def train(network: nn.Module, steps: int, rng: np.random.Generator, batch: int = 8) -> None:
    """Train on synthetic patches; a task is drawn per sample, and its channel alone enters the loss."""
    optimizer = torch.optim.SGD(network.parameters(), 5e-2, momentum=0.9, nesterov=True, weight_decay=3e-5)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, power=0.9)
    network.train()
    for step in range(steps):
        images, masks = synthetic_patches(batch, rng)
        task = torch.from_numpy(rng.integers(0, NUM_TASKS, batch))
        rows = torch.arange(batch)
        logits, target = network(images, task)[rows, task], masks[rows, task]
        probabilities = logits.sigmoid()
        overlap = 2 * (probabilities * target).sum((1, 2)) / ((probabilities + target).sum((1, 2)) + 1e-5)
        loss = functional.binary_cross_entropy_with_logits(logits, target) + 1 - overlap.mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1}/{steps}: loss {loss.item():.3f}, Dice {overlap.mean().item():.3f}", flush=True)


def load_network(model: Path, fold: str, checkpoint: str) -> tuple[nn.Module, tuple[int, ...]]:
    """Return the trained network of a results folder and its patch size in voxels."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    folds = (fold if fold == "all" else int(fold),)
    predictor.initialize_from_trained_model_folder(str(model), use_folds=folds, checkpoint_name=checkpoint)
    predictor.network.load_state_dict(predictor.list_of_parameters[0])
    return predictor.network, tuple(predictor.configuration_manager.patch_size)


def preprocessed_patches(folder: Path, patch_size: tuple[int, ...], count: int, rng: np.random.Generator) -> Tensor:
    """Cut patches at random places from nnU-Net's preprocessed cases, (N, C, *spatial), zero-padded where too small."""
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    dataset_class = infer_dataset_class(str(folder))
    cases = dataset_class(str(folder), dataset_class.get_identifiers(str(folder)))
    patches = []
    for n in range(count):
        image = np.asarray(cases.load_case(cases.identifiers[n % len(cases.identifiers)])[0], dtype=np.float32)
        if len(patch_size) == 2:
            image = image[:, rng.integers(image.shape[1])]
        pad = [(0, max(0, size - extent)) for size, extent in zip(patch_size, image.shape[1:], strict=True)]
        image = np.pad(image, [(0, 0), *pad])
        starts = [rng.integers(extent - size + 1) for size, extent in zip(patch_size, image.shape[1:], strict=True)]
        window = [slice(start, start + size) for start, size in zip(starts, patch_size, strict=True)]
        patches.append(image[(slice(None), *window)])
    return torch.from_numpy(np.stack(patches))


if __name__ == "__main__":
    main()
