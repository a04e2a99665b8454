"""The base of every network of this package: selects tasks, runs passes, builds the heads and reads the answers."""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal, cast, overload

from torch import Tensor, autocast, nn

from nnunet_mtl.networks.classification import KnownEvidence, evidence_mask
from nnunet_mtl.networks.description import ArchitectureError, NetworkDescription, read_description
from nnunet_mtl.networks.multitask_output import MultiTaskOutput
from nnunet_mtl.networks.task_passes import Answer, PassResult, Step, TaskPasses

_NO_ATTENTION = (
    "plans: this network has no attention behind its coarsest decoder stage, which its classification head reads: "
    "nnunet_mtl plan --set class_head=evidence, or plan with nnU-Net's own planners"
)


class MultiTaskNetwork(nn.Module):
    """Base of the networks. Among the bases of a network it comes before the backbone, nnU-Net's class.

    nnU-Net builds a network from keyword arguments. The constructor reads a `NetworkDescription` from some of them,
    builds the backbone (with `encoder` and `decoder`) from the others, and passes the description to `build`. The
    method `steps` of a network says how the network encodes, decodes and segments.

    Args:
        num_classes: R, the number of regions, also if the head has another number of output channels.
        input_channels: Channels of the image.
        **arguments: Fields of `NetworkDescription` and of `parts_class`, the three arguments that describe the regions
            (`task_of_region`, `slot_of_region`, `labels_of_region`), and the arguments of the backbone.

    Attributes:
        parts_class: Insertion points of the network, see `nnunet_mtl.networks.insertion_points`.
        gives_attended: Whether the network gives classification heads `Features.attended`.

    Raises:
        ArchitectureError: If the arguments do not describe a network that can be built.
    """

    parts_class: ClassVar[type[Any]]
    gives_attended: ClassVar[bool] = True
    encoder: Any
    decoder: Any
    segmentation_head: Any
    classification: Any
    class_gradient: float
    passes: TaskPasses

    def __init__(self, *, num_classes: int, input_channels: int, **arguments: Any) -> None:
        description, backbone = read_description(arguments, num_classes, self.parts_class)
        read, made = self.backbone_channels(description, input_channels)
        super().__init__(input_channels=read, num_classes=made, **backbone)
        self.build(description)

    @staticmethod
    def backbone_channels(description: NetworkDescription[Any], input_channels: int) -> tuple[int, int]:
        """Return the numbers of the backbone's input channels and of its segmentation layers' output channels."""
        return input_channels, description.segmentation_head.channels(description.layout)

    def build(self, description: NetworkDescription[Any]) -> None:
        """Build all parts that the backbone does not have, and the heads (with `build_heads`)."""
        raise NotImplementedError

    def build_heads(
        self, description: NetworkDescription[Any], encoder_channels: Sequence[int], decoder_channels: Sequence[int]
    ) -> None:
        """Build the heads and the `TaskPasses`.

        Args:
            description: Says which heads the network has.
            encoder_channels: Channels of every encoder stage, full resolution first.
            decoder_channels: Channels of every decoder stage, coarsest first.

        Raises:
            ArchitectureError: If the classification head reads `Features.attended` and this network does not give it.
        """
        if description.classification.reads_attended and not self.gives_attended:
            raise ArchitectureError(_NO_ATTENTION)
        layout = description.layout
        self.segmentation_head = description.segmentation_head(layout, encoder_channels[-1], **description.head_options)
        for level, layer in enumerate(self.decoder.seg_layers):
            self.decoder.seg_layers[level] = self.segmentation_head.seg_layer(layer, layout)
        self.classification = description.classification(
            description.questions, list(encoder_channels), list(decoder_channels), description.class_dropout
        )
        self.class_gradient = description.class_gradient
        self.regressions = tuple(description.regressions)
        self.passes = TaskPasses(layout.task_of_region)

    def steps(self, *, raw: bool, keep_features: bool) -> tuple[Step, ...]:
        """Return the steps of the network in order. The last step returns a `PassResult`.

        Args:
            raw: Whether the last step returns the output that the loss reads (with deep supervision, of every scale)
                and not logits of regions.
            keep_features: Whether the `PassResult` holds the features from which answers are computed.
        """
        raise NotImplementedError

    @property
    def deep_supervision(self) -> bool:
        """Whether the loss is computed on every scale; nnU-Net sets it on the decoder."""
        return bool(self.decoder.deep_supervision)

    @overload
    def forward(
        self,
        x: Tensor,
        task: Tensor | None = None,
        *,
        full_output: Literal[False] = False,
        evidence: KnownEvidence | None = None,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        x: Tensor,
        task: Tensor | None = None,
        *,
        full_output: Literal[True],
        evidence: KnownEvidence | None = None,
    ) -> MultiTaskOutput: ...

    def forward(
        self,
        x: Tensor,
        task: Tensor | None = None,
        *,
        full_output: bool = False,
        evidence: KnownEvidence | None = None,
    ) -> Tensor | MultiTaskOutput:
        """Segment a batch of patches. The arguments choose what is computed; `training` does not matter.

        Args:
            x: Image, (B, C, *spatial).
            task: Task index of every sample, (B,) long, 0 to K-1; the samples may have different tasks. None runs all
                selected tasks. If a task is given, the logits of the other tasks' regions mean nothing. In conditioned
                networks the answers to questions about regions of the other tasks mean nothing either.
            full_output: Whether to return a `MultiTaskOutput`, which holds the answers too.
            evidence: Annotated evidence of the questions, in the order of the questions. Where it is not known, the
                network's own probability is used.

        Returns:
            Without `full_output` the logits (B, R, *spatial), which are a new contiguous tensor if no task is given.
            With `full_output` a `MultiTaskOutput`. If a task is given, its `segmentation` is what the loss reads: with
            deep supervision a list, full resolution first. If no task is given, the questions of tasks that are not
            selected are left out.
        """
        raw = full_output and task is not None
        answers = self._answers(evidence, raw) if full_output else {}
        segmentation, read = self.passes(self.steps(raw=raw, keep_features=bool(answers)), x, task, answers)
        if not full_output:
            return cast(Tensor, segmentation)
        regression = {name: read.pop(_regression_key(name)) for name in self.regressions}
        logits = {name: answer for name, (answer, _) in read.items()}
        volumes = {name: volume for name, (_, volume) in read.items() if volume is not None}
        return MultiTaskOutput(segmentation, logits, volumes, regression)

    @property
    def conditioned(self) -> bool:
        """Whether the task enters anywhere. If not, the logits are the same for every task."""
        return any(step.conditioned for step in self.steps(raw=False, keep_features=False))

    @property
    def one_task_per_sample(self) -> bool:
        """Whether a sample trains one task only. So it is if the task enters, or if tasks share output channels."""
        return self.conditioned or bool(self.segmentation_head.shared)

    def select_tasks(self, tasks: Sequence[int]) -> None:
        """Choose the tasks that run if `forward` is given no task; regions of other tasks get the logit `OFF`.

        Args:
            tasks: One or more task indices.

        Raises:
            ValueError: If `tasks` is empty, or holds a number that is not the index of a task.
        """
        self.passes.select(tasks)

    def _answers(self, known: KnownEvidence | None, raw: bool) -> dict[str, Answer]:
        values = {_regression_key(name): Answer(partial(_value, name), -1) for name in self.regressions}
        return values | {
            question["name"]: Answer(partial(self._answer, index, known, raw), question["task"])
            for index, question in enumerate(self.classification.questions)
        }

    def _answer(
        self, index: int, known: KnownEvidence | None, raw: bool, result: PassResult
    ) -> tuple[Tensor, Tensor | None]:
        """Return logits and evidence volume of one question, in float32 also under autocast."""
        region = self.classification.questions[index]["evidence"]
        logits = result.logits[0] if isinstance(result.logits, list) else result.logits
        with autocast(logits.device.type, enabled=False):
            if region < 0:
                return self.classification(index, result.features, None), None
            region_logits = self.segmentation_head.regions(logits) if raw else logits
            annotated = () if known is None else (known.mask[:, index], known.known[:, index])
            mask = evidence_mask(region_logits[:, region], *annotated)
            return self.classification(index, result.features, mask), mask.flatten(1).sum(1)


def _regression_key(name: str) -> str:
    """Return the name of the answer that holds the values per voxel of a task; no question has such a name."""
    return f"regression/{name}"


def _value(name: str, result: PassResult) -> Tensor:
    value: Tensor = result.regression[name]
    return value
