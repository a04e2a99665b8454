"""Networks: nnU-Net's planned encoders and decoders, and the places in them at which methods put their parts.

What every network shares lies in this folder. Start with the table of places:

- `insertion_points`: the table; `off_parts` and `decoders` hold the parts that a network gets if a trainer names none.
- `description`: the parts and heads of a network, read once from arguments in the plans that `architecture` writes.
- `multitask_network`: the base of all networks. `task_guided`: the base of those in which the task can enter anywhere.
- `unet`: nnU-Net's U-Nets with these places. `dodnet.residual_unet`, `streams.streamed_unet` and `mamtln.pyramid_unet`
  hold the other networks.
- `heads`: segmentation heads. `classification`: heads that answer questions about the image, with `evidence_pooling`
  and `standardisation`; `probe_head` is the one that `nnunet_mtl probe` exports.
- `task_passes`: runs a network for one task or for all tasks. `multitask_output`: everything a network returns.
- `attention`: the task-guided attention of `nnUNetTrainerMTLAttention`. `task_code`: Cond-Input and Cond-Dec.
- `pre_norm`: features before their normalisation. `normalised_feature`, `gradient`, `unused_parameters`, `unwrapped`
  and `layout` (the regions): small helpers of several networks.

A folder holds what one paper adds:

- `acsnet`: ACSNet (He et al., 2024). `clip_driven`: CLIP-driven universal model (Liu et al., ICCV 2023).
- `dodnet`: DoDNet, its network and its dynamic head (Zhang et al., CVPR 2021). `multitalent`: the loss of MultiTalent
  (Ulrich et al., MICCAI 2023). `mamtln`: MA-MTLN, its loss too (Zhang et al., IEEE TMI 2021).
- `omnet`: OM-Net (Zhou et al., IEEE TIP 2020). `streams`: hard parameter sharing (Caruana, 1997), MTAN (Liu et al.,
  CVPR 2019) and CTAN (Kim et al., 2023).
- `tal`: target adaptive loss, its head and its loss (Fang and Yan, IEEE TMI 2020). `tgnet`: TGNet (Wu et al., ISBI
  2022). `uniseg`: UniSeg (Ye et al., MICCAI 2023).
"""
