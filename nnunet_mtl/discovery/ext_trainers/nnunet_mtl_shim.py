"""What nnU-Net finds when it searches this folder: the trainers under their own, importable names.

nnU-Net imports every file of a folder named in `nnUNet_extTrainer` as a top-level module and drops it again after the
look-up. A class defined in such a file is another class at every look-up and cannot be pickled; a re-exported one is
not. So this module only re-exports.
"""

from nnunet_mtl.discovery.leaves import leaves

globals().update(leaves("nnunet_mtl.trainers"))
