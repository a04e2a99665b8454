"""Finds the packages; everything else stands in setup.cfg.

`find:` in setup.cfg cannot express that trainers/ and planners/ of the checkout are packages below nnunet_mtl.
"""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["nnunet_mtl", "nnunet_mtl.*"]), "nnunet_mtl.trainers", "nnunet_mtl.planners"])
