"""The folder nnU-Net scans for trainers; see nnunet_mtl.discovery."""
