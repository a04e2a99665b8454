"""A planner whose plans name a task-guided network instead of the one that trainers would swap in."""

from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from torch import nn


class MultiTaskPlanner(ExperimentPlanner):
    """nnU-Net's default planner with another network, which nnU-Net asks for its memory estimate.

    Only needed for plans that name the network themselves: the trainers exchange the network of any plans. Data are
    shared with nnU-Net's default plans, so use `nnUNetv2_preprocess` with these plans only where the default plans
    were not preprocessed: it deletes the folder it writes to.

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
        """Return the default plans' identifier where the data would be the same, else one of these plans' own.

        The spacing of `3d_lowres` follows from the patch size, and so may differ between planners.
        """
        as_default = (
            self.overwrite_target_spacing is None
            and self.preprocessor_name == "DefaultPreprocessor"
            and not self.suppress_transpose
        )
        shared = as_default and configuration_name in ("2d", "3d_fullres")
        return f"{'nnUNetPlans' if shared else self.plans_identifier}_{configuration_name}"
