"""The training that DoDNet (CVPR 2021) and TGNet (ISBI 2022) published, as plans."""

from nnunet_mtl.networks.dodnet.residual_unet import PublishedUNet
from nnunet_mtl.planning.published import PublishedPlanner


class nnUNetPlannerMTLPublished(PublishedPlanner):
    """Plans for `PublishedUNet`, by default named `nnUNetMTLPublishedPlans`."""

    network_class = PublishedUNet
