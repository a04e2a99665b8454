"""What every network of this package does, whatever its encoder and decoder: tasks, passes, heads and answers."""

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
    """Base of the networks; comes before the class of the backbone, which builds `encoder` and `decoder`.

    nnU-Net builds a network from keyword arguments. The constructor reads a `NetworkDescription` from them, has the
    backbone built from the others, and hands the description to `build`. A network says how it encodes, decodes and
    segments in `steps`.

    Args:
        num_classes: R, the number of regions, whatever the head.
        input_channels: Channels of the image.
        **arguments: Fields of `NetworkDescription` and of `parts_class`, the three arguments that describe the regions
            (`task_of_region`, `slot_of_region`, `labels_of_region`), and the arguments of the backbone.

    Attributes:
        parts_class: Insertion points of the network, see `nnunet_mtl.networks.insertion_points`.
        gives_attended: Whether classification heads find `Features.attended`.

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
        """Return how many channels the backbone reads, and how many its segmentation layers make."""
        return input_channels, description.segmentation_head.channels(description.layout)

    def build(self, description: NetworkDescription[Any]) -> None:
        """Build everything that the backbone does not have, the heads among it (`build_heads`)."""
        raise NotImplementedError

    def build_heads(
        self, description: NetworkDescription[Any], encoder_channels: Sequence[int], decoder_channels: Sequence[int]
    ) -> None:
        """Build the heads and what runs the passes.

        Args:
            description: That of the network.
            encoder_channels: Channels of every encoder stage, full resolution first.
            decoder_channels: Channels of every decoder stage, coarsest first.

        Raises:
            ArchitectureError: If the classification head reads what this network does not have.
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
        """Return the network's parts in order, the last of which returns a `PassResult`.

        Args:
            raw: Whether the result is what the loss reads (of every scale, if the loss is computed on all) rather than
                logits of regions.
            keep_features: Whether the result holds what answers are read from.
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
        """Segment a batch of patches; the mode follows from the arguments, never from `training`.

        Args:
            x: Image, (B, C, *spatial).
            task: Task index per sample, (B,) long, 0 to K-1, mixed freely; None for all selected tasks. With a task
                the logits of other tasks' regions are returned too and mean nothing, nor do in conditioned networks
                the answers to questions whose evidence is of another task.
            full_output: Return everything, the answers of the classification head too.
            evidence: Where the evidence of the head's questions is known, in their order; the network's own
                probability elsewhere.

        Returns:
            Logits (B, R, *spatial), fresh and contiguous without `task`; a `MultiTaskOutput` with `full_output`, its
            segmentation what the loss reads if there is a task: a list, full resolution first, if deep supervision is
            on. Without `task` the questions of tasks that are not selected are left out.
        """
        raw = full_output and task is not None
        answers = self._answers(evidence, raw) if full_output else {}
        segmentation, read = self.passes(self.steps(raw=raw, keep_features=bool(answers)), x, task, answers)
        if not full_output:
            return cast(Tensor, segmentation)
        regression = {name: read.pop(_of_voxels(name)) for name in self.regressions}
        logits = {name: answer for name, (answer, _) in read.items()}
        volumes = {name: volume for name, (_, volume) in read.items() if volume is not None}
        return MultiTaskOutput(segmentation, logits, volumes, regression)

    @property
    def conditioned(self) -> bool:
        """Whether the task enters anywhere; if not, every region's logits mean the same whatever the task."""
        return any(step.conditioned for step in self.steps(raw=False, keep_features=False))

    @property
    def one_task_per_sample(self) -> bool:
        """Whether a sample teaches one task: where the task enters, and where tasks share their output channels."""
        return self.conditioned or bool(self.segmentation_head.shared)

    def select_tasks(self, tasks: Sequence[int]) -> None:
        """Choose the tasks that are run where no task is given; the regions of the others get the logit `OFF`.

        Args:
            tasks: Indices, at least one.

        Raises:
            ValueError: If there is none, or one is not an index of a task.
        """
        self.passes.select(tasks)

    def _answers(self, known: KnownEvidence | None, raw: bool) -> dict[str, Answer]:
        values = {_of_voxels(name): Answer(partial(_value, name), -1) for name in self.regressions}
        return values | {
            question["name"]: Answer(partial(self._answer, index, known, raw), question["task"])
            for index, question in enumerate(self.classification.questions)
        }

    def _answer(
        self, index: int, known: KnownEvidence | None, raw: bool, result: PassResult
    ) -> tuple[Tensor, Tensor | None]:
        """Return logits and evidence volume of one question, in float32 under autocast too."""
        region = self.classification.questions[index]["evidence"]
        logits = result.logits[0] if isinstance(result.logits, list) else result.logits
        with autocast(logits.device.type, enabled=False):
            if region < 0:
                return self.classification(index, result.features, None), None
            of_regions = self.segmentation_head.regions(logits) if raw else logits
            annotated = () if known is None else (known.mask[:, index], known.known[:, index])
            mask = evidence_mask(of_regions[:, region], *annotated)
            return self.classification(index, result.features, mask), mask.flatten(1).sum(1)


def _of_voxels(name: str) -> str:
    """Return the key under which a value per voxel is read; no question is named like this."""
    return f"regression/{name}"


def _value(name: str, result: PassResult) -> Tensor:
    value: Tensor = result.regression[name]
    return value
