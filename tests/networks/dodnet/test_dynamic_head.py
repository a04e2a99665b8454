import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional

from nnunet_mtl.networks.dodnet.dynamic_head import (
    WIDTH,
    DynamicHead,
    PooledDescriptor,
    dynamic_layers,
    initialise_controller,
    theta_size,
)
from nnunet_mtl.networks.heads import DeepestStage
from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.networks.task_passes import PassResult, Step, TaskPasses

LAYOUT = Layout((0, 0, 1, 2, 2), (0, 1, 0, 0, 1), ((1, 2), (2,), (3,), (4,), (5,)))
CHANNELS = 12


def one_head(x: Tensor, theta: Tensor, outputs: int) -> Tensor:
    """The three layers of one sample, (W, *spatial), by PyTorch's own convolution."""
    convolve = {2: functional.conv2d, 3: functional.conv3d}[x.ndim - 1]
    width = len(x)
    position = 0
    weights, biases = [], []
    for out in (width, width, outputs):
        weights.append(theta[position : position + out * width].reshape(out, width, *[1] * (x.ndim - 1)))
        position += out * width
    for out in (width, width, outputs):
        biases.append(theta[position : position + out])
        position += out
    assert position == len(theta)
    x = functional.relu(convolve(x[None], weights[0], biases[0]))
    x = functional.relu(convolve(x, weights[1], biases[1]))
    return convolve(x, weights[2], biases[2])[0]


def deepest(batch: int, channels: int = CHANNELS) -> Tensor:
    """Features before a normalisation: their channels' means and scales are the image's own."""
    means = torch.randn(batch, channels, 1, 1, 1)
    return means + (0.5 + torch.rand(batch, channels, 1, 1, 1)) * torch.randn(batch, channels, 3, 2, 3)


@pytest.fixture
def head() -> DynamicHead:
    torch.manual_seed(0)
    return DynamicHead(LAYOUT, CHANNELS)


def test_published_layers_have_162_numbers_for_two_outputs_and_153_for_one() -> None:
    assert theta_size(8, 2) == 64 + 64 + 16 + 8 + 8 + 2 == 162
    assert theta_size(8, 1) == 153
    assert theta_size(5, 3) == 25 + 25 + 15 + 5 + 5 + 3


@pytest.mark.parametrize("size", [(4, 5), (2, 3, 4)])
@pytest.mark.parametrize(("width", "outputs", "heads"), [(8, 2, 1), (8, 1, 5), (3, 4, 2)])
def test_they_are_convolutions_with_every_samples_own_weights(
    size: tuple[int, ...], width: int, outputs: int, heads: int
) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, width, *size, dtype=torch.float64)
    theta = torch.randn(3, heads, theta_size(width, outputs), dtype=torch.float64)
    result = dynamic_layers(x, theta, outputs)
    assert result.shape == (3, heads, outputs, *size)
    for sample in range(3):
        for index in range(heads):
            torch.testing.assert_close(result[sample, index], one_head(x[sample], theta[sample, index], outputs))


def test_their_gradients_are_those_of_convolutions() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    theta = torch.randn(2, 2, theta_size(3, 2), dtype=torch.float64, requires_grad=True)
    factors = torch.randn(2, 2, 2, 4, 2, dtype=torch.float64)
    ours = torch.autograd.grad((dynamic_layers(x, theta, 2) * factors).sum(), (x, theta))
    loop = torch.stack([torch.stack([one_head(x[b], theta[b, h], 2) for h in range(2)]) for b in range(2)])
    for gradient, expected in zip(ours, torch.autograd.grad((loop * factors).sum(), (x, theta)), strict=True):
        torch.testing.assert_close(gradient, expected)


def test_the_first_weights_come_first_and_all_biases_last() -> None:
    """Of width 1 the layers are numbers: w1, w2, w3, b1, b2, b3."""
    x = torch.tensor([1.0, 2.0, -3.0]).reshape(1, 1, 3, 1)
    result = dynamic_layers(x, torch.tensor([2.0, 3.0, -1.0, 1.0, -10.0, 5.0]).reshape(1, 1, 6), 1)
    # 2 x + 1 = 3, 5, -5; relu; times 3 less 10: -1, 5, -10; relu; 5 - that
    assert result.flatten().tolist() == [5.0, 0.0, 5.0]


def test_half_precision_is_left_before_the_first_product() -> None:
    torch.manual_seed(0)
    x, theta = torch.randn(2, 8, 4, 4).bfloat16(), torch.randn(2, 1, 162)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = dynamic_layers(x, theta, 2)
    assert result.dtype == torch.float32
    assert torch.equal(result, dynamic_layers(x.float(), theta, 2))


def test_the_descriptor_tells_images_apart_whose_channels_differ_in_mean_only() -> None:
    """Behind an InstanceNorm, or a GroupNorm with one channel a group, it would be the same for both."""
    descriptor = PooledDescriptor(32)
    torch.manual_seed(0)
    texture, means = torch.randn(1, 32, 4, 4), torch.randn(2, 32, 1, 1)
    first, second = descriptor(texture + means)
    assert float((first - second).detach().std()) > 0.3 * float(torch.cat((first, second)).detach().std())


def test_the_descriptor_is_the_mean_of_what_is_positive_after_the_norm() -> None:
    descriptor = PooledDescriptor(2)  # one group
    x = torch.tensor([[3.0, 1.0, -1.0], [-3.0, 0.0, 0.0]]).reshape(1, 2, 3, 1)
    scale = math.sqrt(20 / 6 + 1e-5) / math.sqrt(2 * math.pi * 4 / 2)
    torch.testing.assert_close(descriptor(x), torch.tensor([[4 / 3, 0.0]]) / scale)


def test_the_descriptor_is_pooled_in_single_precision() -> None:
    descriptor = PooledDescriptor(16)
    image = 300 * deepest(2, 16)  # squares beyond the range of float16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = descriptor(image.half())
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, descriptor(image), atol=1e-2, rtol=0)


@pytest.mark.parametrize("channels", [24, 320])
def test_the_descriptors_squares_sum_to_about_four_at_the_start(channels: int) -> None:
    torch.manual_seed(0)
    squares = PooledDescriptor(channels)(torch.randn(4, channels, 8, 8, 8)).square().sum(1)
    torch.testing.assert_close(squares, torch.full((4,), 4.0), rtol=0.1, atol=0)


def test_a_controller_starts_layers_as_he_does_with_an_equal_share_of_every_source() -> None:
    torch.manual_seed(0)
    controller = nn.Linear(200 + 50, theta_size(16, 4))
    initialise_controller(controller, ((200, 9.0), (50, 1.0)), 16, last=0.5)
    first, last, biases = controller.weight.detach().split([2 * 256, 64, 36])
    for part, squares in ((first[:, :200], 9.0), (first[:, 200:], 1.0)):
        assert float(part.square().mean()) * squares == pytest.approx(0.5 * 2 / 16, rel=0.05)
    assert float(last[:, :200].square().mean()) * 9 == pytest.approx(0.5 * 2 / 16 * 0.25, rel=0.1)
    assert not biases.any()
    assert not controller.bias.any()


def test_layers_start_with_different_weights_for_every_task_and_keep_the_scale_of_features() -> None:
    torch.manual_seed(0)
    head = DynamicHead(Layout(tuple(range(7)), (0,) * 7, ((1,),) * 7), 64, width=32)
    theta = head.context(DeepestStage(torch.randn(1, 64, 6, 6, 6).expand(7, -1, -1, -1, -1)), torch.arange(7)).detach()
    weights = theta[:, : 2 * 32**2]
    assert float(weights.square().mean()) == pytest.approx(2 / 32, rel=0.1)
    assert float(weights.var(dim=0).mean()) == pytest.approx(1 / 32, rel=0.1)  # the task's half of it
    logits = dynamic_layers(torch.randn(7, 32, 16, 16), theta[:, None], 1)
    assert 0.5 < float(logits.square().mean().sqrt()) < 2


def test_it_has_the_published_number_of_parameters() -> None:
    """43,608 on the published backbone, 54,104 on nnU-Net's 3D U-Net, each with the published layer before it."""
    organs_and_tumours = Layout((0, 0, *range(1, 7)), (0, 1, 0, 0, 0, 0, 0, 0), ((1,),) * 8)

    def added(channels: int, last_stage: int) -> tuple[int, int]:
        head = DynamicHead(organs_and_tumours, channels)
        projection = nn.Conv3d(last_stage, DynamicHead.channels(organs_and_tumours), 1)
        before = nn.Sequential(nn.GroupNorm(16, last_stage), nn.ReLU(), projection)
        return tuple(sum(p.numel() for p in module.parameters()) for module in (head, before))

    assert added(256, 32) == (263 * 162 + 162 + 512, 328)
    assert sum(added(256, 32)) == 43_608
    assert added(320, 32) == (53_776, 328)
    assert sum(added(320, 32)) == 54_104
    assert sum(added(512, 32)) == 85_592


@pytest.mark.parametrize(("channels", "tasks", "slots", "width"), [(5, 2, 1, 8), (30, 3, 3, 4)])
def test_parameters_by_the_formula(channels: int, tasks: int, slots: int, width: int) -> None:
    layout = Layout((0,) * slots + tuple(range(1, tasks)), (*range(slots), *[0] * (tasks - 1)), ())
    count = sum(p.numel() for p in DynamicHead(layout, channels, width).parameters())
    numbers = 2 * width**2 + width * slots + 2 * width + slots
    assert count == (channels + tasks + 1) * numbers + 2 * channels


def test_a_region_reads_the_channel_of_its_slot(head: DynamicHead) -> None:
    features, layer = torch.randn(2, 4, 3, 3), nn.Conv2d(4, DynamicHead.channels(LAYOUT), 1)
    theta = torch.randn(2, 162)
    logits = head(features, layer, theta)
    assert logits.shape == (2, 5, 3, 3)
    for sample in range(2):
        slots = one_head(layer(features)[sample], theta[sample], 2)
        for region, slot in enumerate(LAYOUT.slot_of_region):
            torch.testing.assert_close(logits[sample, region], slots[slot])
    assert head.regions(logits) is logits
    assert head.shared
    assert head.conditioned
    assert head.reads_deepest


def test_another_width_is_asked_of_the_segmentation_layers_too() -> None:
    head, width = DynamicHead(LAYOUT, CHANNELS, width=5), DynamicHead.channels(LAYOUT, width=5)
    assert width == 5
    assert DynamicHead.channels(LAYOUT) == WIDTH == 8
    theta = head.context(DeepestStage(deepest(2)), torch.tensor([0, 2]))
    assert head(torch.randn(2, 4, 3, 3), nn.Conv2d(4, width, 1), theta).shape == (2, 5, 3, 3)


def test_theta_depends_on_the_task_at_a_fixed_image_and_on_the_image_at_a_fixed_task(head: DynamicHead) -> None:
    with torch.no_grad():
        same_image = head.context(DeepestStage(deepest(1).expand(3, -1, -1, -1, -1)), torch.arange(3))
        same_task = head.context(DeepestStage(deepest(8)), torch.ones(8, dtype=torch.long))
    assert float(same_image[:, :144].std(0).mean()) > 0.05
    assert float(same_task[:, :144].std(0).mean()) > 0.05


def test_logits_depend_on_the_task_and_on_the_encoder(head: DynamicHead) -> None:
    encoder, features, layer = nn.Conv3d(1, CHANNELS, 3), torch.randn(2, 4, 3, 3), nn.Conv2d(4, 8, 1)
    theta = head.context(DeepestStage(encoder(torch.randn(2, 1, 5, 5, 5))), torch.tensor([2, 0]))
    head(features, layer, theta).square().sum().backward()
    assert float(encoder.weight.grad.abs().sum()) > 0  # through theta alone: the features are constants
    of_tasks = head.controller.weight.grad[:, CHANNELS:].abs().sum(0)
    assert float(of_tasks[1]) == 0
    assert float(of_tasks[[0, 2]].min()) > 0


def test_a_batch_of_mixed_tasks_equals_its_samples_alone(head: DynamicHead) -> None:
    features, layer, read = torch.randn(3, 4, 3, 3), nn.Conv2d(4, 8, 1), deepest(3)
    task = torch.tensor([2, 0, 2])
    together = head(features, layer, head.context(DeepestStage(read), task))
    for i in range(3):
        alone = head(features[[i]], layer, head.context(DeepestStage(read[[i]]), task[[i]]))
        torch.testing.assert_close(together[[i]], alone)


def test_one_theta_serves_scales_of_any_size(head: DynamicHead) -> None:
    theta = head.context(DeepestStage(deepest(2)), torch.tensor([0, 1]))
    for channels, size in ((4, 8), (6, 4)):
        layer = nn.Conv3d(channels, 8, 1)
        features = torch.randn(2, channels, size, size, 2)
        logits = head(features, layer, theta)
        slots = one_head(layer(features)[1], theta[1], 2)
        torch.testing.assert_close(logits[1], slots[list(LAYOUT.slot_of_region)])


def test_the_controller_computes_in_single_precision(head: DynamicHead) -> None:
    read, task = deepest(2), torch.tensor([0, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theta = head.context(DeepestStage(read.bfloat16()), task)
    assert theta.dtype == torch.float32
    assert torch.equal(theta, head.context(DeepestStage(read.bfloat16().float()), task))


class Trunk(nn.Module):
    """Returns features and what is read of the bottleneck; counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, CHANNELS, 3, 2, 1))
        self.decoder = nn.Sequential(nn.ReLU(), nn.Upsample(scale_factor=2), nn.Conv2d(CHANNELS, 4, 3, 1, 1))
        self.calls = 0

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        read = self.encoder(image)
        return self.decoder(read), read


def test_all_tasks_cost_one_trunk_and_k_heads_and_equal_whole_passes(head: DynamicHead) -> None:
    trunk, layer, passes = Trunk(), nn.Conv2d(4, 8, 1), TaskPasses(LAYOUT.task_of_region)

    def segment(state: tuple[Tensor, Tensor], *task: Tensor) -> PassResult:
        features, read = state
        return PassResult(head(features, layer, head.context(DeepestStage(read), *task)))

    steps = Step(trunk, conditioned=False), Step(segment, head.conditioned)
    image = torch.randn(2, 1, 8, 8)
    logits, _ = passes(steps, image)
    assert trunk.calls == 1
    whole = [passes(steps, image, torch.tensor([task, task]))[0] for task in range(3)]
    assert trunk.calls == 4
    for region, task in enumerate(LAYOUT.task_of_region):
        assert torch.equal(logits[:, region], whole[task][:, region])
    # regions 0 and 2 read the same slot: only the task tells them apart
    assert float((logits[:, 0] - logits[:, 2]).detach().abs().max()) > 0.1


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_compiler")
def test_compilation_breaks_no_graph_and_recompiles_for_no_task(head: DynamicHead) -> None:
    """Once for the batch of training, once for that of prediction, whatever the tasks and in whatever order."""
    layer = nn.Conv2d(4, 8, 1)

    def segment(features: Tensor, read: Tensor, task: Tensor) -> Tensor:
        return head(features, layer, head.context(DeepestStage(read), task))

    counter = CompileCounter()
    compiled = torch.compile(segment, backend=counter, fullgraph=True)
    for batches, compilations in (([[0, 0], [1, 2], [2, 0]], 1), ([[1], [0], [2], [2, 2]], 2)):
        for tasks in batches:
            arguments = torch.randn(len(tasks), 4, 3, 3), deepest(len(tasks)), torch.tensor(tasks)
            torch.testing.assert_close(compiled(*arguments), segment(*arguments))
        assert counter.frame_count == compilations


def test_a_checkpoint_holds_the_controller_and_the_norm_only(head: DynamicHead) -> None:
    names = {name.split(".")[0] for name in head.state_dict()}
    assert names == {"controller", "descriptor"}
