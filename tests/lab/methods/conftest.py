import pytest

from nnunet_mtl.lab.methods.setting import default_setting
from nnunet_mtl.lab.methods.table import MethodTable, method_table


@pytest.fixture(scope="session")
def table() -> MethodTable:
    """What every method costs on nnU-Net's default 3D network."""
    return method_table(default_setting())
