from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from nnunet_mtl.networks.acsnet.channel_attention_head import ChannelAttentionHead
from nnunet_mtl.networks.classification import BottleneckHead, EvidenceHead
from nnunet_mtl.networks.description import ArchitectureError
from nnunet_mtl.networks.streams.stream_heads import StreamHead
from nnunet_mtl.networks.task_passes import OFF

Build = Callable[..., Any]
CallsOf = Callable[[nn.Module], AbstractContextManager[list[tuple[Any, ...]]]]
METHODS = ["hps", "mtan", "mtan_resnet", "ctan_encoder", "ctan_bottleneck", "ctan"]
KINDS = ["plain", "residual"]
ASKED = [
    {"name": "malignant", "outputs": 2, "evidence": 1, "task": 2},
    {"name": "stage", "outputs": 3, "evidence": -1, "task": -1},
]
ANSWERING: dict[str, Any] = {"questions": ASKED, "classification": StreamHead, "regressions": ["dose", "age"]}


def image(batch: int = 2, dimensions: int = 2, edge: int = 16) -> Tensor:
    return torch.randn(batch, 1, *[edge] * dimensions, generator=torch.Generator().manual_seed(1))


def everything(network: Any, x: Tensor) -> Any:
    return network(x, task=torch.zeros(len(x), dtype=torch.long), full_output=True)


def gradients(network: Any, value: Tensor) -> dict[str, Tensor | None]:
    network.zero_grad()
    value.backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_hard_parameter_sharing_of_one_task_is_the_stock_network(
    build: Build, build_streamed: Build, kind: str, dimensions: int
) -> None:
    ours = build_streamed("hps", kind, dimensions=dimensions, task_of_region=[0] * 4)
    stock = build(kind, stock=True, dimensions=dimensions, num_classes=4)
    assert ours.state_dict().keys() == stock.state_dict().keys()
    ours.load_state_dict(stock.state_dict())
    x = image(2, dimensions)
    for logits, expected in zip(everything(ours, x).segmentation, stock(x), strict=True):
        assert torch.equal(logits, expected)
    assert torch.equal(ours(x), stock(x)[0])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_has_the_stock_keys_and_nothing_is_registered_twice(
    build: Build, build_streamed: Build, kind: str, method: str
) -> None:
    ours, stock = build_streamed(method, kind, **ANSWERING).state_dict(), build(kind, stock=True).state_dict()
    encoder = {key for key in stock if "encoder." in key}
    assert encoder == {key for key in ours if "encoder." in key}
    assert {key for key in stock if ".seg_layers." not in key} <= ours.keys()

    def again(state: dict[str, Tensor]) -> int:
        # of the encoder under the decoder, and of the convolutions in their blocks, both stock habits
        own = {key: value for key, value in state.items() if ".all_modules." not in key}
        return len(own) - len({value.data_ptr() for value in own.values()})

    assert again(ours) == again(stock)


def test_every_task_is_decoded_by_a_stock_decoder_of_its_own(build: Build, build_streamed: Build) -> None:
    ours = build_streamed("hps", "residual").eval()
    x = image()
    decoders = [ours.decoder, *ours.decoders.others]
    assert [layer.out_channels for layer in ours.decoder.seg_layers] == [2, 2]
    for task, regions in enumerate(([0, 3], [2], [1, 4])):
        stock = build("residual", stock=True, num_classes=len(regions)).eval()
        stock.encoder.load_state_dict(ours.encoder.state_dict())
        own = {key: value for key, value in decoders[task].state_dict().items() if not key.startswith("encoder.")}
        assert not stock.decoder.load_state_dict(own, strict=False).unexpected_keys
        expected = stock(x)
        for logits, of_stock in zip(everything(ours, x).segmentation, expected, strict=True):
            torch.testing.assert_close(logits[:, regions], of_stock, atol=1e-6, rtol=1e-5)
    starts = [decoder.stages[0].convs[0].conv.weight for decoder in decoders]
    assert not torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[1], starts[2])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tasks", [1, 2, 7])
def test_all_tasks_cost_one_pass_of_the_encoder(
    build_streamed: Build, calls_of: CallsOf, kind: str, method: str, tasks: int
) -> None:
    network = build_streamed(method, kind, task_of_region=[*range(tasks), 0]).eval()
    assert not network.conditioned
    with calls_of(network.get_submodule(network.keys_to_in_proj[0])) as stem, torch.no_grad():
        logits = network(image())
    assert len(stem) == 1
    assert logits.shape == (2, tasks + 1, 16, 16)
    with torch.no_grad():  # which task a sample is of changes nothing
        assert torch.equal(network(image(), task=torch.tensor([tasks - 1, 0])), logits)


LAYOUTS: list[dict[str, Any]] = [
    {"features": (4, 5), "dimensions": 2},
    {"features": (3, 5, 7, 7), "dimensions": 3, "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 1]]},
    {"features": (4, 6, 8), "dimensions": 3, "kernels": [[1, 3, 3], [3, 3, 3], [3, 1, 3]], "convs": 1},
    {"features": (4, 4, 4, 4, 4), "dimensions": 2, "strides": [[1, 1], [2, 2], [2, 1], [1, 1], [1, 2]]},
    {"features": (4, 6, 8, 8, 10, 10), "dimensions": 2},
    {"features": (4, 6, 8), "dimensions": 2, "strides": [[1, 1], [3, 2], [2, 3]], "convs": 3},
]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_of_stages_gives_logits_of_the_images_shape(
    build_streamed: Build, build: Build, kind: str, layout: dict[str, Any], method: str
) -> None:
    shape = {3: (8, 16, 16), 2: (36, 36) if [3, 2] in layout.get("strides", []) else (64, 64)}[layout["dimensions"]]
    network = build_streamed(method, kind, regressions=["dose"], **layout).eval()
    x = torch.randn(1, 1, *shape)
    with torch.no_grad():
        output, stock = everything(network, x), build(kind, stock=True, **layout).eval()(x)
    assert [scale.shape for scale in output.segmentation] == [scale.shape for scale in stock]
    assert output.regression["dose"].shape == (1, 1, *shape)
    assert all(bool(scale.isfinite().all()) for scale in (*output.segmentation, output.regression["dose"]))


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_where_a_stage_has_one_block_its_first_output_is_its_last(build_streamed: Build, blocks: int) -> None:
    network = build_streamed("mtan", n_conv_per_stage=[blocks] * 3)
    x = image()
    encoded = network._encode(x, keep_features=True)
    for stage, features in zip(network.encoder.stages, encoded.stages, strict=True):
        convs = stage[0].convs
        assert torch.equal(features.inner, convs[0](x))
        x = stage(x)
        assert torch.equal(features.last, x)
        assert (features.inner is features.last) == (blocks == 1)
        renormed = convs[-1].nonlin(convs[-1].norm(features.before_norm))
        torch.testing.assert_close(renormed, x)
    assert [id(stage.before_norm) for stage in encoded.stages] == [id(each) for each in encoded.before_norm]


@pytest.mark.parametrize("method", ["hps", "mtan", "ctan"])
def test_a_region_is_answered_by_its_task_whatever_their_order(build_streamed: Build, method: str) -> None:
    # an order that is not its own inverse
    network = build_streamed(method, task_of_region=[2, 0, 1, 0, 2]).eval()
    x = image()
    before = everything(network, x).segmentation
    for task, regions in enumerate(([1, 3], [2], [0, 4])):
        for scale in range(2):
            (layer,) = [part for part in network.decoders.layers(network.decoder, task)[1 - scale].modules()
                        if getattr(part, "out_channels", 0) == len(regions)]  # fmt: skip
            with torch.no_grad():
                layer.bias += torch.arange(1, len(regions) + 1)
            after = everything(network, x).segmentation
            moved = (after[scale] - before[scale]).mean((0, 2, 3))
            expected = torch.zeros(5)
            expected[regions] = torch.arange(1.0, len(regions) + 1)
            torch.testing.assert_close(moved, expected, atol=1e-5, rtol=0)
            assert torch.equal(after[1 - scale], before[1 - scale])
            before = after


@pytest.mark.parametrize("method", ["hps", "mtan", "ctan"])
def test_the_mode_follows_from_the_arguments_and_memory_is_fresh(build_streamed: Build, method: str) -> None:
    network = build_streamed(method, **ANSWERING)
    for training in (True, False):
        network.train(training)
        network.decoder.deep_supervision = True
        first = network(image())
        assert isinstance(first, Tensor)
        assert first.is_contiguous()
        assert isinstance(network(image(), full_output=True).segmentation, Tensor)
        assert [scale.shape[2] for scale in everything(network, image()).segmentation] == [16, 8]
        network.decoder.deep_supervision = False
        assert everything(network, image()).segmentation.shape == (2, 5, 16, 16)
        assert network(image()).data_ptr() != network(image()).data_ptr()
    network.select_tasks([1])
    logits = network(image())
    assert bool((logits[:, [0, 1, 3, 4]] == OFF).all())
    assert not bool((logits[:, 2] == OFF).any())


def test_a_loss_moves_the_encoder_and_the_decoder_of_its_task_and_no_other(build_streamed: Build) -> None:
    network = build_streamed("hps", **(ANSWERING | {"classification": BottleneckHead})).double().eval()
    with torch.no_grad():  # answers start at zero, and nothing would come back through them
        for answer in network.classification.answers:
            answer.output.weight.normal_()
    x = image().double()

    def terms() -> list[Tensor]:
        output = everything(network, x)
        segmentation = [output.segmentation[0][:, regions].square().sum() for regions in ([0, 3], [2], [1, 4])]
        others = (*output.regression.values(), *output.classification.values())
        return [*segmentation, *(value.square().sum() for value in others)]

    decoders = [network.decoder, *network.decoders.others, *network.classification.answers]
    owned = [{id(p) for name, p in each.named_parameters() if not name.startswith("encoder.")} for each in decoders]
    total = {}
    for index in range(7):
        found = gradients(network, terms()[index])
        moved = {id(p) for name, p in network.named_parameters() if found[name] is not None and found[name].any()}
        for other, ids in enumerate(owned):
            assert bool(moved & ids) == (other == index)
        encoder = {
            name: found[name].clone() for name in found if name.startswith("encoder.") and found[name] is not None
        }
        assert any(bool(value.any()) for value in encoder.values())
        total |= {name: value + total.get(name, 0) for name, value in encoder.items()}
    together = gradients(network, torch.stack(terms()).sum())
    for name, value in total.items():
        torch.testing.assert_close(value, together[name], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("head", "class_gradient"), [(StreamHead, 0.0), (StreamHead, 1.0), (BottleneckHead, 1.0), (EvidenceHead, 0.5)]
)
@pytest.mark.parametrize("method", METHODS)
def test_every_parameter_gets_a_gradient(build_streamed: Build, method: str, head: type, class_gradient: float) -> None:
    """DistributedDataParallel waits for each."""
    network = build_streamed(method, **(ANSWERING | {"classification": head, "class_gradient": class_gradient}))
    output = everything(network, image())
    values = (*output.segmentation, *output.regression.values(), *output.classification.values())
    found = gradients(network, torch.stack([value.sum() for value in values]).sum())
    assert [name for name, gradient in found.items() if gradient is None] == []


@pytest.mark.parametrize("class_gradient", [0.0, 0.25])
def test_how_much_of_an_answers_gradient_reaches_the_streams(build_streamed: Build, class_gradient: float) -> None:
    def of_answers(factor: float, head: type) -> dict[str, Tensor | None]:
        network = build_streamed("mtan", **(ANSWERING | {"classification": head, "class_gradient": factor}))
        with torch.no_grad():
            for answer in network.classification.answers:
                answer.output.weight.fill_(1.0)
        answers = everything(network, image()).classification
        return gradients(network, torch.stack([value.square().sum() for value in answers.values()]).sum())

    whole, part = of_answers(1.0, StreamHead), of_answers(class_gradient, StreamHead)
    for name, value in whole.items():
        if value is not None and value.any():
            factor = 1.0 if name.startswith("classification.") else class_gradient
            torch.testing.assert_close(part[name], factor * value, atol=1e-6, rtol=1e-4)
    assert whole["streams.masks.5.0.0.weight"] is not None


@pytest.mark.parametrize("method", METHODS)
def test_a_sample_does_not_tell_on_another(build_streamed: Build, method: str) -> None:
    network = build_streamed(method, **ANSWERING).eval()
    x = image(3)
    together = everything(network, x)
    for n in range(3):
        alone = everything(network, x[n : n + 1])
        pairs = [*zip(together.segmentation, alone.segmentation, strict=True)]
        pairs += [(together.regression[name], alone.regression[name]) for name in alone.regression]
        pairs += [(together.classification[name], alone.classification[name]) for name in alone.classification]
        for ours, expected in pairs:
            torch.testing.assert_close(ours[n : n + 1], expected, atol=1e-4, rtol=1e-4)


def test_a_question_about_a_region_reads_the_decoder_of_its_task(build_streamed: Build, calls_of: CallsOf) -> None:
    network = build_streamed("hps", **(ANSWERING | {"classification": EvidenceHead})).eval()
    norms = [each.stages[0].convs[-1].norm for each in (network.decoder, *network.decoders.others)]
    for index, task in enumerate((2, 0)):  # one without evidence reads no decoder
        with calls_of(network.classification) as asked, calls_of(norms[task]) as read:
            everything(network, image())
        assert torch.equal(asked[index][1].decoder, read[0][0])
        assert [each.shape[1] for each in asked[index][1].encoder] == [4, 6, 8]
        assert asked[index][1].streams == []
    shared = build_streamed("mtan", **(ANSWERING | {"classification": EvidenceHead})).eval()
    with calls_of(shared.classification) as asked, calls_of(shared.decoder.stages[0].convs[-1].norm) as read:
        everything(shared, image())
    assert torch.equal(asked[0][1].decoder, read[0][0])


def test_what_is_not_asked_for_is_not_computed(build_streamed: Build, calls_of: CallsOf) -> None:
    network = build_streamed("mtan_resnet", **ANSWERING)
    regression, question = network.decoders.others[2], network.streams.masks[5][0]
    with calls_of(regression.transpconvs[0]) as decoded, calls_of(question[0]) as masked, torch.no_grad():
        network(image())
        assert (len(decoded), len(masked)) == (0, 0)
        network(image(), full_output=True)
    assert (len(decoded), len(masked)) == (1, 1)
    assert len(regression.seg_layers) == 1  # a value per voxel is supervised at full resolution alone


@pytest.mark.parametrize("method", METHODS)
def test_tasks_that_are_not_selected_are_not_decoded(build_streamed: Build, calls_of: CallsOf, method: str) -> None:
    network = build_streamed(method, **(ANSWERING | {"classification": EvidenceHead})).eval()
    layers = [network.decoders.layers(network.decoder, index)[-1] for index in range(3)]
    with torch.no_grad():
        every = network(image(), full_output=True)
        network.select_tasks([2])
        with calls_of(layers[0]) as first, calls_of(layers[1]) as second, calls_of(layers[2]) as third:
            one = network(image(), full_output=True)
    assert (len(first), len(second), len(third)) == (0, 0, 1)
    of_task = [index for index, task in enumerate([0, 2, 1, 0, 2]) if task == 2]
    assert torch.equal(one.segmentation[:, of_task], every.segmentation[:, of_task])
    assert (one.segmentation[:, [0, 2, 3]] == OFF).all()
    for name, answer in every.classification.items():  # one about task 2, one about none
        assert torch.equal(one.classification[name], answer)


def test_a_task_that_meets_no_other_is_decoded_before_the_next_one_is_masked(build_streamed: Build) -> None:
    """So that the features of one task at a time need memory in prediction."""
    order: list[str] = []
    network = build_streamed("mtan_resnet").eval()
    for index in range(3):
        network.streams.masks[index][0].register_forward_pre_hook(lambda *_, i=index: order.append(f"mask {i}"))
        layer = (network.decoder, *network.decoders.others)[index].seg_layers[-1]
        layer.register_forward_pre_hook(lambda *_, i=index: order.append(f"answer {i}"))
    with torch.no_grad():
        network(image())
    assert order == ["mask 0", "answer 0", "mask 1", "answer 1", "mask 2", "answer 2"]


@pytest.mark.parametrize(("method", "less"), [("mtan", "attention"), ("ctan", "attention"), ("hps", "all")])
def test_what_is_recomputed_gives_the_same_gradients_for_less_memory(
    build_streamed: Build, saved_bytes: Any, method: str, less: str
) -> None:
    found, sizes = {}, {}
    for recompute in ("none", less):
        network = build_streamed(method, task_of_region=list(range(7)), method_options={"recompute": recompute})
        x = image(1, edge=32)
        sizes[recompute] = saved_bytes(lambda network=network, x=x: everything(network, x).segmentation)
        found[recompute] = gradients(network, everything(network, x).segmentation[0].square().mean())
    for name, value in found["none"].items():
        if value is not None:
            torch.testing.assert_close(found[less][name], value, atol=1e-6, rtol=1e-4)
    assert sizes[less] < 0.7 * sizes["none"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["hps", "mtan", "ctan"])
def test_it_compiles_as_one_graph(build_streamed: Build, method: str) -> None:
    torch._dynamo.reset()
    network = build_streamed(method, task_of_region=[0, 1, 0], regressions=["dose"], questions=ASKED[1:],
                             classification=StreamHead)  # fmt: skip
    counter = CompileCounter()
    compiled = torch.compile(network, backend=counter, fullgraph=True)
    x, task = image(), torch.tensor([0, 1])
    expected = network(x, task=task, full_output=True)
    for ours in (compiled(x, task=task, full_output=True), compiled(x, task=1 - task, full_output=True)):
        torch.testing.assert_close(ours.segmentation[0], expected.segmentation[0])
        torch.testing.assert_close(ours.regression["dose"], expected.regression["dose"])
    assert counter.frame_count == 1
    torch._dynamo.reset()


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_autocast_gives_finite_logits_near_those_of_float32(build_streamed: Build, method: str) -> None:
    network = build_streamed(method, **ANSWERING).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = everything(network, image())
    expected = everything(network, image())
    logits = output.segmentation[0].float()
    assert bool((logits - expected.segmentation[0]).abs().mean() < 0.1 * expected.segmentation[0].abs().mean())
    assert all(value.dtype == torch.float32 for value in output.classification.values())


def test_a_misspelt_part_is_refused(build_streamed: Build) -> None:
    with pytest.raises(ArchitectureError, match="streams names no class"):
        build_streamed(streams=None)


def test_a_head_that_reads_attention_of_the_decoder_is_refused(build_streamed: Build) -> None:
    with pytest.raises(ArchitectureError, match="no attention behind its coarsest decoder stage"):
        build_streamed(questions=ASKED, classification=ChannelAttentionHead)
