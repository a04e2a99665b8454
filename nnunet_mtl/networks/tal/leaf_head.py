"""One softmax over background and every label value, from which regions are summed: the head of TAL."""

import torch
from torch import Tensor, autocast

from nnunet_mtl.networks.heads import RegionHead
from nnunet_mtl.networks.layout import Layout


class LeafHead(RegionHead):
    """A channel for background and each leaf (`Layout.leaves`), which compete in a softmax.

    After Fang and Yan, Multi-organ segmentation over partially labeled datasets with multi-scale feature abstraction,
    IEEE TMI 2020. The paper has disjoint organs; that regions which nest are sums of leaves is our choice. Trained with
    `losses.marginal.MarginalDiceCELoss` and `Layout.membership`.

    Regions are unions of leaves by construction: a region's probability is the sum of its leaves'. So a tumour is never
    likelier than its organ, two disjoint regions are never both likelier than not, and where one leaf has more than
    half of the probability exactly the regions that hold it are exported. Elsewhere a region is exported where its
    leaves together have more than half, even if the likeliest single leaf is another one. The first two hold for logits
    averaged over tiles, mirrored images and folds too, as nnU-Net averages them.

    Args:
        layout: The regions, as label values.
        deepest_channels: Not used.
    """

    membership: Tensor

    def __init__(self, layout: Layout, deepest_channels: int) -> None:
        super().__init__(layout, deepest_channels)
        membership = torch.tensor(layout.membership, dtype=torch.float32, device="cpu")
        self.register_buffer("membership", membership, persistent=False)

    @staticmethod
    def channels(layout: Layout) -> int:
        """Return the number of output channels the decoder's segmentation layers need: L + 1."""
        return len(layout.leaves) + 1

    def regions(self, raw: Tensor) -> Tensor:
        """Return the log-odds of each region, the logit of its leaves' summed probability.

        Args:
            raw: Logits of the leaves before the softmax, (B, L + 1, *spatial), any floating dtype.

        Returns:
            (B, R, *spatial), float32 also under autocast; at most about 87 in absolute value.
        """
        with autocast(raw.device.type, enabled=False):
            logits = raw.flatten(2).float()
            # logsumexp of the leaves inside minus that of those outside; both share the largest logit and its exp
            share = (logits - logits.detach().amax(1, keepdim=True)).exp()
            tiny = torch.finfo(torch.float32).tiny
            inside, outside = (
                (members @ share).clamp_min(tiny).log() for members in (self.membership, 1 - self.membership)
            )
            return (inside - outside).view(*inside.shape[:2], *raw.shape[2:])
