"""nnU-Net's default planner for the plain U-Net with task-guided attention."""

from nnunet_mtl.networks.unet import TaskGuidedPlainConvUNet
from nnunet_mtl.planning.planner import MultiTaskPlanner


class nnUNetPlannerMTL(MultiTaskPlanner):
    """Plans for `TaskGuidedPlainConvUNet`, by default named `nnUNetMTLPlans`."""

    network_class = TaskGuidedPlainConvUNet
