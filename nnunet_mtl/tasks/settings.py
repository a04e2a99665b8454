"""The settings of a run: numbers and choices in `plans["nnunet_mtl"]["settings"]`.

`nnunet_mtl plan` writes them. A run with another value needs another plans name, and so gets another results folder.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args, get_origin, get_type_hints

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import did_you_mean, shown

_SHARES = "a share between 0 and 1, or several such as 0.4,0.5"


class SettingsError(UserError):
    """A setting is unknown, or its value is of the wrong type or out of range."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting with its default; a number that nnU-Net has too has nnU-Net's default.

    Attributes:
        epochs: Number of training epochs.
        iterations: Training iterations per epoch.
        val_iterations: Validation iterations per epoch (the pseudo Dice).
        save_every: Epochs between two writings of `checkpoint_latest.pth`.
        initial_lr: Learning rate of the first epoch; it decays polynomially.
        momentum: Nesterov momentum of SGD.
        weight_decay: L2 penalty.
        oversample_foreground_percent: Share of the samples of a batch that are centred on foreground.
        deep_supervision: Whether the lower-resolution decoder stages are supervised too.
        mirroring: Whether patches are mirrored in training, and images in test-time augmentation.
        test_time_mirroring: Whether prediction averages over the mirrored images.
        sampling: How cases are drawn: every case ("cases") or every task ("tasks") equally often, or every task in
            proportion to the square root of its number of cases ("sqrt").
        gates: Start of task-guided gates: the identity ("identity"), or near one half as published ("faithful").
        head: One output channel per region ("regions"), one per slot shared by the tasks ("slots"), or the head of
            the trainer's method ("own"). A trainer offers some of the three and has its own default.
        multi_head: What every task of `nnUNetTrainerMultiHead` does not share: a decoder and a head, or only a head.
        region_embedding: Embedding of a region in the head of `nnUNetTrainerCLIPDriven`: a fixed random vector, a
            learned vector, or a vector from a file ("file"), such as an encoded name.
        region_embedding_size: Length of random and learned vectors.
        region_embedding_file: Path of a `.npz` or `.json` file with one vector per region's name.
        loss: Dice and cross-entropy averaged as in nnU-Net ("nnunet"), or Dice and means of DoDNet's released code
            ("published"). For `nnUNetTrainerMAMTLN` "published" is Jaccard and focal loss, for
            `nnUNetTrainerCLIPDriven` the mean over the regions of all samples. Trainers with another loss ignore it.
        loss_weighting: How the terms of the loss, one per task and question, are weighted: "equal", "fixed"
            (`loss_weights`), by learned uncertainty ("kendall", "liebel_koerner"), by how fast the terms fall ("dwa"),
            or by their gradients (the other values, with the extra `aggregation`).
        loss_weights: Weights for "fixed" by the names of tasks and questions: "liver=1,malignancy=0.5"; others have 1.
        loss_weight_lr: Learning rate of learned uncertainties, as a multiple of the network's learning rate.
        dwa_temperature: Temperature of "dwa"; a larger value makes the weights more equal.
        dice_weight: Weight of the Dice term.
        bce_weight: Weight of the cross-entropy term.
        class_head: Classification head: it reads every stage under the evidence ("evidence"), reads the mean of the
            bottleneck ("bottleneck", a control), or is the head of the trainer's method ("own").
        class_weight: Weight of the loss of the image-level questions; with 0 the run does not learn them.
        class_warmup: Share of the epochs over which `class_weight` rises from zero. Until then only annotated evidence
            is used, afterwards also the evidence that the network predicts.
        class_gradient: Factor of the answers' gradient into the features of the segmentation; with 0 the head reads
            frozen features.
        class_draws: Share of the samples of an annotated case that are drawn for a label about a task not annotated in
            the case; such samples teach no segmentation.
        class_balance: Whether all classes weigh the same in the loss ("inverse"), or all cases do ("none").
        class_sampling: Whether all classes are drawn equally often ("balanced"), or by `sampling` alone ("none").
        evidence_crops: Share of the samples that are centred on the evidence of a question, in cases that show some.
        own_evidence: Share of the training samples, after the warm-up, whose annotated evidence is hidden from the
            head, so that it reads predicted evidence as in prediction.
        half_evidence: Voxels of evidence with which a patch counts in the loss half as much as a patch full of it.
        class_dropout: Dropout in the classification head.
        class_weight_decay: L2 penalty on the classification head.
        class_every: Epochs between two case-level passes over the validation cases; one is always at the end.
        class_combination: How the answers for patches become one answer: by their mean ("mean"), by "noisy_or", or by
            the mean of the patches with the most evidence ("top_k").
        class_top_k: Number of patches of "top_k".
        best_class_share: Share of the image-level answer in the score that chooses `checkpoint_best.pth`.
        gate_unit: Gates of `nnUNetTrainerACSNet` on the skips: the factor is applied before a convolution and its
            normalisation ("published"), after both ("after_norm"), or there are no gates ("none").
        deformable_attention: Attention of `nnUNetTrainerACSNet` at the decoder's deepest stages: with deformable
            convolutions, with ordinary convolutions ("plain"), or none.
        deformable_stages: Number of decoder stages with that attention, counted from the deepest.
        nested_head: Heads of `nnUNetTrainerOMNet` for tasks inside another task: guided by that task ("cga"), or
            unguided with squeeze-and-excitation ("se") or without ("plain").
        transfer: Whether tasks of `nnUNetTrainerOMNet` also learn from other tasks' patches that show enough of the
            parent.
        transfer_threshold: Share of the patch that the parent's foreground must fill for `transfer`; several shares,
            with commas between, are for tasks one, two and more levels inside.
        curriculum: Whether tasks of `nnUNetTrainerOMNet` begin one after the other, the outermost first.
        curriculum_start: Share of the epochs after which tasks one level inside begin.
        curriculum_end: Share of the epochs after which the innermost tasks begin.
        curriculum_ramp: Epochs over which the loss of a beginning task rises to its full weight.
        pyramid_width: Channels of every level of the pyramid of `nnUNetTrainerMAMTLN`.
        pyramid_levels: Number of the encoder's deepest stages that are levels of the pyramid, never the stage at full
            resolution; 0 takes four, or as many as reach the third stage (a quarter of the resolution).
        visual_attention: Whether levels of the pyramid pass visual attention on the way down.
        adaptive_attention: Whether levels of the pyramid pass adaptive spatial attention with the fusion of all levels.
        adaptive_output: Output of the adaptive attention: the product of attention and fusion, as in the released code
            ("product"), or the attention alone, as the paper reads ("alone").
        segmentation_aware: Whether a separate branch segments; otherwise the fusion of the levels does.
        classification_aware: Whether a separate branch answers; otherwise the means of the deepest two levels do.
        mtan_form: Form of `nnUNetTrainerMTAN`: the paper's SegNet, with masks in the decoder too ("segnet"), or the
            released ResNet, with narrow masks in the encoder alone and a decoder for every task ("resnet").
        attention_width: Channels inside the masks of `nnUNetTrainerMTAN` and `nnUNetTrainerCTAN`: all, or a quarter.
        cross_encoder: Whether tasks of `nnUNetTrainerCTAN` exchange their masked features at every encoder stage.
        cross_bottleneck: Whether tasks of `nnUNetTrainerCTAN` exchange features at the bottleneck.
        pair_attention: One mask for every ordered pair of tasks at a stage ("own"), or one for all pairs ("shared").
        recompute: What trainers with a decoder or masks for every task compute again in the backward pass to save
            memory: the masks ("attention"), masks and decoder stages ("all"), or nothing ("none").
    """

    epochs: int = 1000
    iterations: int = 250
    val_iterations: int = 50
    save_every: int = 50
    initial_lr: float = 1e-2
    momentum: float = 0.99
    weight_decay: float = 3e-5
    oversample_foreground_percent: float = 0.33
    deep_supervision: bool = True
    mirroring: bool = True
    test_time_mirroring: bool = True
    sampling: Literal["cases", "tasks", "sqrt"] = "cases"
    gates: Literal["identity", "faithful"] = "identity"
    head: Literal["regions", "slots", "own"] = "regions"
    multi_head: Literal["decoder", "head"] = "decoder"
    region_embedding: Literal["random", "learned", "file"] = "random"
    region_embedding_size: int = 512
    region_embedding_file: str = "none"
    loss: Literal["nnunet", "published"] = "nnunet"
    loss_weighting: Literal[
        "equal",
        "fixed",
        "kendall",
        "liebel_koerner",
        "dwa",
        "pcgrad",
        "cagrad",
        "nash_mtl",
        "upgrad",
        "mgda",
        "imtl_g",
        "aligned_mtl",
    ] = "equal"
    loss_weights: str = "none"
    loss_weight_lr: float = 1.0
    dwa_temperature: float = 2.0
    dice_weight: float = 1.0
    bce_weight: float = 1.0
    class_head: Literal["evidence", "bottleneck", "own"] = "evidence"
    class_weight: float = 0.3
    class_warmup: float = 0.1
    class_gradient: float = 0.03
    class_draws: float = 0.1
    class_balance: Literal["inverse", "none"] = "inverse"
    class_sampling: Literal["none", "balanced"] = "none"
    evidence_crops: float = 0.0
    own_evidence: float = 0.5
    half_evidence: float = 20.0
    class_dropout: float = 0.2
    class_weight_decay: float = 1e-3
    class_every: int = 50
    class_combination: Literal["mean", "noisy_or", "top_k"] = "mean"
    class_top_k: int = 3
    best_class_share: float = 0.3
    gate_unit: Literal["published", "after_norm", "none"] = "published"
    deformable_attention: Literal["deformable", "plain", "none"] = "deformable"
    deformable_stages: int = 2
    nested_head: Literal["cga", "se", "plain"] = "cga"
    transfer: bool = True
    transfer_threshold: str = "0.01"
    curriculum: bool = True
    curriculum_start: float = 0.33
    curriculum_end: float = 0.67
    curriculum_ramp: int = 5
    pyramid_width: int = 64
    pyramid_levels: int = 0
    visual_attention: bool = True
    adaptive_attention: bool = True
    adaptive_output: Literal["product", "alone"] = "product"
    segmentation_aware: bool = True
    classification_aware: bool = True
    mtan_form: Literal["segnet", "resnet"] = "segnet"
    attention_width: Literal["full", "quarter"] = "full"
    cross_encoder: bool = True
    cross_bottleneck: bool = True
    pair_attention: Literal["own", "shared"] = "own"
    recompute: Literal["attention", "all", "none"] = "attention"

    def __post_init__(self) -> None:
        counts = ("epochs", "iterations", "val_iterations", "save_every", "class_every", "class_top_k")
        for name in (*counts, "region_embedding_size", "deformable_stages"):
            _require(1 <= getattr(self, name) <= 10**9, name, getattr(self, name), "at least 1 and at most 1000000000")
        _require(0 <= self.pyramid_levels <= 10**9, "pyramid_levels", self.pyramid_levels, "at least 0")
        # group normalisation needs groups of two channels
        _require(
            2 <= self.pyramid_width <= 10**6, "pyramid_width", self.pyramid_width, "at least 2 and at most 1000000"
        )
        for name in ("weight_decay", "dice_weight", "bce_weight", "class_weight", "class_weight_decay"):
            _require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "at least 0 and finite")
        shares = ("momentum", "oversample_foreground_percent", "class_warmup", "class_gradient", "class_draws")
        for name in (*shares, "evidence_crops", "own_evidence", "best_class_share"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "between 0 and 1")
        _require(0 <= self.class_dropout < 1, "class_dropout", self.class_dropout, "at least 0 and less than 1")
        _require(0 < self.half_evidence < math.inf, "half_evidence", self.half_evidence, "positive and finite")
        for name in ("initial_lr", "loss_weight_lr", "dwa_temperature"):
            _require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "positive and finite")
        fixed = self.loss_weighting == "fixed"
        expected = "NAME=WEIGHT,NAME=WEIGHT" if fixed else "none"
        expected += f" where loss_weighting={self.loss_weighting}"
        _require((self.loss_weights != "none") == fixed, "loss_weights", self.loss_weights, expected)
        _require(self.dice_weight + self.bce_weight > 0, "dice_weight", 0.0, "positive where bce_weight is 0")

        _require(0 <= self.curriculum_ramp <= 10**9, "curriculum_ramp", self.curriculum_ramp, "at least 0")
        _require(0 <= self.curriculum_end <= 1, "curriculum_end", self.curriculum_end, "between 0 and 1")
        start = self.curriculum_start
        _require(0 <= start <= self.curriculum_end, "curriculum_start", start, "between 0 and curriculum_end")
        _require(bool(self.transfer_thresholds), "transfer_threshold", self.transfer_threshold, _SHARES)

    @property
    def transfer_thresholds(self) -> tuple[Fraction, ...]:
        """The shares of `transfer_threshold`, exact, so that 0.4 of 1000 voxels is 400; empty if invalid."""
        try:
            shares = tuple(Fraction(share) for share in self.transfer_threshold.split(","))
        except (ValueError, ZeroDivisionError):
            return ()
        return shares if all(0 <= share <= 1 for share in shares) else ()

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], source: str) -> "Settings":
        """Check and complete settings as they stand in plans.

        Args:
            values: Setting names and JSON values; a setting that is not named takes its default.
            source: Where the values were read, for the message.

        Raises:
            SettingsError: If a name is unknown or a value has the wrong type or range.
        """
        kinds = get_type_hints(cls)
        if not isinstance(values, Mapping):
            raise SettingsError(f"{source}: settings must be an object of names and values, not {shown(values)}")
        for name, value in values.items():
            if name not in kinds:
                similar = did_you_mean(name, kinds)
                raise SettingsError(
                    f"{source}: unknown setting {shown(name)}{similar}; `nnunet_mtl plan --set help` lists all"
                )
            _check_type(name, value, kinds[name], source)
        try:
            return cls(**{name: _number(name, value, kinds[name]) for name, value in values.items()})
        except SettingsError as error:
            raise SettingsError(f"{source}: {error}") from None

    @classmethod
    def parse(cls, assignments: list[str], base: Mapping[str, Any]) -> "Settings":
        """Return the settings `base` changed by `NAME=VALUE` texts of a command line.

        Raises:
            SettingsError: If a text has no `=`, or `from_mapping` refuses a name or value.
        """
        values = cls.from_mapping(base, "settings before --set").to_mapping()
        kinds = get_type_hints(cls)
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            if not equals:
                raise SettingsError(f"--set: {shown(assignment)} is not of the form NAME=VALUE, such as epochs=50")
            values[name] = _parse_value(name, text, kinds.get(name, str))
        return cls.from_mapping(values, "--set")

    def to_mapping(self) -> dict[str, Any]:
        """Return every setting as a JSON-able value, with defaults, so that a later change of a default shows."""
        return dataclasses.asdict(self)


def _parse_value(name: str, text: str, kind: Any) -> Any:
    if kind is bool:
        words = {"true": True, "1": True, "false": False, "0": False}
        if text.lower() not in words:
            raise SettingsError(f"--set: {name}={shown(text)} must be true or false")
        return words[text.lower()]
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise SettingsError(f"--set: {name}={shown(text)} must be a number of type {kind.__name__}") from None
    return text


def _number(name: str, value: Any, kind: Any) -> Any:
    """Return an int as a float if the setting is a float, so that equal settings are written alike."""
    if kind is not float:
        return value
    try:
        return float(value)
    except OverflowError:
        raise SettingsError(f"{name}={shown(value)} must be finite") from None


def _check_type(name: str, value: Any, kind: Any, source: str) -> None:
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            similar = did_you_mean(value, get_args(kind))
            raise SettingsError(f"{source}: {name}={shown(value)} must be one of {', '.join(get_args(kind))}{similar}")
        return
    # bool is a subclass of int, and JSON may write a float as an int
    accepted = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}[kind]
    if not isinstance(value, accepted) or (kind is not bool and isinstance(value, bool)):
        raise SettingsError(f"{source}: {name}={shown(value)} must be of type {kind.__name__}")


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise SettingsError(f"{name}={shown(value)} must be {expected}")
