"""Checks that an image file is complete: NIfTI readers fill a truncated file with zeros without a warning."""

import gzip
import struct
import zlib
from pathlib import Path

_CHUNK = 1 << 22


def file_problem(path: Path) -> str:
    """Return the fault of a file in words; empty text if there is none.

    A compressed file is read to the end, which checks the check sum; a NIfTI file must be as long as the header says.
    Other faults are left to the reader of the format.
    """
    try:
        with path.open("rb") as file:
            if file.read(2) != b"\x1f\x8b":
                file.seek(0)
                header, length = file.read(540), path.stat().st_size
            else:
                header, length = _unpacked(path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        return f"the compressed file is damaged ({error})"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not length:
        return "the file is empty"
    expected = _nifti_length(header) if ".nii" in path.suffixes else 0
    return f"the file ends after {length} of {expected} bytes" if length < expected else ""


def _unpacked(path: Path) -> tuple[bytes, int]:
    """Return the first 540 bytes and the length of the uncompressed content."""
    with gzip.open(path) as file:
        header = file.read(540)
        length = len(header)
        while chunk := file.read(_CHUNK):
            length += len(chunk)
    return header, length


def _nifti_length(header: bytes) -> int:
    """Return the length in bytes that a NIfTI header implies; 348, the shorter header's, for any other file."""
    for order in "<>":
        if header[:4] == struct.pack(f"{order}i", 348) and len(header) >= 348:
            dimensions = struct.unpack_from(f"{order}8h", header, 40)
            (bits,) = struct.unpack_from(f"{order}h", header, 72)
            (offset,) = struct.unpack_from(f"{order}f", header, 108)
        elif header[:4] == struct.pack(f"{order}i", 540) and len(header) >= 540:
            dimensions = struct.unpack_from(f"{order}8q", header, 16)
            (bits,) = struct.unpack_from(f"{order}h", header, 14)
            (offset,) = struct.unpack_from(f"{order}q", header, 168)
        else:
            continue
        voxels = 1
        for edge in dimensions[1 : 1 + max(0, min(7, dimensions[0]))]:
            voxels *= max(1, edge)
        return int(offset) + int(voxels) * int(bits) // 8
    return 348
