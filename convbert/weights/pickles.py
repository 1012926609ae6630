"""Read pickled weights without unpickling: `.pdparams` of Paddle, `.bin` of PyTorch.

A pickle is a program for a stack machine; Python's own machine imports and calls whatever the
program names. The machine here has no instruction that does so: what a program wants called is
written down as a `Call`, and the readers below know the few calls that describe an array. A name
that no array needs ends the reading at once.
"""

from __future__ import annotations

import math
import mmap
import pickletools
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convbert.weights.arrays import Array

# Generator and discriminator of the base size take about 50,000 instructions.
MOST_INSTRUCTIONS = 200_000

NDARRAY, DTYPE, ENCODE = "numpy.ndarray", "numpy.dtype", "_codecs.encode"
RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
PADDLE_NAMES = frozenset({NDARRAY, DTYPE, ENCODE, *RECONSTRUCT})
TENSOR, PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
ORDERED = "collections.OrderedDict"
STORAGES = {
    "torch.HalfStorage": ("F16", "<f2"),
    "torch.FloatStorage": ("F32", "<f4"),
    "torch.DoubleStorage": ("F64", "<f8"),
    "torch.BFloat16Storage": ("BF16", "<u2"),
    "torch.LongStorage": ("I64", "<i8"),  # of position_ids, which is ignored
}
TORCH_NAMES = frozenset({TENSOR, PARAMETER, ORDERED, *STORAGES})
# Paddle's list of its automatic names, beside the arrays.
PADDLE_EXTRA = "StructuredToParameterName@@"

_PUSHES_ITS_ARGUMENT = frozenset(
    """BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES
    SHORT_BINBYTES BINBYTES8""".split()
)
_KINDS = {"f2": "F16", "f4": "F32", "f8": "F64"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLE_SIZES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class Name:
    """A function or class that a pickle names."""

    path: str


class Call:
    """A call that a pickle asks for: written down, never made."""

    def __init__(self, function: Any, arguments: Any) -> None:
        """Keep what would be called with what."""
        self.function, self.arguments, self.state = function, arguments, None

    def of(self, *names: str) -> bool:
        """Whether the call is of one of these names, with a tuple of arguments."""
        is_named = isinstance(self.function, Name) and self.function.path in names
        return is_named and isinstance(self.arguments, tuple)


class Machine:
    """Runs a pickle's program without importing or calling anything."""

    def __init__(self, allowed: frozenset[str]) -> None:
        """Start with an empty stack; `allowed` are the names a program may use."""
        self.allowed = allowed
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memory: dict[int, Any] = {}

    def run(self, content: Any) -> Any:
        """Return what the program leaves on the stack.

        Args:
            content: the pickle's bytes, or a file of them.

        Raises:
            ValueError: a name outside the allowed ones, or not a pickle of plain data.
        """
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
                if opcode.name == "STOP":
                    return self.stack.pop()
                if count > MOST_INSTRUCTIONS:
                    raise ValueError(f"more than {MOST_INSTRUCTIONS} instructions")
                self.step(opcode.name, argument)
        except (IndexError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"broken pickle ({type(error).__name__}: {error})") from error
        raise ValueError("the pickle has no end")

    def step(self, name: str, argument: Any) -> None:
        """Execute one instruction."""
        stack = self.stack
        if name in _PUSHES_ITS_ARGUMENT:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name in _TUPLE_SIZES:
            stack.append(tuple(self.take(_TUPLE_SIZES[name])))
        elif name == "TUPLE":
            stack.append(tuple(self.since_mark()))
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memory[len(self.memory) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memory[argument])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            stack.append(self.named(argument.split(" ") if argument else self.take(2)))
        elif name in ("SETITEM", "SETITEMS"):
            items = self.take(2) if name == "SETITEM" else self.since_mark()
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name in ("APPEND", "APPENDS"):
            items = self.take(1) if name == "APPEND" else self.since_mark()
            stack[-1].extend(items)
        elif name == "REDUCE":
            function, arguments = self.take(2)
            empty = function == Name(ORDERED) and not arguments
            stack.append({} if empty else Call(function, arguments))
        elif name == "BUILD":
            (state,) = self.take(1)
            if isinstance(stack[-1], Call):  # a dict's attributes are not needed
                stack[-1].state = state
        elif name not in ("PROTO", "FRAME", "BINPERSID"):  # a persistent id stands for itself
            raise ValueError(f"unexpected pickle instruction {name}")

    def named(self, parts: Iterable[str]) -> Name:
        """Return an allowed name."""
        path = ".".join(parts)
        if path not in self.allowed:
            raise ValueError(f"the pickle names {path!r}, which no array of weights needs")
        return Name(path)

    def take(self, count: int) -> list[Any]:
        """Pop the topmost items, the deepest first."""
        if not 0 <= count <= len(self.stack):
            raise IndexError("empty stack")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def since_mark(self) -> list[Any]:
        """Pop everything above the last mark."""
        return self.take(len(self.stack) - self.marks.pop())


# --- Paddle ---------------------------------------------------------------------------------


class _Views(mmap.mmap):
    """A file that answers long reads with a view of it, so that an array is not copied twice."""

    def read(self, size: int | None = None) -> Any:
        start = self.tell()
        content = memoryview(self)[start : None if size is None else start + size]
        self.seek(start + len(content))
        return content if len(content) > 1024 else bytes(content)

    def forget(self) -> None:
        """Let go of the pages read so far; they would count as this process's memory."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.madvise(mmap.MADV_DONTNEED)


def read_pdparams(path: Path) -> dict[str, Array]:
    """Describe the arrays of a `.pdparams` file, as `paddle.save` writes state dicts.

    Raises:
        ValueError: anything but a dict of float arrays, or names that no array needs.
    """
    try:
        with open(path, "rb") as file:
            content = _Views(file.fileno(), 0, access=mmap.ACCESS_READ)
        state = Machine(PADDLE_NAMES).run(content)
        items = _items(state)
        return {name: _ndarray(value) for name, value in items if name != PADDLE_EXTRA}
    except ValueError as error:
        raise ValueError(f"{path} is not a readable .pdparams file: {error}") from error


def _items(state: Any) -> Iterable[tuple[str, Any]]:
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ValueError("expected a dict of arrays by name")
    return state.items()


def _ndarray(value: Any) -> Array:
    """Turn NumPy's description of an array, the state of a `_reconstruct` call, into an `Array`."""
    if not (isinstance(value, Call) and value.of(*RECONSTRUCT)):
        raise ValueError("expected arrays, found something else")
    match value.state:
        case (1, claimed, Call() as dtype, bool() as is_fortran, data):
            kind, shape = _kind(dtype), _shape(claimed)
        case _:
            raise ValueError("an array is not described as NumPy does")
    if kind not in _KINDS:
        return Array(kind, shape, lambda: np.empty(0))  # the model will refuse its type
    match data:
        case Call(arguments=(str() as text, "latin1")) if data.of(ENCODE):
            data = text  # protocol 2 writes bytes as text, a character for each
    size = len(data) if isinstance(data, (str, bytes, memoryview)) else -1
    if size != math.prod(shape) * int(kind[1]):
        raise ValueError(f"an array of shape {list(shape)} does not have that many bytes")
    order: Any = "F" if is_fortran else "C"

    def read() -> np.ndarray:
        content = data.encode("latin1") if isinstance(data, str) else data
        array = np.frombuffer(content, f"<{kind}").reshape(shape, order=order)
        if isinstance(data, memoryview) and isinstance(data.obj, _Views):
            array = array.copy()
            data.obj.forget()
        return array

    return Array(_KINDS[kind], shape, read)


def _kind(dtype: Call) -> str:
    """Return NumPy's name of an element type: f4; with its byte order if that is not ours: >f4."""
    match (dtype.of(DTYPE), dtype.arguments, dtype.state):
        case (True, (str() as kind, *_), (int(), str() as order, *_)):
            return kind[:8] if order in "<=" else (order + kind)[:8]
    raise ValueError("an element type is not described as NumPy does")


def _shape(shape: Any) -> tuple[int, ...]:
    """Check a shape that a file claims."""
    is_tuple = isinstance(shape, tuple) and len(shape) <= 8
    if not (is_tuple and all(type(size) is int and 0 <= size < 2**40 for size in shape)):
        raise ValueError("an array has no usable shape")
    return shape


# --- PyTorch --------------------------------------------------------------------------------


def read_torch(path: Path) -> dict[str, Array]:
    """Describe the arrays of a file that `torch.save` wrote, without PyTorch.

    Raises:
        ValueError: not a zip archive of plain members in one folder, anything but a dict of
            tensors, or names that no tensor needs.
    """
    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            raise ValueError(
                f"{path} is not a file of PyTorch 1.6 or later; load an older one with "
                "torch.load(weights_only=True) and save its tensors as model.safetensors"
            )
    try:
        archive = zipfile.ZipFile(path)
        folder = _check_members(archive, path.stat().st_size)
        state = Machine(TORCH_NAMES).run(archive.read(folder + "data.pkl"))
        return {name: _tensor(value, archive, folder) for name, value in _items(state)}
    except (ValueError, *_ZIP_ERRORS) as error:
        raise ValueError(f"{path} is not a readable file of PyTorch: {error}") from error


_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, KeyError, OSError)


def _check_members(archive: zipfile.ZipFile, size: int) -> str:
    """Return the archive's one folder; refuse members that are compressed, outside or too large."""
    members = archive.infolist()
    folders = {member.filename.partition("/")[0] for member in members}
    if len(folders) != 1 or len({member.filename for member in members}) != len(members):
        raise ValueError("expected different members in one folder")
    for member in members:
        parts = member.filename.split("/")
        if "\\" in member.filename or {"", ".", ".."} & set(parts):
            raise ValueError(f"a member is called {member.filename!r}")
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise ValueError(f"{member.filename} is compressed")
    if sum(member.file_size for member in members) > size:
        raise ValueError("its members claim more bytes than the file has")
    folder = folders.pop() + "/"
    if folder + "byteorder" in archive.namelist():
        if archive.read(folder + "byteorder") != b"little":
            raise ValueError("its numbers are not little-endian")
    return folder


def _tensor(value: Any, archive: zipfile.ZipFile, folder: str) -> Array:
    """Turn PyTorch's description of a tensor, a view of a storage, into an `Array`."""
    while isinstance(value, Call) and value.of(PARAMETER):
        value = value.arguments[0] if value.arguments else None
    if not (isinstance(value, Call) and value.of(TENSOR)):
        raise ValueError("expected tensors, found something else")
    match value.arguments:
        case (("storage", Name(kind), str() as key, *_), int() as start, claimed, steps, *_):
            shape, steps = _shape(claimed), _shape(steps)
        case _:
            raise ValueError("a tensor is not described as PyTorch does")
    if kind not in STORAGES or not key.isdecimal():
        raise ValueError(f"a tensor lies in a storage of {kind} called {key!r}")
    name, dtype = STORAGES[kind]
    if len(shape) != len(steps):
        raise ValueError(f"a tensor of shape {list(shape)} has {len(steps)} strides")
    last = start + sum((size - 1) * step for size, step in zip(shape, steps, strict=True))
    count = archive.getinfo(f"{folder}data/{key}").file_size // int(dtype[2])
    if start < 0 or (0 not in shape and last >= count):
        raise ValueError(f"a tensor of shape {list(shape)} reaches beyond its storage")
    return Array(name, shape, _view(archive, f"{folder}data/{key}", dtype, start, shape, steps))


def _view(
    archive: zipfile.ZipFile, member: str, dtype: str, start: int, shape: tuple, steps: tuple
) -> Callable[[], np.ndarray]:
    """Return a function that reads a storage, checks its checksum, and views a tensor in it."""

    def read() -> np.ndarray:
        try:
            content = archive.read(member)
        except _ZIP_ERRORS as error:
            raise ValueError(f"{archive.filename}: {member} is damaged: {error}") from error
        width = int(dtype[2])
        storage = np.frombuffer(content[: len(content) // width * width], dtype)[start:]
        strides = tuple(step * width for step in steps)
        return np.lib.stride_tricks.as_strided(storage, shape, strides, writeable=False)

    return read
