"""Everything of nnU-Net's training that this package overrides or swaps, and why.

Methods are overridden in `MultiTaskTrainer` and its bases in this folder; "swapped" names are replaced for one call in
the modules of nnU-Net's trainer, of its training command and of its choice among models. Each original is known by the
hash of its source, so that a new release of nnU-Net is read against this list: `changed` names what differs.
"""

from typing import Any

from nnunet_mtl.inference.overrides import Override, source_hash

OVERRIDES = (
    Override.of(
        "__init__",
        "extended",
        "settings; the task block goes into the plans, the case table stays out",
        v2_8_1="0ae31d90095f",
    ),
    Override.of(
        "configure_optimizers",
        "extended",
        "momentum; groups of classification head and loss weights",
        v2_8_1="48c2f8330a83",
    ),
    Override.of(
        "configure_rotation_dummyDA_mirroring_and_inital_patch_size",
        "extended",
        "mirroring is a setting",
        v2_8_1="d97ac04b489d",
    ),
    Override.of(
        "build_network_architecture",
        "extended",
        "for prediction: warns of a postprocessing.pkl that is not valid for maps of all tasks",
        v2_8_1="ed7987fbf88e",
    ),
    Override.of("initialize", "extended", "says what runs", v2_8_1="5732dd44ffbb"),
    Override.of(
        "_do_i_compile",
        "extended",
        "not where the backward pass runs once for every term of the loss",
        v2_8_1="37eb59cc2ddb",
    ),
    Override.of(
        "_build_loss",
        "extended",
        "the loss reads only what is annotated; one scale alone weighs 1",
        v2_8_1="ba86dfb893fa",
    ),
    Override.of(
        "_get_deep_supervision_scales",
        "extended",
        "networks whose outputs are not the stages of a decoder",
        v2_8_1="1980e0000db0",
    ),
    Override.of("get_tr_and_val_datasets", "extended", "every case must be in the case table", v2_8_1="23c49691d7ab"),
    Override.of(
        "get_dataloaders",
        "extended",
        "sampling probabilities, which nnU-Net's own call fixes at None",
        v2_8_1="5f59e2b907cf",
    ),
    Override.of("on_train_start", "extended", "pretrained weights are not waited for any more", v2_8_1="cbf4259a673f"),
    Override.of(
        "train_step",
        "replaced",
        "the task goes into the network, the annotation mask into the loss",
        v2_8_1="c8993de84c8c",
    ),
    Override.of(
        "on_train_epoch_start",
        "extended",
        "the course of what is taught begins its epoch: of nested tasks the pools of those that begin are opened",
        v2_8_1="49f31d4c1608",
    ),
    Override.of(
        "on_train_epoch_end",
        "replaced",
        "batches that teach nothing are counted, not averaged in",
        v2_8_1="137869f87e19",
    ),
    Override.of("validation_step", "replaced", "pseudo Dice over annotated regions only", v2_8_1="3d415b41f6f7"),
    Override.of(
        "on_validation_epoch_end",
        "replaced",
        "the same, and a mean and moving average safe from NaN",
        v2_8_1="9a59ad7e5414",
    ),
    Override.of(
        "on_epoch_end",
        "extended",
        "the second progress figure; the best checkpoint by Dice and answers",
        v2_8_1="988deef2bd79",
    ),
    Override.of(
        "save_checkpoint",
        "extended",
        "written aside, then renamed: a killed process loses no checkpoint; `torch.save`, swapped inside it, also gets "
        "our content",
        v2_8_1="de4f196c42e6",
    ),
    Override.of(
        "load_checkpoint",
        "extended",
        "one of other plans is refused; a log without our keys is completed",
        v2_8_1="a386bed4eafa",
    ),
    Override.of(
        "perform_actual_validation",
        "extended",
        "exported maps hold only what is annotated in their case",
        v2_8_1="2bd52ada76cd",
    ),
    Override.of(
        "nnUNetDataLoader",
        "swapped",
        "inside get_dataloaders: how cases and patches are drawn, what labels they hold",
        v2_8_1="0482e515658d",
    ),
    Override.of(
        "export_prediction_from_logits",
        "swapped",
        "inside perform_actual_validation: annotated regions only",
        v2_8_1="00970f53a05e",
    ),
    Override.of(
        "nnUNetPredictor",
        "swapped",
        "inside perform_actual_validation: what it answers for each case is kept",
        v2_8_1="d98a0aa989d5",
    ),
    Override.of(
        "load_pretrained_weights",
        "swapped",
        "from the end of initialize, after which nnU-Net's command calls it if it was given any, until it is called, a "
        "checkpoint is loaded or training starts: only what fits is taken, where nnU-Net asks for every tensor",
        v2_8_1="1dc18e4eb8cc",
    ),
    Override.of(
        "determine_postprocessing",
        "swapped",
        "inside find-best: judged region by region, on the cases in which a region is annotated",
        v2_8_1="590d980b82b0",
    ),
    Override.of(
        "load_summary_json",
        "swapped",
        "inside find-best: the mean Dice over annotated regions, safe from NaN",
        v2_8_1="04023248a98a",
    ),
    Override.of(
        "generate_inference_command",
        "swapped",
        "inside find-best: the previous stage of a cascade, which nnU-Net looks for under another name; the device",
        v2_8_1="0b1f3eba4f19",
    ),
)


def upstream_source(name: str) -> Any:
    """Return nnU-Net's method, function or class of that name."""
    import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as TrainerModule
    from nnunetv2.evaluation import find_best_configuration
    from nnunetv2.run import load_pretrained_weights

    places = (TrainerModule.nnUNetTrainer, TrainerModule, load_pretrained_weights, find_best_configuration)
    return next(getattr(place, name) for place in places if hasattr(place, name))


def upstream_hash(name: str) -> str:
    """Hash the source of nnU-Net's method, function or class of that name."""
    return source_hash(upstream_source(name))


def changed() -> list[str]:
    """Name what the installed nnU-Net does differently from the newest version each override was compared with."""
    lines = (override.differs_from(upstream_source(override.name)) for override in OVERRIDES)
    return [line for line in lines if line]
