"""nnU-Net's U-Nets with task-guided attention on their skips.

Encoder, decoder, their names and their state-dict keys are those of the stock classes; the attention is a sibling.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple, cast, overload

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import Tensor, autocast, cat, nn

from nnunet_mtl.networks.architecture import ArchitectureError
from nnunet_mtl.networks.attention import Gates, TaskGuidedAttention
from nnunet_mtl.networks.classification import Features, KnownEvidence, NoClassification, Question, evidence_mask
from nnunet_mtl.networks.gradient import scale_gradient
from nnunet_mtl.networks.heads import RegionHead
from nnunet_mtl.networks.output import MultiTaskOutput
from nnunet_mtl.networks.passes import Answer, PassResult, Step, TaskPasses
from nnunet_mtl.networks.pre_norm import run_encoder, run_stage


class _Encoded(NamedTuple):
    skips: list[Tensor]  # full resolution first
    before_norm: list[Tensor] | None  # the same stages, where answers are to be read


class _Decoded(NamedTuple):
    stages: list[Tensor]  # coarsest first
    features: Features | None


class _TaskGuidedUNet(nn.Module):
    """The part that the U-Nets share; comes before a stock class among the bases.

    Keyword-only, as nnU-Net builds networks. The defaults describe one task that owns every channel, which is what
    nnU-Net's planner builds to estimate memory.

    Args:
        num_classes: R, the number of regions, whatever the head.
        task_of_region: Index of the task that owns each region, 0 to K-1.
        slot_of_region: Index of the slot each region reads in a shared head, 0 to S-1.
        task_attention: Attention class, built once per skip.
        segmentation_head: Head class.
        gates: How the attention's factors are computed and start.
        questions: What the classification head is asked.
        classification: Classification head class.
        class_dropout: Its dropout.
        class_gradient: How much of its gradient reaches the encoder and decoder, 0 to 1.
        architecture: The stock class's own arguments.
    """

    encoder: nn.Module
    decoder: nn.Module

    def __init__(
        self,
        *,
        num_classes: int,
        task_of_region: Sequence[int] | None = None,
        slot_of_region: Sequence[int] | None = None,
        task_attention: Any = TaskGuidedAttention,
        segmentation_head: Any = RegionHead,
        gates: Gates = "identity",
        questions: Sequence[Question] = (),
        classification: Any = NoClassification,
        class_dropout: float = 0.0,
        class_gradient: float = 1.0,
        **architecture: Any,
    ) -> None:
        task_of_region = [0] * num_classes if task_of_region is None else task_of_region
        slot_of_region = list(range(num_classes)) if slot_of_region is None else slot_of_region
        _check_indices("task_of_region", task_of_region, num_classes)
        _check_indices("slot_of_region", slot_of_region, num_classes)
        _check_classes(
            task_attention=task_attention, segmentation_head=segmentation_head, classification=classification
        )
        _check_questions(questions, task_of_region)
        if gates not in ("identity", "faithful"):
            raise ArchitectureError(f"plans: arch_kwargs.gates={gates!r} must be 'identity' or 'faithful'")
        super().__init__(num_classes=segmentation_head.channels(slot_of_region), **architecture)
        num_tasks = max(task_of_region) + 1
        channels = list(cast(Any, self.encoder).output_channels)[::-1]
        self.task_attention = nn.ModuleList(
            task_attention(skip, coarser, num_tasks, gates) for coarser, skip in pairwise(channels)
        )
        self.segmentation_head = segmentation_head(slot_of_region)
        self.classification = classification(questions, channels[::-1], channels[1:], class_dropout)
        self.class_gradient = class_gradient
        self.passes = TaskPasses(task_of_region)

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
            segmentation a list, full resolution first, if there is a task and deep supervision is on. Without `task`
            the questions of tasks that are not selected are left out.
        """
        all_scales = full_output and task is not None and bool(cast(Any, self.decoder).deep_supervision)
        answers = self._answers(evidence) if full_output else {}
        segmentation, read = self.passes(self._steps(all_scales, bool(answers)), x, task, answers)
        if not full_output:
            return cast(Tensor, segmentation)
        logits = {name: answer for name, (answer, _) in read.items()}
        volumes = {name: volume for name, (_, volume) in read.items() if volume is not None}
        return MultiTaskOutput(segmentation, logits, volumes)

    @property
    def conditioned(self) -> bool:
        """Whether the task enters anywhere; if not, every region's logits mean the same whatever the task."""
        return any(step.conditioned for step in self._steps(all_scales=False, keep_features=False))

    def select_tasks(self, tasks: Sequence[int]) -> None:
        """Choose the tasks that are run where no task is given; the regions of the others get the logit `OFF`.

        Args:
            tasks: Indices, at least one.

        Raises:
            ValueError: If there is none, or one is not an index of a task.
        """
        self.passes.select(tasks)

    def _steps(self, all_scales: bool, keep_features: bool) -> tuple[Step, ...]:
        decode_conditioned = any(cast(Any, attention).conditioned for attention in self.task_attention)
        return (
            Step(partial(self._encode, keep_features=keep_features), conditioned=False),
            Step(self._decode, conditioned=decode_conditioned),
            Step(partial(self._segment, all_scales=all_scales), conditioned=self.segmentation_head.conditioned),
        )

    def _answers(self, known: KnownEvidence | None) -> dict[str, Answer]:
        return {
            question["name"]: Answer(partial(self._answer, index, known), question["task"])
            for index, question in enumerate(self.classification.questions)
        }

    def _encode(self, x: Tensor, keep_features: bool) -> _Encoded:
        return _Encoded(*run_encoder(self.encoder, x)) if keep_features else _Encoded(self.encoder(x), None)

    def _decode(self, encoded: _Encoded, *task: Tensor) -> _Decoded:
        decoder = cast(Any, self.decoder)
        skips, before_norm = encoded
        x = feature = skips[-1]
        stages, features = [], None
        for level, (upsample, stage) in enumerate(zip(decoder.transpconvs, decoder.stages, strict=True)):
            skip = self.task_attention[level](skips[-(level + 2)], feature, *task)
            x, feature = run_stage(stage, cat((upsample(x), skip), dim=1))
            stages.append(x)
            if level == 0 and before_norm is not None:
                shared = [scale_gradient(each, self.class_gradient) for each in (*before_norm, feature)]
                features = Features(shared[:-1], shared[-1])
        return _Decoded(stages, features)

    def _segment(self, decoded: _Decoded, *task: Tensor, all_scales: bool) -> PassResult:
        seg_layers = cast(Any, self.decoder).seg_layers
        if not all_scales:
            logits = self.segmentation_head(decoded.stages[-1], seg_layers[-1], *task)
            return PassResult(logits, decoded.features)
        pairs = zip(decoded.stages, seg_layers, strict=True)
        scales = [self.segmentation_head(stage, layer, *task) for stage, layer in pairs][::-1]
        return PassResult(scales, decoded.features)

    def _answer(self, index: int, known: KnownEvidence | None, result: PassResult) -> tuple[Tensor, Tensor | None]:
        """Return logits and evidence volume of one question, in float32 under autocast too."""
        region = self.classification.questions[index]["evidence"]
        logits = result.logits[0] if isinstance(result.logits, list) else result.logits
        with autocast(logits.device.type, enabled=False):
            if region < 0:
                return self.classification(index, result.features, None), None
            annotated = () if known is None else (known.mask[:, index], known.known[:, index])
            mask = evidence_mask(logits[:, region], *annotated)
            return self.classification(index, result.features, mask), mask.flatten(1).sum(1)


class TaskGuidedPlainConvUNet(_TaskGuidedUNet, PlainConvUNet):
    """Task-guided form of nnU-Net's default U-Net."""


class TaskGuidedResidualEncoderUNet(_TaskGuidedUNet, ResidualEncoderUNet):
    """Task-guided form of nnU-Net's U-Net with a residual encoder."""


def _check_indices(name: str, indices: Sequence[int], num_classes: int) -> None:
    if len(indices) != num_classes or sorted(set(indices)) != list(range(len(set(indices)))):
        raise ArchitectureError(
            f"plans: arch_kwargs.{name}={list(indices)!r} must give each of the {num_classes} regions an index, "
            "counted from 0 without gaps: plan again from dataset.json"
        )


def _check_classes(**classes: Any) -> None:
    for name, value in classes.items():
        if value is None:
            raise ArchitectureError(
                f"plans: arch_kwargs.{name} names no class (is the dotted path misspelt?); no attention is "
                "nnunet_mtl.networks.attention.NoTaskAttention, no classification head "
                "nnunet_mtl.networks.classification.NoClassification"
            )


def _check_questions(questions: Sequence[Question], task_of_region: Sequence[int]) -> None:
    owners = dict(enumerate(task_of_region)) | {-1: -1}
    names = [question["name"] for question in questions]
    for question in questions:
        if owners.get(question["evidence"]) != question["task"] or question["outputs"] < 1:
            raise ArchitectureError(
                f"plans: arch_kwargs.questions: {question!r} must have an output or more, and as evidence a region "
                "and the task that owns it, or -1 and -1 for none: plan again from dataset.json"
            )
    if len(set(names)) < len(names):
        raise ArchitectureError(f"plans: arch_kwargs.questions has a name twice in {names}: plan again")
