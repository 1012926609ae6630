"""Hostile and damaged files: one clear ValueError, no code run, nothing absurd allocated."""

from __future__ import annotations

import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_files as foreign
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from support import randomize, small_config

from convbert.model import ConvBertModel
from convbert.weights import huggingface, paddlenlp, pickles, reading

MODEL = randomize(ConvBertModel(small_config(vocab_size=16, num_hidden_layers=1)))
STATE = {name: value.numpy() for name, value in MODEL.state_dict().items()}
THEIRS = foreign.to_huggingface(STATE)
WRITERS: dict[str, Callable[[Path], None]] = {
    huggingface.WEIGHTS: lambda path: save_file(THEIRS, path),
    huggingface.TORCH_WEIGHTS: lambda path: foreign.write_torch(path, THEIRS),
    paddlenlp.WEIGHTS: lambda path: foreign.write_paddle(path, STATE),
}
# What reading may take beyond the file itself; the files here have some 30 kB.
ROOM = 8 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a configuration and no weights."""
    (tmp_path / "config.json").write_text(json.dumps(MODEL.config.to_dict()))
    return tmp_path


def load(folder: Path) -> ConvBertModel:
    return ConvBertModel.from_pretrained(folder)


def is_same(model: Any) -> bool:
    found = {name: value.numpy() for name, value in model.state_dict().items()}
    return found.keys() == STATE.keys() and all(np.array_equal(found[k], STATE[k]) for k in STATE)


def refused(folder: Path, match: str = "", room: int = ROOM) -> str:
    """Load, expect a ValueError of one line and no large allocation; return its message."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=match) as error:
            load(folder)
        assert tracemalloc.get_traced_memory()[1] < room
    finally:
        tracemalloc.stop()
    assert type(error.value) is ValueError
    return str(error.value)


@pytest.mark.parametrize("name", WRITERS)
def test_undamaged_files_load(name: str, folder: Path):
    WRITERS[name](folder / name)
    assert is_same(load(folder))


# --- Code ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", foreign.programs(Path()))
@pytest.mark.parametrize("name", [huggingface.TORCH_WEIGHTS, paddlenlp.WEIGHTS])
def test_no_code_in_a_pickle_runs(name: str, kind: str, folder: Path):
    victim = folder / "victim"
    program = foreign.programs(victim)[kind]
    if name == paddlenlp.WEIGHTS:
        (folder / name).write_bytes(program)
    else:
        foreign.write_torch(folder / name, THEIRS, program)
    refused(folder, "not a readable")
    assert not victim.exists()


@pytest.mark.parametrize("kind", ["reduce", "stack global", "instance", "object", "evaluated"])
def test_these_programs_are_dangerous(kind: str, tmp_path: Path):
    """Python's own machine runs them: the test above refuses something real."""
    victim = tmp_path / "victim"
    pickle.loads(foreign.programs(victim)[kind])
    assert victim.exists()


def test_a_payload_among_good_arrays_does_not_run(folder: Path):
    victim = folder / "victim"
    content = {**STATE, "encoder.layers.0.norm1.bias": foreign.Payload(victim)}
    (folder / paddlenlp.WEIGHTS).write_bytes(pickle.dumps(content))
    assert "names 'posix.system'" in refused(folder) or os.name != "posix"
    assert not victim.exists()


# --- Pickles ---------------------------------------------------------------------------------


PICKLES = {
    "empty": (b"", "empty file"),
    "no pickle": (b"hello", "not a readable"),
    "no end": (b"\x80\x04}", "not a readable"),
    "stack underflow": (b"\x80\x04s.", "broken pickle"),
    "list": (b"\x80\x04].", "dict of arrays"),
    "numbers as names": (b"\x80\x04}K\x01K\x02s.", "dict of arrays"),
    "nested": (b"\x80\x04}" + foreign.text("model") + b"}s.", "expected arrays"),
    "unset memory": (b"\x80\x04h\x07.", "broken pickle"),
    "far memory": (b"\x80\x04}r\xff\xff\xff\x7f.", "found neither"),
    "unhashable key": (b"\x80\x04}]Ns.", "broken pickle"),
    "many instructions": (b"\x80\x04" + b"}" * 200_010 + b".", "more than 200000 instructions"),
    "a long string that is not there": (b"\x80\x04\x8d" + struct.pack("<Q", 2**40), "not a read"),
    "many bytes that are not there": (b"\x80\x04\x8e" + struct.pack("<Q", 2**62), "not a read"),
    "a large number": (b"\x80\x04\x8b\xff\xff\xff\x7f", "not a readable"),
    "deep nesting": (b"\x80\x04" + b")" + b"\x85" * 100_000 + b"R.", "broken|dict of arrays|stack"),
}


@pytest.mark.parametrize("kind", PICKLES)
def test_broken_pickles_are_refused(kind: str, folder: Path):
    content, message = PICKLES[kind]
    (folder / paddlenlp.WEIGHTS).write_bytes(content)
    # Two hundred thousand empty dicts are the most that a program can leave behind.
    refused(folder, message, room=32 << 20)


class Claims:
    """Pickles as an array of a shape or a type of its own making."""

    def __init__(self, shape: Any, kind: str = "f4", data: Any = b"", state: Any = None) -> None:
        self.shape, self.kind, self.data, self.state = shape, kind, data, state

    def __reduce__(self) -> tuple:
        reconstruct, arguments, _ = np.zeros(1, "float32").__reduce__()
        return reconstruct, arguments, (1, self.shape, np.dtype(self.kind), False, self.data)


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        (Claims((2**31, 2**31)), "does not have that many bytes"),
        (Claims((2**62,)), "no usable shape"),
        (Claims((-1, 4)), "no usable shape"),
        (Claims((True,), data=b"abcd"), "no usable shape"),
        (Claims((1,) * 9, data=b"abcd"), "no usable shape"),
        (Claims("ab", data=b"abcd"), "no usable shape"),
        (Claims((1,), data=[1.0]), "does not have that many bytes"),
        (Claims((0, 2**39)), r"has shape \[0, 549755813888\], expected"),
        (Claims((24,), "O", [None] * 24), r"norm1.bias is \|O8, expected F16"),
        (Claims((24,), "i8", bytes(192)), "norm1.bias is i8, expected F16"),
        (Claims((24,), ">f4", bytes(96)), "norm1.bias is >f4, expected F16"),
        (Claims((24,), "V4", bytes(96)), r"norm1.bias is \|V4, expected F16"),
        (Claims((25,), data=bytes(100)), r"norm1.bias has shape \[25\], expected \[24\]"),
        (np.float32(1), "not a readable"),
        ("text", "expected arrays"),
    ],
)
def test_arrays_that_are_not_what_they_claim_are_refused(claim: Any, message: str, folder: Path):
    content = {**STATE, "encoder.layers.0.norm1.bias": claim}
    (folder / paddlenlp.WEIGHTS).write_bytes(pickle.dumps(content, protocol=4))
    refused(folder, message)


# --- Zip archives -----------------------------------------------------------------------------


def repack(path: Path, change: Callable[[dict[str, bytes]], Any], **options: Any) -> None:
    """Read the members of an archive, let `change` edit them, write them back."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    "name",
    ["../evil", "/evil", "archive/../../evil", "archive//evil", "other/evil", "archive\\evil", "e"],
)
def test_members_outside_the_archives_folder_are_refused(name: str, folder: Path):
    path = folder / huggingface.TORCH_WEIGHTS
    foreign.write_torch(path, THEIRS)
    repack(path, lambda members: members.update({name: b"x"}))
    refused(folder, "one folder|a member is called")
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", path.name]


def test_compressed_members_are_refused(folder: Path):
    """A few bytes may unpack to gigabytes."""
    path = folder / huggingface.TORCH_WEIGHTS
    foreign.write_torch(path, THEIRS)
    for kind in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        repack(path, lambda members: members.update(bomb=b""), compression=kind)
        refused(folder, "is compressed|one folder")
    foreign.write_torch(path, THEIRS)
    repack(path, lambda _: None, compression=zipfile.ZIP_DEFLATED)
    refused(folder, "is compressed")


def test_members_that_claim_too_much_are_refused(folder: Path):
    path = folder / huggingface.TORCH_WEIGHTS
    foreign.write_torch(path, THEIRS)
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\x01\x02")  # the last entry of the directory
    for size in (10**6, 2**32 - 2):
        content[place + 20 : place + 28] = struct.pack("<II", size, size)
        path.write_bytes(content)
        refused(folder, "not a readable file of PyTorch")


def test_other_archives_are_refused(folder: Path):
    path = folder / huggingface.TORCH_WEIGHTS
    for change in (
        lambda members: members.pop("archive/data.pkl"),
        lambda members: members.pop("archive/data/3"),
        lambda members: members.update({"archive/byteorder": b"big"}),
        lambda members: members.clear(),
    ):
        foreign.write_torch(path, THEIRS)
        repack(path, change)
        refused(folder, "not a readable file of PyTorch")
    path.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")  # before PyTorch 1.6
    refused(folder, r"PyTorch 1\.6 or later; load an older one with torch\.load\(weights_only=True")
    path.write_bytes(b"")
    refused(folder, "PyTorch 1.6")


@pytest.mark.parametrize(
    ("shape", "start", "message"),
    [
        ((2**30,), 0, "reaches beyond its storage"),
        ((24,), 1, "reaches beyond its storage"),
        ((24,), -1, "reaches beyond its storage"),
        ((-3,), 0, "no usable shape"),
        ((4, 6), 0, r"shape \[4, 6\] has 1 strides"),
        ((23,), 0, r"has shape \[23\], expected \[24\]"),
    ],
)
def test_tensors_outside_their_storage_are_refused(
    shape: tuple, start: int, message: str, folder: Path
):
    key = "encoder.layer.0.attention.output.LayerNorm.bias"
    place = list(THEIRS).index(key)
    wrong = foreign.tensor(str(place), THEIRS[key], shape, start)
    program = foreign.torch_pickle(THEIRS)
    right = foreign.tensor(str(place), THEIRS[key])
    assert program.count(right) == 1
    path = folder / huggingface.TORCH_WEIGHTS
    foreign.write_torch(path, THEIRS, program.replace(right, wrong))
    refused(folder, message)


# --- safetensors ------------------------------------------------------------------------------


def safetensors(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content) if length is None else length) + content + body


def entry(shape: list, places: list, kind: str = "F32") -> dict:
    return {"encoder.layer.0.x": {"dtype": kind, "shape": shape, "data_offsets": places}}


HEADERS = {
    "absurd length": safetensors({}, length=2**63),
    "length beyond the file": safetensors({}, length=10**6),
    "no JSON": safetensors(b"{" * 100),
    "deep JSON": safetensors(b'{"a":' * 100_000),
    "no UTF-8": safetensors(b'{"\xff": 1}'),
    "a list": safetensors([1]),
    "no object": safetensors({"x": 1}),
    "beyond the body": safetensors(entry([4], [0, 16]), bytes(8)),
    "overlap": safetensors(
        {**entry([2], [0, 8]), "y": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}},
        bytes(12),
    ),
    "gap": safetensors(entry([2], [4, 12]), bytes(12)),
    "backwards": safetensors(entry([2], [8, 0]), bytes(8)),
    "shape and bytes": safetensors(entry([3], [0, 8]), bytes(8)),
    "huge shape": safetensors(entry([2**40, 2**40], [0, 8]), bytes(8)),
    "negative shape": safetensors(entry([-2], [0, 8]), bytes(8)),
    "unknown type": safetensors(entry([2], [0, 8], "O"), bytes(8)),
    "nothing of zero size": safetensors(entry([0, 2**62], [0, 0])),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_broken_safetensors_are_refused(kind: str, folder: Path):
    (folder / huggingface.WEIGHTS).write_bytes(HEADERS[kind])
    refused(folder)


# --- Configurations ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"\xff",
        b"[" * 100_000,
        b'{"num_hidden_layers": 1000000000}',
        b'{"hidden_size": 1000000000000, "num_attention_heads": 4}',
        b'{"init_args": 3}',
        b'{"num_hidden_layers": ' + b"9" * 10_000 + b"}",
    ],
)
def test_hostile_configurations_are_refused(content: bytes, folder: Path):
    WRITERS[huggingface.WEIGHTS](folder / huggingface.WEIGHTS)
    (folder / "config.json").write_bytes(content)
    refused(folder)


# --- Random damage ------------------------------------------------------------------------------


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "set", "cut", "insert", "remove", "move"]),
        # Most bytes are numbers of arrays; the ends, where the descriptions are, are hit as often.
        st.integers(0, 1 << 15) | st.integers(0, 4096) | st.integers(-4096, -1),
        st.binary(min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=3,
)


def damaged(content: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    """Flip a bit, overwrite, cut off, insert, remove or move bytes somewhere, edit by edit."""
    for kind, place, new in edits:
        place %= len(content) + 1
        before, piece = content[:place], content[place : place + len(new)]
        after = content[place + len(new) :]
        content = {
            "flip": before + bytes(b ^ 1 << new[0] % 8 for b in piece[:1]) + piece[1:] + after,
            "set": before + new + after,
            "cut": before,
            "insert": before + new + piece + after,
            "remove": before + after,
            "move": before + after[:100] + piece + after[100:],
        }[kind]
    return content


@pytest.mark.parametrize("name", WRITERS)
def test_damaged_files_load_or_are_refused(name: str, tmp_path_factory: pytest.TempPathFactory):
    """Only a file with checksums, PyTorch's zip, can promise that what loads is what was saved."""
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "config.json").write_text(json.dumps(MODEL.config.to_dict()))
    WRITERS[name](folder / name)
    whole = (folder / name).read_bytes()
    outcomes = {"loaded": 0, "refused": 0}

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(EDITS)
    def check(edits: list[tuple[str, int, bytes]]) -> None:
        (folder / name).write_bytes(damaged(whole, edits))
        try:
            model = load(folder)
        except ValueError:
            outcomes["refused"] += 1
            return
        outcomes["loaded"] += 1
        if name == huggingface.TORCH_WEIGHTS:
            assert is_same(model)

    check()
    assert outcomes["refused"] > 100
    assert outcomes["loaded"] > 3, outcomes


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=60))
def test_random_programs_are_refused_or_plain_data(program: bytes):
    for allowed in (pickles.PADDLE_NAMES, pickles.TORCH_NAMES):
        try:
            pickles.Machine(allowed).run(b"\x80\x04" + program + b".")
        except ValueError:
            pass


def test_a_flipped_bit_in_a_checksummed_array_is_seen(folder: Path):
    path = folder / huggingface.TORCH_WEIGHTS
    foreign.write_torch(path, THEIRS)
    content = bytearray(path.read_bytes())
    table = THEIRS["embeddings.word_embeddings.weight"].tobytes()
    content[bytes(content).index(table) + 100] ^= 1
    path.write_bytes(content)
    refused(folder, r"data/0 is damaged: Bad CRC-32")


def test_reading_describes_before_it_reads(folder: Path):
    """Describing a file of one large array allocates none of it."""
    size = 4 << 20
    path = folder / huggingface.WEIGHTS
    save_file({"encoder.layer.0.x": np.zeros(size, "float32")}, path)
    tracemalloc.start()
    arrays = reading.open_checkpoint(folder).arrays
    assert tracemalloc.get_traced_memory()[1] < size
    tracemalloc.stop()
    assert arrays["encoder.layers.0.x"].values().nbytes == load_file(path).popitem()[1].nbytes
