"""Arrays in files: described first, checked, and only then read, one by one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

# Element types that become float32 without surprise, by safetensors' names.
FLOATS = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2"}


class Array(NamedTuple):
    """One array of a file, not read yet."""

    dtype: str  # element type, by safetensors' names
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]  # its values; those of BF16 as their 16 bits, uint16

    def values(self) -> np.ndarray:
        """Read the array as float32, in one piece."""
        values = self.read()
        if self.dtype == "BF16":  # the upper half of a float32
            values = (np.ascontiguousarray(values).astype("uint32") << 16).view("float32")
        return _in_one_piece(values.astype("float32", copy=False))


def _in_one_piece(array: np.ndarray) -> np.ndarray:
    """Return an array whose rows follow each other in memory.

    A transposed matrix is copied in strips: as a whole it takes six times as long, because each
    number comes from another line of the processor's cache.
    """
    if array.ndim != 2 or array.flags.c_contiguous:
        return np.ascontiguousarray(array)
    copy = np.empty(array.shape, array.dtype)
    for start in range(0, array.shape[1], 64):
        copy[:, start : start + 64] = array[:, start : start + 64]
    return copy


def of_numpy(array: np.ndarray) -> Array:
    """Describe an array that is in memory already."""
    kind = {"f2": "F16", "f4": "F32", "f8": "F64"}.get(array.dtype.str[1:], str(array.dtype))
    return Array(kind, array.shape, lambda: array)


def read_safetensors(path: Path) -> dict[str, Array]:
    """Describe the arrays of a safetensors file, under the file's names.

    The library checks the header: its size, every shape against its bytes, no gaps, no overlaps.

    Raises:
        ValueError: the file is torn or is not safetensors.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            file.keys()
        with open(path, "rb") as content:
            length = int.from_bytes(content.read(8), "little")
            header = json.loads(content.read(length))
    except (SafetensorError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        kind, shape = entry["dtype"], tuple(entry["shape"])
        start = 8 + length + entry["data_offsets"][0]
        arrays[name] = Array(kind, shape, _part(path, FLOATS.get(kind, "V1"), shape, start))
    return arrays


def _part(path: Path, dtype: str, shape: tuple[int, ...], start: int) -> Callable[[], np.ndarray]:
    """Return a function that reads one array from its place in a file."""
    count = int(np.prod(shape, dtype="object"))
    return lambda: np.fromfile(path, dtype, count, offset=start).reshape(shape)
