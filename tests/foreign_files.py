"""Write weights as other libraries do, and hostile files, without those libraries."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from convbert.weights import names

STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage"}


def to_huggingface(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return our arrays under transformers' names, in its layouts."""
    return {
        names.to_huggingface(name): np.ascontiguousarray(names.swap_layout(name, value))
        for name, value in state.items()
    }


def text(value: str) -> bytes:
    """Return the pickle instruction that pushes a string."""
    content = value.encode()
    return b"X" + struct.pack("<I", len(content)) + content


def whole(value: int) -> bytes:
    """Return the pickle instruction that pushes a whole number."""
    return b"J" + struct.pack("<i", value)


def tensor(key: str, array: np.ndarray, shape: tuple | None = None, start: int = 0) -> bytes:
    """Return the instructions with which PyTorch describes a tensor."""
    storage = b"(" + text("storage") + b"ctorch\n" + STORAGES[str(array.dtype)].encode() + b"\n"
    storage += text(key) + text("cpu") + whole(array.size) + b"tQ"
    steps = [step // array.itemsize for step in array.strides]
    sizes = b"(" + b"".join(map(whole, array.shape if shape is None else shape)) + b"t"
    strides = b"(" + b"".join(map(whole, steps)) + b"t"
    rest = b"\x89ccollections\nOrderedDict\n)R"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + whole(start)
        + sizes
        + strides
        + rest
        + b"tR"
    )


def torch_pickle(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the data.pkl of a state dict."""
    items = b"".join(text(k) + tensor(str(i), v) for i, (k, v) in enumerate(arrays.items()))
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + items + b"u."


def write_torch(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    program: bytes | None = None,
    folder: str = "archive/",
    **extra: bytes,
) -> None:
    """Write what `torch.save` writes for a state dict.

    Args:
        path: of the file.
        arrays: by name.
        program: instead of the data.pkl that belongs to the arrays.
        folder: of the members.
        **extra: contents of further members.
    """
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(folder + "data.pkl", program or torch_pickle(arrays))
        for i, array in enumerate(arrays.values()):
            archive.writestr(f"{folder}data/{i}", array.tobytes())
        for name, content in {"byteorder": b"little", **extra}.items():
            archive.writestr(folder + name, content)


def write_paddle(path: Path, arrays: Mapping[str, np.ndarray], protocol: int = 4) -> None:
    """Write what `paddle.save` writes for a state dict: NumPy arrays, pickled, and a list."""
    extra = {"StructuredToParameterName@@": {name: f"p_{i}" for i, name in enumerate(arrays)}}
    path.write_bytes(pickle.dumps({**arrays, **extra}, protocol=protocol))


class Payload:
    """A pickle of this runs a command when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple:
        import os

        return os.system, (f"touch '{self.victim}'",)


def programs(victim: Path) -> dict[str, bytes]:
    """Return pickles that would run a command, each by other instructions."""
    command = text(f"touch '{victim}'")
    done = b"0"  # drop the result
    runs = {
        "reduce": b"cos\nsystem\n(" + command + b"tR" + done,
        "stack global": text("posix") + text("system") + b"\x93(" + command + b"tR" + done,
        "instance": b"(" + command + b"ios\nsystem\n" + done,
        "object": b"(cos\nsystem\n" + command + b"o" + done,
        "new object": b"cos\nsystem\n(" + command + b"t\x81" + done,
        "evaluated": b"cbuiltins\neval\n(" + text(f"open('{victim}', 'w')") + b"tR" + done,
        "attribute of an allowed name": text("numpy")
        + text("ndarray.__class__.mro")
        + b"\x93)R"
        + done,
        "extension": b"\x82\x01)R" + done,
    }
    return {name: b"\x80\x04" + run + b"}." for name, run in runs.items()}
