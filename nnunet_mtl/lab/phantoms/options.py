"""The options that all kinds of phantoms share, and the refusal of values out of range."""

from dataclasses import dataclass
from typing import ClassVar

from nnunet_mtl.common.errors import UserError


class PhantomError(UserError):
    """An option of the phantoms is out of range, or the target folder cannot be written."""


def require(holds: bool, name: str, value: object, expected: str) -> None:
    """Refuse the value of an option in one line.

    Args:
        holds: Whether the value is allowed.
        name: Name of the option.
        value: The given value.
        expected: The allowed values, in words that follow "must be".

    Raises:
        PhantomError: If `holds` is false.
    """
    if not holds:
        raise PhantomError(f"phantom option {name}={value!r} must be {expected}")


def require_range(name: str, value: tuple[float, ...], lowest: float, highest: float, unit: str) -> None:
    """Refuse a pair that is not ascending, or not between `lowest` and `highest`.

    Raises:
        PhantomError: If the pair is refused.
    """
    holds = len(value) == 2 and lowest <= value[0] <= value[1] <= highest
    require(holds, name, value, f"two {unit}, the smaller first, between {lowest:g} and {highest:g}")


@dataclass(frozen=True, kw_only=True)
class SharedOptions:
    """Options of every kind of phantoms; the same options give the same data set.

    Attributes:
        seed: Start of all random numbers.
        image_size: Size in voxels, (Y, X) or (Z, Y, X); None for the default of the kind. The field of view in mm is
            fixed.
        cases: Number of training cases. Every fourth case is another image of the patient before.
        test_cases: Number of test cases. They are fully annotated, and their patients have no training case.
    """

    default_sizes: ClassVar[dict[int, tuple[int, ...]]]

    seed: int = 0
    image_size: tuple[int, ...] | None = None
    cases: int = 24
    test_cases: int = 12

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, "at least 0")
        require(self.axes in self.default_sizes, "dimension", self.axes, "2 or 3")
        require(len(self.matrix) == self.axes, "image_size", self.image_size, f"{self.axes} numbers")
        require(min(self.matrix) >= 16, "image_size", self.image_size, "at least 16 along each axis")
        require(self.cases >= 1, "cases", self.cases, "at least 1")
        require(self.test_cases >= 0, "test_cases", self.test_cases, "at least 0")

    @property
    def axes(self) -> int:
        """Number of axes of the images; kinds that offer both have an option `dimension`."""
        return int(getattr(self, "dimension", 2))

    @property
    def matrix(self) -> tuple[int, ...]:
        """Image size, with the default filled in."""
        return self.default_sizes[self.axes] if self.image_size is None else tuple(self.image_size)

    def require_shares(self, *names: str) -> None:
        """Refuse values of these options that are not shares.

        Raises:
            PhantomError: If a value is not between 0 and 1.
        """
        for name in names:
            value = getattr(self, name)
            require(0 <= value <= 1, name, value, "between 0 and 1")
