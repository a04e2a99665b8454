"""Count a cascade of three stock networks against OM-Net's one, on nnU-Net's default 3D network: docs/cascade.md.

python benchmarks/cascade.py
"""

from dataclasses import replace

from cascade_cost import cascade_cost, tiles_of

from nnunet_mtl.lab.methods.setting import default_setting
from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.trainers.nnUNetTrainerOMNet import nnUNetTrainerOMNet

BRAIN, LESION = (155, 240, 240), (80, 96, 96)  # voxels: what a BraTS image has, and a box that one may have
TASKS = TaskSet.from_dataset_json(
    {
        "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3, 3]},
        "regions_class_order": [1, 2, 3],
        "nnunet_mtl": {
            "version": 1,
            "tasks": {
                "whole": {"regions": ["whole"]},
                "core": {"regions": ["core"], "parent": "whole"},
                "enhancing": {"regions": ["enhancing"], "parent": "core"},
            },
        },
    }
)


def main() -> None:
    """Print the table, and what both cost for an image."""
    setting = replace(default_setting(), tasks=TASKS, input_channels=4)
    cost = cascade_cost(nnUNetTrainerOMNet, setting)
    print(cost.table())
    whole, box = (tiles_of(shape, setting.patch_size) for shape in (BRAIN, LESION))
    cascade = cost.flops({"whole": whole, "core": box, "enhancing": box})
    print(f"{BRAIN}: {whole} tiles; {LESION}: {box}")
    print(f"cascade {cascade / 1e12:.1f} TFLOPs, one network {whole * cost.together.tile_flops / 1e12:.1f} TFLOPs")


if __name__ == "__main__":
    main()
