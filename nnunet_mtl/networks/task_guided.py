"""What every network of this package does, whatever its encoder and decoder: tasks, passes, heads and answers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple, cast, overload

from torch import Tensor, autocast, nn

from nnunet_mtl.networks.architecture import ArchitectureError
from nnunet_mtl.networks.classification import Features, KnownEvidence, evidence_mask
from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.networks.multitask_output import MultiTaskOutput
from nnunet_mtl.networks.network_arguments import POINTS, part_arguments
from nnunet_mtl.networks.task_passes import Answer, PassResult, Step, TaskPasses
from nnunet_mtl.networks.unused_parameters import zero_of

_NO_ATTENTION = (
    "plans: this network has no attention behind its coarsest decoder stage, which its classification head reads: "
    "nnunet_mtl plan --set class_head=evidence, or plan with nnU-Net's own planners"
)


class Decoded(NamedTuple):
    """What a decoder makes of a batch.

    Attributes:
        stages: Its features, coarsest first.
        bottleneck: What the head reads of the encoder's last feature; None if it reads nothing.
        features: What answers are read from; None if there are none to read.
    """

    stages: list[Tensor]
    bottleneck: Tensor | None
    features: Features | None


class TaskGuidedNetwork(nn.Module):
    """Base of the networks, which say how they encode, decode and segment: `steps`.

    Keyword-only, as nnU-Net builds networks. A network calls `prepare`, builds its encoder and decoder, and calls
    `add_parts`, `add_stage_attention` and `add_heads`.

    Args:
        num_classes: R, the number of regions, whatever the head.
        input_conditioning: Class of what the image passes, see `nnunet_mtl.networks.insertion_points`.
        encoder_conditioning: Class of what runs a stage of the encoder, built once per stage.
        bottleneck_conditioning: Class of what the encoder's last feature passes on its way to the decoder.
        task_attention: Class of what a skip passes, built once per skip.
        decoder_conditioning: Class of what merged features pass on their way to a stage of the decoder.
        decoders: Class that says how many decoders there are.
        encoder_attention: Class of what every output of the encoder passes on its way to the decoder.
        decoder_attention: Class of what the output of every stage of the decoder passes.
        method_options: Numbers of these two.
        gates: How the factors of `task_attention` are computed and start.
        prompt_size: Spatial size of the encoder's last feature at the planned patch size.
        task_of_region: Index of the task that owns each region, 0 to K-1; by default one task owns all.
        slot_of_region: Index of the slot each region reads in a shared head, 0 to S-1; by default each its own.
        labels_of_region: Label values of each region; by default each its own.
        segmentation_head: Head class.
        head_options: Its own arguments.
        questions: What the classification head is asked.
        classification: Classification head class.
        class_dropout: Its dropout.
        class_gradient: How much of its gradient reaches the encoder and decoder, 0 to 1.
        regressions: Names of what is predicted as a value per voxel; not of these networks.

    Attributes:
        points: What stands at each point of the network if nothing is named; each is an argument.
        gives_attended: Whether classification heads find `Features.attended`.
    """

    points: ClassVar[Mapping[str, Any]] = POINTS
    gives_attended: ClassVar[bool] = True
    encoder: Any
    decoder: Any
    decoders: nn.Module
    encoder_attention: Any
    decoder_attention: Any
    segmentation_head: Any
    classification: Any
    class_gradient: float
    passes: TaskPasses

    @classmethod
    def prepare(
        cls, num_classes: int, arguments: Mapping[str, Any], **defaults: Any
    ) -> tuple[Layout, dict[str, Any], dict[str, Any]]:
        """Check the arguments that are ours and part them from the others.

        Args:
            num_classes: R.
            arguments: Every other argument.
            defaults: Of a network whose parts are not off by default.

        Returns:
            The regions; our arguments, complete; and what is left, which is the architecture's.

        Raises:
            ArchitectureError: If they cannot be built.
        """
        return part_arguments(num_classes, arguments, cls.points, defaults)

    def add_parts(
        self, layout: Layout, own: Mapping[str, Any], skips: Iterable[tuple[int, int]], bottleneck_channels: int
    ) -> None:
        """Build what stands at the points where the task can enter.

        Args:
            layout: The regions.
            own: What `prepare` returned.
            skips: Channels of each skip and of the feature it meets, coarsest first.
            bottleneck_channels: Of the encoder's last feature.
        """
        tasks = layout.num_tasks
        self.input_conditioning = own["input_conditioning"](tasks)
        self.encoder_conditioning = nn.ModuleList(
            own["encoder_conditioning"](stage, tasks) for stage in self.encoder.stages
        )
        self.bottleneck_conditioning = own["bottleneck_conditioning"](bottleneck_channels, tasks, own["prompt_size"])
        self.task_attention = nn.ModuleList(own["task_attention"](*each, tasks, own["gates"]) for each in skips)
        self.decoder_conditioning = own["decoder_conditioning"](tasks)
        self.decoders = own["decoders"](self.decoder, tasks)

    def add_stage_attention(
        self, own: Mapping[str, Any], encoded: Sequence[int], decoded: Sequence[int], dimensions: int
    ) -> None:
        """Build what the outputs of the encoder pass on their way to the decoder, and those of the decoder's stages.

        Args:
            own: What `prepare` returned.
            encoded: Channels of the encoder's outputs, deepest first.
            decoded: Channels of the decoder's stages, coarsest first.
            dimensions: 2 or 3.
        """
        options = {"dimensions": dimensions, **own["method_options"]}
        encoder, decoder = own["encoder_attention"], own["decoder_attention"]
        self.encoder_attention = nn.ModuleList(encoder(count, level, **options) for level, count in enumerate(encoded))
        self.decoder_attention = nn.ModuleList(decoder(count, level, **options) for level, count in enumerate(decoded))

    def add_heads(
        self, layout: Layout, channels: Sequence[int], own: Mapping[str, Any], decoded: Sequence[int] | None = None
    ) -> None:
        """Build the heads and what runs the passes.

        Args:
            layout: The regions.
            channels: Of every encoder stage, full resolution first.
            own: What `prepare` returned.
            decoded: Of every decoder stage, coarsest first; by default those of the encoder's stages they meet.

        Raises:
            ArchitectureError: If the classification head reads what this network does not have.
        """
        if own["classification"].reads_attended and not self.gives_attended:
            raise ArchitectureError(_NO_ATTENTION)
        self.segmentation_head = own["segmentation_head"](layout, channels[-1], **own["head_options"])
        for level, layer in enumerate(self.decoder.seg_layers):
            self.decoder.seg_layers[level] = self.segmentation_head.seg_layer(layer, layout)
        decoded = list(channels[-2::-1] if decoded is None else decoded)
        self.classification = own["classification"](own["questions"], list(channels), decoded, own["class_dropout"])
        self.class_gradient = own["class_gradient"]
        self.regressions = tuple(own["regressions"])
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

    def decoding_steps(self, decode: Callable[..., Decoded], *, conditioned: bool, raw: bool) -> tuple[Step, ...]:
        """Return decoding and segmenting, as one where every task has a decoder of its own.

        Args:
            decode: Called with a decoder, the previous step's result and the task if the step is conditioned.
            conditioned: Whether decoding is.
            raw: As in `steps`.
        """
        if not self.decoders.conditioned:
            return (
                Step(partial(decode, self.decoder), conditioned),
                Step(partial(self._segment, self.decoder, raw=raw), bool(self.segmentation_head.conditioned)),
            )

        def run(decoder: nn.Module, state: Any, task: Tensor) -> PassResult:
            return self._segment(decoder, decode(decoder, state, task), task, raw=raw)

        return (Step(partial(self.decoders, run, self.decoder), conditioned=True),)

    def _segment(self, decoder: Any, decoded: Decoded, *task: Tensor, raw: bool) -> PassResult:
        stages, bottleneck, features = decoded
        head = self.segmentation_head
        context = head.context(bottleneck, *(task if head.conditioned else ()))
        if raw and self.deep_supervision:
            pairs = zip(stages, decoder.seg_layers, strict=True)
            return PassResult([head(stage, layer, context) for stage, layer in pairs][::-1], features)
        logits = head(stages[-1], decoder.seg_layers[-1], context)
        return PassResult(logits + zero_of(decoder.seg_layers[:-1]) if raw else head.regions(logits), features)

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
