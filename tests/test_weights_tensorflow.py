"""The reader of TensorFlow's checkpoints, against TensorFlow's own file and a writer made here.

The writer below follows the format's description, not the reader: blocks of a LevelDB table,
protocol buffer messages, masked CRC32C.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import make_tensorflow_checkpoint
from support import randomize, small_config, token_ids

from convbert.config import ConvBertConfig
from convbert.heads import ConvBertForPreTraining
from convbert.weights import bundle, loading, tensorflow

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "tensorflow"
SIZES = ("convbert-small", "convbert-medium-small", "convbert-base")
DTYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19}


# A writer


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32).to_bytes(4, "little")


def message(array: np.ndarray, shard: int, offset: int, **other: Any) -> bytes:
    """Describe a variable; zeros are left out, as protocol buffers do."""
    dims = b"".join(field(2, field(1, size)) for size in array.shape)
    values = {1: DTYPES[str(array.dtype)], 3: shard, 4: offset, 5: array.nbytes}
    values |= other.get("fields", {})
    out = b"".join(field(number, value) for number, value in values.items() if value)
    checksum = other.get("checksum") or masked(array.tobytes())
    return out + field(2, dims) + varint(6 << 3 | 5) + checksum


def block(entries: list[tuple[bytes, bytes]], interval: int = 3) -> bytes:
    """Write entries; each key but every `interval`-th shares its start with the one before."""
    out, restarts, last = b"", [], b""
    for n, (key, value) in enumerate(entries):
        shared = 0
        if n % interval:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        else:
            restarts.append(len(out))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value))
        out, last = out + key[shared:] + value, key
    restarts = restarts or [0]
    return out + b"".join(n.to_bytes(4, "little") for n in [*restarts, len(restarts)])


def table(blocks: list[bytes], kind: bytes = b"\0") -> bytes:
    """Assemble data blocks to an index file."""
    out, places = b"", []
    entries = [(b"~%03d" % n, b"") for n in range(len(blocks))]
    for n, content in enumerate([*blocks, block([])]):  # the last one is the metaindex
        places.append(varint(len(out)) + varint(len(content)))
        out += content + kind + masked(content + kind)
        if n < len(blocks):
            entries[n] = (entries[n][0], places[n])
    index = block(entries, interval=1)
    places.append(varint(len(out)) + varint(len(index)))
    out += index + kind + masked(index + kind)
    magic = 0xDB4775248B80FB57.to_bytes(8, "little")
    return out + (places[-2] + places[-1]).ljust(40, b"\0") + magic


def header(shards: int, endian: int = 0) -> tuple[bytes, bytes]:
    return b"", field(1, shards) + field(2, endian) + field(3, field(1, 1))


def write(prefix: Path, arrays: dict[str, np.ndarray], shards: int = 1, per_block: int = 7) -> Path:
    """Write a checkpoint, its variables dealt out to the data files in turn."""
    entries, offsets = [header(shards)], [0] * shards
    files = [open(f"{prefix}.data-{n:05d}-of-{shards:05d}", "wb") for n in range(shards)]
    for n, name in enumerate(sorted(arrays, key=str.encode)):
        array = np.array(arrays[name], order="C")  # keeps a scalar's shape
        entries.append((name.encode(), message(array, n % shards, offsets[n % shards])))
        offsets[n % shards] += files[n % shards].write(array.tobytes())
    for file in files:
        file.close()
    parts = [entries[n : n + per_block] for n in range(0, len(entries), per_block)]
    Path(f"{prefix}.index").write_bytes(table([block(part) for part in parts]))
    return prefix


# Names and axes, as the description lists them

LAYER = {
    "self_attn.q_proj": "attention/self/query",
    "self_attn.k_proj": "attention/self/key",
    "self_attn.v_proj": "attention/self/value",
    "self_attn.out_proj": "attention/output/dense",
    "self_attn.conv_kernel_layer": "attention/self/conv_attn_kernel",
    "self_attn.conv_out_layer": "attention/self/conv_attn_point",
    "self_attn.key_conv_attn_layer": "attention/self/conv_attn_key",
    "linear1": "intermediate/{}dense",
    "linear2": "output/{}dense",
    "norm1": "attention/output/LayerNorm",
    "norm2": "output/LayerNorm",
}
HEADS = {
    "generator.generator_lm_head_bias": "generator_predictions/output_bias",
    "generator.generator_predictions.dense": "generator_predictions/dense",
    "generator.generator_predictions.layer_norm": "generator_predictions/LayerNorm",
    "discriminator.discriminator_predictions.dense": "discriminator_predictions/dense",
    "discriminator.discriminator_predictions.dense_prediction": "discriminator_predictions/dense_1",
}


def tensorflow_name(name: str, is_grouped: bool) -> str:
    """Write the authors' name of one of our parameters."""
    if name in HEADS:
        return HEADS[name]
    stem, leaf = name.rsplit(".", 1)
    leaf = {"weight": "gamma", "bias": "beta"}[leaf] if "norm" in stem else leaf
    if stem.endswith(("depthwise", "pointwise")):
        stem, leaf = stem.rsplit(".", 1)[0], stem.rsplit(".", 1)[1] + "_kernel"
    leaf = "kernel" if leaf == "weight" else leaf
    if stem in HEADS:
        return f"{HEADS[stem]}/{leaf}"
    network, stem = stem.split(".convbert.")
    root = {"discriminator": "electra", "generator": "generator"}[network]
    if layer := re.fullmatch(r"encoder\.layers\.(\d+)\.(.*)", stem):
        part = LAYER[layer[2]].format("g_" if is_grouped else "")
        return f"{root}/encoder/layer_{layer[1]}/{part}/{leaf}"
    if "_embeddings" in stem:
        return f"{root}/{stem.replace('.', '/')}"
    return f"{root}/{stem.replace('.', '/').replace('layer_norm', 'LayerNorm')}/{leaf}"


def to_tensorflow(model: ConvBertForPreTraining) -> dict[str, np.ndarray]:
    """Return a model's parameters under the authors' names, with their axes."""
    arrays = {}
    for name, value in loading.unique_state(model).items():
        array = value.numpy()
        if name.endswith("depthwise.weight"):  # ours [d, 1, k], theirs [k, d, 1]
            array = np.moveaxis(array, 2, 0)
        elif name.endswith("pointwise.weight"):  # ours [A, d, 1], theirs [1, d, A]
            array = np.swapaxes(array, 0, 2)
        arrays[tensorflow_name(name, model.config.num_groups > 1)] = array
    return arrays


def narrow(size: str) -> ConvBertConfig:
    """Return a published size with all its layers, heads and groups, a quarter as wide."""
    full = ConvBertConfig.named(size)
    wide = ("embedding_size", "hidden_size", "intermediate_size")
    widths = {key: getattr(full, key) // 4 for key in wide}
    return full.replaced(vocab_size=40, max_position_embeddings=16, **widths)


def pretraining(config: ConvBertConfig) -> ConvBertForPreTraining:
    return randomize(ConvBertForPreTraining(config))


# Against TensorFlow itself


def test_a_file_that_tensorflow_wrote(capsys):
    arrays = tensorflow.read(GOLDEN)
    assert "110 weights, 221 slots of Adam and counters" in capsys.readouterr().out
    names = sorted(make_tensorflow_checkpoint.pretraining())
    for n, name in enumerate(names):
        array = arrays.pop(str(tensorflow.from_tensorflow(name)))
        if name.endswith("depthwise_kernel"):
            array = array.transpose(2, 0, 1)
        elif name.endswith("pointwise_kernel"):
            array = array.transpose(2, 1, 0)
        assert array.shape == make_tensorflow_checkpoint.pretraining()[name]
        assert np.array_equal(array.ravel(), n + np.arange(array.size) / 8), name
    assert arrays == {}


def test_the_writer_here_writes_what_tensorflow_does(tmp_path):
    """So that what is tested with it below says something about real files."""
    content = bundle.read(GOLDEN / "model.ckpt-7")
    prefix = write(tmp_path / "model.ckpt-7", content)
    for suffix in (".index", ".data-00000-of-00001"):
        ours, theirs = (folder / f"{prefix.name}{suffix}" for folder in (tmp_path, GOLDEN))
        if suffix == ".index":  # TensorFlow's blocks are longer; the variables are the same
            assert bundle.read_index(ours) == bundle.read_index(theirs)
        else:
            assert ours.read_bytes() == theirs.read_bytes()


def test_the_checksum_is_crc32c():
    assert crc32c(b"123456789") == 0xE3069283  # the check value of its definition


# Names, layouts, configuration


@pytest.mark.parametrize(("size", "count"), zip(SIZES, (570, 570, 568), strict=True))
def test_every_parameter_has_one_name_there(size, count):
    config = narrow(size)
    ours = list(loading.unique_state(ConvBertForPreTraining(config)))
    theirs = [tensorflow_name(name, config.num_groups > 1) for name in ours]
    assert len(ours) == len(set(theirs)) == count
    assert [tensorflow.from_tensorflow(name) for name in theirs] == ours


@pytest.mark.parametrize("size", SIZES)
def test_weights_come_back_exactly(size, tmp_path):
    model = pretraining(narrow(size))
    arrays = tensorflow.read(write(tmp_path / "model.ckpt", to_tensorflow(model)))
    state = loading.unique_state(model)
    assert arrays.keys() == state.keys()
    for name, array in arrays.items():
        assert np.array_equal(array, state[name].numpy()), name
        assert array.dtype == "float32" and not array.flags.writeable
    assert tensorflow.derive_config(arrays) == narrow(size)


def test_the_filled_model_computes_the_same(tmp_path):
    config = small_config(embedding_size=10, num_groups=2, generator_fraction=0.5)
    model = pretraining(config)
    again = ConvBertForPreTraining.from_pretrained(
        write(tmp_path / "model.ckpt", to_tensorflow(model))
    )
    again.eval()
    ids = paddle.to_tensor(token_ids(2, 9))
    for part in ("generator", "discriminator"):
        ours, theirs = (getattr(each, part)(ids).numpy() for each in (model, again))
        assert np.abs(theirs).max() > 0.1
        assert np.abs(ours - theirs).max() <= 1e-6, part


def test_an_encoder_alone_has_no_prefix(tmp_path):
    arrays = to_tensorflow(pretraining(small_config()))
    encoder = {name: array for name, array in arrays.items() if name.startswith("electra/")}
    read = tensorflow.read(write(tmp_path / "encoder", encoder))
    assert "embeddings.word_embeddings.weight" in read and len(read) == len(encoder)
    derived = tensorflow.derive_config(read)
    assert (derived.hidden_size, derived.heads, derived.conv_kernel_size) == (24, 2, 9)


def test_a_generator_with_embeddings_of_its_own(tmp_path):
    arrays = to_tensorflow(pretraining(small_config()))
    for name in [name for name in arrays if name.startswith("electra/embeddings/")]:
        arrays[name.replace("electra", "generator")] = arrays[name] + 1
    read = tensorflow.read(write(tmp_path / "untied", arrays))
    mine, others = (
        read[f"{part}.convbert.embeddings.word_embeddings.weight"]
        for part in ("generator", "discriminator")
    )
    assert np.array_equal(mine, others + 1)


def test_heads_of_fine_tuning_are_named_and_left_out(tmp_path, capsys):
    arrays = to_tensorflow(pretraining(small_config()))
    arrays = {name: array for name, array in arrays.items() if name.startswith("electra/")}
    arrays["task_specific/squad/dense/kernel"] = np.ones([24, 1], "float32")
    read = tensorflow.read(write(tmp_path / "squad", arrays))
    assert len(read) == len(arrays) - 1
    assert "no counterpart here: task_specific/squad/dense/kernel" in capsys.readouterr().out


def test_other_variables_are_refused_by_name(tmp_path):
    arrays = to_tensorflow(pretraining(small_config()))
    arrays["electra/pooler/dense/kernel"] = np.ones([2, 2], "float32")
    with pytest.raises(ValueError, match=r"not variables of a ConvBERT: electra/pooler/dense/k"):
        tensorflow.read(write(tmp_path / "pooled", arrays))
    with pytest.raises(ValueError, match="not variables of a ConvBERT: none"):
        tensorflow.read(write(tmp_path / "counter", {"global_step": np.int64(3)}))
    arrays = {"electra/encoder/layer_0/intermediate/dense/kernel": np.ones([2, 2], "float32")}
    arrays["electra/encoder/layer_0/intermediate/g_dense/kernel"] = np.ones([1, 2, 2], "float32")
    with pytest.raises(ValueError, match="same place"):
        tensorflow.read(write(tmp_path / "twice", arrays))


def test_no_configuration_is_guessed():
    state = loading.unique_state(pretraining(small_config()))
    arrays = {name: value.numpy() for name, value in state.items()}
    layer = "discriminator.convbert.encoder.layers.0."
    with pytest.raises(ValueError, match=r"no configuration follows .*linear1"):
        tensorflow.derive_config({n: x for n, x in arrays.items() if n != f"{layer}linear1.weight"})
    query = f"{layer}self_attn.q_proj.weight"
    with pytest.raises(ValueError, match=r"d = 24, A = 6, .* give a config\.json"):
        tensorflow.derive_config({**arrays, query: arrays[query][:, :6]})
    inner = "generator.convbert.encoder.layers.0.linear1.weight"
    with pytest.raises(ValueError, match="is not the generator that belongs to"):
        tensorflow.derive_config({**arrays, inner: arrays[inner][:, :8]})


# Finding a checkpoint


def test_where_a_checkpoint_is_looked_for(tmp_path):
    one = write(tmp_path / "model.ckpt-1", {"global_step": np.int64(1)})
    for path in (one, Path(f"{one}.index"), tmp_path):
        assert tensorflow.is_checkpoint(path) and tensorflow.find(path) == one
    assert not tensorflow.is_checkpoint(tmp_path / "model.ckpt")
    with pytest.raises(FileNotFoundError, match=r"model\.ckpt: no TensorFlow checkpoint"):
        tensorflow.read(tmp_path / "model.ckpt")
    two = write(tmp_path / "model.ckpt-2", {"global_step": np.int64(2)})
    with pytest.raises(ValueError, match=r"several checkpoints, name one: .*ckpt-1, .*ckpt-2"):
        tensorflow.find(tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/model.ckpt-2"\n')
    assert tensorflow.find(tmp_path) == two
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "../../secret"\n')
    with pytest.raises(ValueError, match="several checkpoints"):
        tensorflow.find(tmp_path)


# The format


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text("ab/_é", min_size=1, max_size=9),
        st.tuples(st.sampled_from(list(DTYPES)), st.lists(st.integers(0, 4), max_size=3)),
        max_size=12,
    ),
    st.integers(1, 3),
    st.integers(1, 5),
)
def test_every_type_and_shape_comes_back(tmp_path_factory, described, shards, per_block):
    rng = np.random.default_rng(0)
    arrays = {
        name: np.asarray(rng.normal(size=shape) * 100).astype(dtype)
        for name, (dtype, shape) in described.items()
    }
    prefix = write(tmp_path_factory.mktemp("any") / "x", arrays, shards, per_block)
    read = bundle.read(prefix)
    assert read.keys() == arrays.keys()
    for name, array in read.items():
        assert array.dtype == arrays[name].dtype and array.shape == arrays[name].shape
        assert array.tobytes() == arrays[name].tobytes()


def test_values_stay_in_the_file_until_they_are_used(tmp_path):
    array = bundle.read(write(tmp_path / "x", {"a": np.ones(5, "float32")}))["a"]
    while array.base is not None and not isinstance(array, np.memmap):
        array = array.base
    assert isinstance(array, np.memmap)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
    """Return a checkpoint's prefix and the content of its three files, by suffix."""
    arrays = {f"{name}/{n}": np.arange(n + 1.0) for name in "ab" for n in range(6)}
    prefix = write(tmp_path_factory.mktemp("files") / "x", arrays, shards=2, per_block=4)
    paths = sorted(prefix.parent.glob("x.*"))
    return prefix, {path.name.removeprefix("x"): path.read_bytes() for path in paths}


def read_changed(files: tuple[Path, dict[str, bytes]], suffix: str, content: bytes) -> Any:
    """Read the checkpoint with another content of one file, and put the file back."""
    prefix, contents = files
    path = Path(f"{prefix}{suffix}")
    path.write_bytes(content)
    try:
        return bundle.read(prefix)
    finally:
        path.write_bytes(contents[suffix])


def test_a_flipped_bit_is_noticed_in_every_byte(files):
    for suffix, content in files[1].items():
        for n in range(len(content)):
            changed = bytearray(content)
            changed[n] ^= 1 << n % 8
            with pytest.raises(ValueError, match=rf"x\.({suffix[1:]}|index)"):
                read_changed(files, suffix, bytes(changed))
                pytest.fail(f"byte {n} of x{suffix}")


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_every_shortened_file_is_noticed(files, data):
    suffix = data.draw(st.sampled_from(sorted(files[1])))
    length = data.draw(st.integers(0, len(files[1][suffix]) - 1))
    with pytest.raises(ValueError, match=rf"x\{suffix}.* (cut short|not a readable)"):
        read_changed(files, suffix, files[1][suffix][:length])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 2))
def test_nonsense_with_good_checksums_ends_in_one_line(files, content, where):
    """A forger computes checksums, too: nonsense as a file, as a block, and as a message."""
    forged = content
    if where == 1:
        forged = table([content + (0).to_bytes(4, "little")])
    elif where == 2:
        forged = table([block([header(2), (b"a", content)])])
    with pytest.raises(ValueError, match=r"x\.") as raised:
        read_changed(files, ".index", forged)
    assert "\n" not in str(raised.value)


def forged(value: bytes, *, kind: bytes = b"\0", first: tuple[bytes, bytes] | None = None) -> bytes:
    return table([block([first or header(2), (b"a", value)])], kind)


ONE = np.ones(1, "float32")
VAST = field(2, field(2, field(1, 1 << 62)))  # one more dimension
FORGERIES = {
    "is compressed": forged(message(ONE, 0, 0), kind=b"\1"),
    "are big-endian": forged(message(ONE, 0, 0), first=header(2, endian=1)),
    "header is missing": forged(message(ONE, 0, 0), first=(b"", field(1, 10**6))),
    "into slices": forged(message(ONE, 0, 0) + field(7, b"")),
    "has type 7": forged(message(ONE, 0, 0, fields={1: 7})),
    r"of shape \[1\] cannot have 8 bytes": forged(message(ONE, 0, 0, fields={5: 8})),
    r"of shape \[\d+, 1\] cannot have 4": forged(VAST + message(ONE, 0, 0)),
    "lies in data file 5 of 2": forged(message(ONE, 5, 0)),
    "is cut short: a": forged(message(ONE, 0, 1 << 40)),
    "damaged: a does not fit": forged(message(ONE, 0, 0, checksum=b"1234")),
    "field 4 is not a number": forged(message(ONE, 0, 0) + field(4, b"x")),
    "message belongs": forged(message(ONE, 0, 0) + field(2, 3)),
    "longer than it can be": forged(b"\xff" * 12),
    "does not come after": table([block([header(2), *[(b"a", message(ONE, 0, 0))] * 2])]),
    "it is empty": table([]),
    "end as an index": b"<html>not found</html>" * 9,
    "its end holds more": table([]).replace(b"\0" * 20, b"\0" * 19 + b"\1"),
}


@pytest.mark.parametrize("reason", FORGERIES)
def test_forgeries_are_refused_with_their_reason(files, reason):
    with pytest.raises(ValueError, match=reason):
        read_changed(files, ".index", FORGERIES[reason])


def test_an_absurdly_large_index_is_not_read(files):
    prefix, contents = files
    with open(f"{prefix}.index", "r+b") as file:
        file.truncate(1 << 40)  # sparse
    try:
        with pytest.raises(ValueError, match="larger than 64 MB"):
            bundle.read(prefix)
    finally:
        Path(f"{prefix}.index").unlink()
        Path(f"{prefix}.index").write_bytes(contents[".index"])


def test_a_missing_data_file_is_named(tmp_path):
    for path in GOLDEN.iterdir():
        if ".data" not in path.name:
            shutil.copy(path, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"7\.data-00000-of-00001 not found: .*index needs"):
        tensorflow.read(tmp_path)
