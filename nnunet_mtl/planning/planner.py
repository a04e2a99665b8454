"""A planner whose plans name a multi-task network; with other plans, the trainer exchanges the network."""

from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from torch import nn


class MultiTaskPlanner(ExperimentPlanner):
    """nnU-Net's default planner with another network, whose memory nnU-Net estimates.

    Plans that name the network are rarely needed: the trainers exchange the network of any plans. The preprocessed data
    are shared with nnU-Net's default plans. Run `nnUNetv2_preprocess` with these plans only if the default plans were
    not preprocessed, because the command deletes the folder to which it writes.

    Constructor parameters are those of nnU-Net, which passes them by name.
    """

    network_class: type[nn.Module]

    def __init__(
        self,
        dataset_name_or_id: str | int,
        gpu_memory_target_in_gb: float = 8,
        preprocessor_name: str = "DefaultPreprocessor",
        plans_name: str = "nnUNetMTLPlans",
        overwrite_target_spacing: list[float] | tuple[float, ...] | None = None,
        suppress_transpose: bool = False,
    ) -> None:
        super().__init__(
            dataset_name_or_id,
            gpu_memory_target_in_gb,
            preprocessor_name,
            plans_name,
            overwrite_target_spacing,
            suppress_transpose,
        )
        self.UNet_class = self.network_class

    def generate_data_identifier(self, configuration_name: str) -> str:
        """Return the identifier of the default plans' data if these plans' data are the same, else another identifier.

        The spacing of `3d_lowres` follows from the patch size, and so may differ between planners.
        """
        as_default = (
            self.overwrite_target_spacing is None
            and self.preprocessor_name == "DefaultPreprocessor"
            and not self.suppress_transpose
        )
        shared = as_default and configuration_name in ("2d", "3d_fullres")
        return f"{'nnUNetPlans' if shared else self.plans_identifier}_{configuration_name}"
