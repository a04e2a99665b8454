"""The unit of lengths and volumes: mm and ml, or pixels where the image format has no spacing.

In code a metric has one name, such as `hd95_mm`, for both units; in files the name says the unit (`hd95_px`).
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

LengthUnit = Literal["mm", "pixels"]

_IN_PIXELS = {
    "hd95_mm": "hd95_px",
    "assd_mm": "assd_px",
    "mssd_mm": "mssd_px",
    "volume_ml": "area_px",
    "reference_volume_ml": "reference_area_px",
}
_NAME = re.compile(rf"\b({'|'.join(_IN_PIXELS)})\b")


def length_unit(dataset_json: Mapping[str, Any]) -> LengthUnit:
    """Return the unit of a data set's lengths: pixels if nnU-Net reads png or bmp, which have no spacing."""
    reader = determine_reader_writer_from_dataset_json(dict(dataset_json), verbose=False)
    return "pixels" if issubclass(reader, NaturalImage2DIO) else "mm"


def with_unit(value: Any, unit: LengthUnit) -> Any:
    """Return a JSON-able value, or a metric's name, with every metric renamed for the unit."""
    if unit == "mm":
        return value
    if isinstance(value, str):
        return _NAME.sub(lambda match: _IN_PIXELS[match[1]], value)
    if isinstance(value, Mapping):
        return {with_unit(key, unit): with_unit(content, unit) for key, content in value.items()}
    return [with_unit(item, unit) for item in value] if isinstance(value, list | tuple) else value
