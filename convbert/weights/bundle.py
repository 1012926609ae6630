"""TensorFlow's checkpoint format ("bundle"), read without TensorFlow.

A checkpoint is `PREFIX.index`, a table of names, types, shapes and places, and the data files
`PREFIX.data-00000-of-0000N`, plain numbers. Nothing in it is code, and every part has a checksum:
each block of the table, and each variable. All of them are verified.

The table's format is LevelDB's; its values are protocol buffer messages (TensorFlow's
`tensor_bundle.proto`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from crc32c import crc32c

INDEX = ".index"
_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48  # bytes
_LARGEST_INDEX = 64 << 20  # bytes; a ConvBERT's is some hundred kB
_CHUNK = 16 << 20  # bytes read at once for a checksum
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}  # TensorFlow's numbers


class Variable(NamedTuple):
    """Where a variable lies."""

    dtype: np.dtype
    shape: tuple[int, ...]
    shard: int  # number of its data file
    offset: int  # first byte
    size: int  # bytes
    checksum: int  # masked CRC32C of the bytes


def read(prefix: str | Path) -> dict[str, np.ndarray]:
    """Verify a checkpoint and map its variables into memory, read-only.

    Values are read from the file when they are used, so nothing is held twice.

    Args:
        prefix: path without `.index`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: damaged, cut short, or with features that no ConvBERT's checkpoint has.
    """
    index = Path(f"{prefix}{INDEX}")
    shards, variables = read_index(index)
    files = [Path(f"{prefix}.data-{n:05d}-of-{shards:05d}") for n in range(shards)]
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f"{path} not found: {index} needs it")
    used = {variable.shard for variable in variables.values()}
    memory = {n: _map(files[n]) for n in used}
    for name, variable in variables.items():
        if variable.offset + variable.size > len(memory[variable.shard]):
            raise ValueError(f"{files[variable.shard]} is cut short: {name} ends beyond it")
    for n in sorted(used):
        with files[n].open("rb") as file:
            for name, variable in variables.items():
                if variable.shard == n and _checksum(file, variable) != variable.checksum:
                    raise ValueError(f"{files[n]} is damaged: {name} does not fit its checksum")
    return {name: _view(memory[each.shard], each) for name, each in variables.items()}


def read_index(path: Path) -> tuple[int, dict[str, Variable]]:
    """Read the table: the number of data files, and the variables by name.

    Raises:
        ValueError: not such a table, or a damaged one.
    """
    if path.stat().st_size > _LARGEST_INDEX:
        raise ValueError(f"{path} is larger than {_LARGEST_INDEX >> 20} MB, no checkpoint's index")
    data = path.read_bytes()
    try:
        return _parse_index(data)
    except ValueError as error:
        raise ValueError(f"{path} is not a readable TensorFlow checkpoint: {error}") from error


def _parse_index(data: bytes) -> tuple[int, dict[str, Variable]]:
    footer = data[-_FOOTER:]
    if len(footer) < _FOOTER or int.from_bytes(footer[-8:], "little") != _MAGIC:
        raise ValueError("it does not end as an index does")
    meta, at = _handle(footer, 0)
    index, at = _handle(footer, at)
    if any(footer[at:-8]) or any(_entries(_block(data, meta))):
        raise ValueError("its end holds more than it should")
    shards, variables, last = None, {}, b""
    for _, handle in _entries(_block(data, index)):
        for key, value in _entries(_block(data, _handle(handle, 0)[0])):
            if shards is None:  # the header has the empty name, which sorts first
                shards = _shards(key, value)
                continue
            if key <= last:
                raise ValueError(f"{key!r} does not come after {last!r}")
            variables[key.decode()], last = _variable(key, value, shards), key
    if shards is None:
        raise ValueError("it is empty")
    return shards, variables


def _block(data: bytes, place: tuple[int, int]) -> bytes:
    """Return a block of the table; behind it are its type and its checksum, which is verified."""
    offset, end = place[0], sum(place)
    if end + 5 > len(data):
        raise ValueError("a block ends beyond the file")
    stored = int.from_bytes(data[end + 1 : end + 5], "little")
    if _mask(crc32c(data[offset : end + 1])) != stored:
        raise ValueError("a block does not fit its checksum")
    if data[end] != 0:
        raise ValueError("it is compressed")
    return data[offset:end]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values; a key is stored as what differs from the one before."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    if end < 0:
        raise ValueError("a block is shorter than its own count says")
    key, at = b"", 0
    while at < end:
        shared, at = _varint(block, at)
        unshared, at = _varint(block, at)
        length, at = _varint(block, at)
        stop = at + unshared + length
        if shared > len(key) or stop > end:
            raise ValueError("an entry ends beyond its block")
        key = key[:shared] + block[at : at + unshared]
        yield key, block[at + unshared : stop]
        at = stop


def _shards(key: bytes, value: bytes) -> int:
    """Return the number of data files from the header."""
    header = _fields(value)
    shards, is_big_endian = header.get(1, [1])[-1], header.get(2, [0])[-1]
    if key or not isinstance(shards, int) or not 0 < shards <= 99_999:
        raise ValueError("its header is missing or broken")
    if is_big_endian:
        raise ValueError("its numbers are big-endian")
    return shards


def _variable(key: bytes, value: bytes, shards: int) -> Variable:
    """Read one variable's message."""
    found = _fields(value)
    if 7 in found:
        raise ValueError(f"{key.decode()} is cut into slices (a partitioned variable)")
    dtype, shard, offset, size, checksum = (_last(found, n) for n in (1, 3, 4, 5, 6))
    if dtype not in _DTYPES:
        raise ValueError(f"{key.decode()} has type {dtype}; known: {_DTYPES}")
    dimensions = [each for part in found.get(2, []) for each in _fields(part).get(2, [])]
    shape = tuple(_last(_fields(dimension), 1) for dimension in dimensions)
    kind = np.dtype(_DTYPES[dtype])
    if math.prod(shape) * kind.itemsize != size:
        raise ValueError(f"{key.decode()} of shape {list(shape)} cannot have {size} bytes")
    if shard >= shards:
        raise ValueError(f"{key.decode()} lies in data file {shard} of {shards}")
    return Variable(kind, shape, shard, offset, size, checksum)


def _fields(message: int | bytes) -> dict[int, list[int | bytes]]:
    """Split a protocol buffer message into its fields, by number."""
    if not isinstance(message, bytes):
        raise ValueError("a number stands where a message belongs")
    found: dict[int, list[int | bytes]] = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value: int | bytes
        if tag & 7 == 0:
            value, at = _varint(message, at)
        else:
            lengths = {1: 8, 5: 4}
            if tag & 7 == 2:
                length, at = _varint(message, at)
            elif tag & 7 in lengths:
                length = lengths[tag & 7]
            else:
                raise ValueError(f"a field of unknown kind {tag & 7}")
            if at + length > len(message):
                raise ValueError("a field ends beyond its message")
            value = message[at : at + length]
            value = value if tag & 7 == 2 else int.from_bytes(value, "little")
            at += length
        found.setdefault(tag >> 3, []).append(value)
    return found


def _last(found: dict[int, list[int | bytes]], number: int) -> int:
    """Return a number field; a missing one is 0."""
    value = found.get(number, [0])[-1]
    if not isinstance(value, int):
        raise ValueError(f"field {number} is not a number")
    return value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a number of seven bits per byte, lowest first; return it and the next position."""
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(data):
            raise ValueError("a number ends beyond its data")
        byte = data[at]
        value, at = value | (byte & 127) << shift, at + 1
        if byte < 128 and (byte or not shift):
            return value, at
        if byte == 0:  # leading zeros are nothing that a writer writes
            break
    raise ValueError("a number is longer than it can be")


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Read a block's place: offset and size."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _map(path: Path) -> np.ndarray:
    if path.stat().st_size == 0:  # which cannot be mapped
        return np.zeros(0, "uint8")
    return np.memmap(path, "uint8", "r")


def _view(memory: np.ndarray, variable: Variable) -> np.ndarray:
    part = memory[variable.offset : variable.offset + variable.size]
    return np.asarray(part).view(variable.dtype).reshape(variable.shape)


def _checksum(file: BinaryIO, variable: Variable) -> int:
    """Compute a variable's checksum; read, not mapped, so that no page stays in memory."""
    file.seek(variable.offset)
    value, left = 0, variable.size
    while left and (chunk := file.read(min(left, _CHUNK))):
        value, left = crc32c(chunk, value), left - len(chunk)
    return _mask(value)


def _mask(crc: int) -> int:
    """Rotate and shift a CRC, as LevelDB does where checksums are stored beside what they check."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
