"""Reading checkpoints by the safetensors format's own arithmetic: right ones exactly, damaged ones never."""

import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmake.errors import CheckpointError
from onnxmake.model.safetensors import BITS, MAX_HEADER, Tensor, read_checkpoint, read_header

untimed = settings(deadline=None, database=None)


def pack(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: object, shape: object, begin: object, end: object) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def encode(tensors: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = entry(dtype, shape, len(data), len(data) + len(content))
        data += content
    return pack(header, data)


def content(tensor: Tensor) -> bytes:
    return tensor.path.read_bytes()[tensor.offset : tensor.offset + tensor.size]


TWO = {"first": ("F32", [2, 3], bytes(range(24))), "second": ("BF16", [5], bytes(range(100, 110)))}


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(encode(TWO))
    return path


@pytest.fixture
def shards(tmp_path):
    """A folder with the two tensors in two shards and an index."""
    for name, tensor in TWO.items():
        (tmp_path / f"{name}.safetensors").write_bytes(encode({name: tensor}))
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {name: f"{name}.safetensors" for name in TWO}})
    )
    return tmp_path


def refusal(path: Path) -> str:
    """What is said of a file that must not be read."""
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert path.name in str(caught.value)
    return str(caught.value)


def test_tensors_are_found_where_they_are(model):
    tensors = read_header(model)
    assert {name: (t.dtype, list(t.shape), content(t)) for name, t in tensors.items()} == TWO
    assert read_checkpoint(model.parent) == tensors


def test_a_file_of_the_safetensors_library_is_read(tmp_path):
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array(7, np.int64),
        "none": np.zeros((0, 4), np.float16),
    }
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors", {"format": "pt"})
    tensors = read_checkpoint(tmp_path)
    assert {name: (t.shape, content(t)) for name, t in tensors.items()} == {
        name: (a.shape, a.tobytes()) for name, a in arrays.items()
    }


@pytest.mark.parametrize("kept", [0, 7, 8, 60])
def test_a_file_cut_off_in_its_header_is_refused(model, kept):
    model.write_bytes(model.read_bytes()[:kept])
    message = refusal(model)
    assert f"has {kept} bytes" in message and "cut off" in message


def test_a_file_cut_off_in_its_data_names_the_tensor(model):
    model.write_bytes(model.read_bytes()[:-1])
    message = refusal(model)
    assert "Tensor second" in message and "cut off" in message


@pytest.mark.parametrize("length", [len(encode(TWO)) - 7, 2**62])
def test_a_header_longer_than_the_file_is_refused(model, length):
    model.write_bytes(length.to_bytes(8, "little") + model.read_bytes()[8:])
    assert f"header takes {length:,}" in refusal(model)


def test_a_header_beyond_any_sensible_length_is_not_read(model):
    with open(model, "wb") as sparse:
        sparse.write((MAX_HEADER + 1).to_bytes(8, "little"))
        sparse.truncate(MAX_HEADER + 100)
    assert f"header takes {MAX_HEADER + 1:,}" in refusal(model)


@pytest.mark.parametrize(
    "header",
    [
        b"<html>404</html>",
        b"\xff\xfe{}",
        b"[]",
        b"null",
        b'"text"',
        b'{"w": 1}',
        b'{"w": {"dtype": "F32"}}',
        b"[" * 100_000,
    ],
)
def test_a_header_that_is_no_table_of_tensors_is_refused(model, header):
    model.write_bytes(pack(header, bytes(16)))
    assert "no safetensors header" in refusal(model)


@pytest.mark.parametrize(
    "wrong",
    [
        entry(["F32"], [4], 0, 16),
        entry("F32", [4.0], 0, 16),
        entry("F32", [-2, -2], 0, 16),
        entry("F32", ["4"], 0, 16),
        entry("F32", 4, 0, 16),
        entry("F32", [4], 0.0, 16),
        entry("F32", [4], -16, 0),
        entry("F32", [4], "0", "16"),
        entry("F32", [4], None, 16),
    ],
)
def test_an_entry_of_the_wrong_types_is_refused(model, wrong):
    model.write_bytes(pack({"weight": wrong}, bytes(16)))
    assert "no safetensors header" in refusal(model)


@pytest.mark.parametrize(
    "shape, begin, end", [([5], 0, 16), ([3], 0, 16), ([4], 16, 0), ([4], 8, 24), ([], 0, 16), ([0], 0, 16)]
)
def test_offsets_that_contradict_the_shape_or_the_file_are_refused(model, shape, begin, end):
    model.write_bytes(pack({"weight": entry("F32", shape, begin, end)}, bytes(16)))
    message = refusal(model)
    assert "Tensor weight" in message and str(shape) in message


def test_an_unknown_type_is_named(model):
    model.write_bytes(pack({"weight": entry("F2_E1M0", [4], 0, 1)}, bytes(1)))
    message = refusal(model)
    assert "weight" in message and "F2_E1M0" in message


def test_shards_are_read_as_one_checkpoint(shards):
    tensors = read_checkpoint(shards)
    assert {name: (t.dtype, list(t.shape), content(t)) for name, t in tensors.items()} == TWO
    assert {name: t.path for name, t in tensors.items()} == {name: shards / f"{name}.safetensors" for name in TWO}


def test_a_single_file_goes_before_shards(shards):
    (shards / "model.safetensors").write_bytes(encode({"alone": ("U8", [1], b"!")}))
    assert set(read_checkpoint(shards)) == {"alone"}


def test_a_missing_shard_is_named(shards):
    (shards / "second.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"Shard second\.safetensors is missing"):
        read_checkpoint(shards)


def test_a_damaged_shard_is_named(shards):
    (shards / "second.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"second\.safetensors has 0 bytes"):
        read_checkpoint(shards)


def test_a_tensor_that_no_shard_holds_is_named(shards):
    (shards / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"first": "first.safetensors", "lost": "second.safetensors"}})
    )
    with pytest.raises(CheckpointError, match=r"Tensor lost is in no shard.*second\.safetensors"):
        read_checkpoint(shards)


@pytest.mark.parametrize(
    "index", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"first": 1}}', '{"weight_map": null}']
)
def test_an_index_that_is_none_is_refused(shards, index):
    (shards / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json is no shard index"):
        read_checkpoint(shards)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt", "last.ckpt"])
def test_a_pickled_checkpoint_is_refused_with_what_to_do(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x02")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(tmp_path)
    assert name in caught.value.fact and "pickle" in caught.value.cause and "save_pretrained" in caught.value.action


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="No model.safetensors"):
        read_checkpoint(tmp_path)


@st.composite
def checkpoints(draw) -> dict[str, tuple[str, list[int], bytes]]:
    tensors = {}
    for name in draw(st.lists(st.text(max_size=8).filter(lambda n: n != "__metadata__"), unique=True, max_size=5)):
        dtype, shape = draw(st.sampled_from(sorted(BITS))), draw(st.lists(st.integers(0, 4), max_size=3))
        size = math.prod(shape) * BITS[dtype] // 8
        tensors[name] = (dtype, shape, draw(st.binary(min_size=size, max_size=size)))
    return tensors


def read(data: bytes) -> dict[str, tuple[str, list[int], bytes]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(data)
        return {name: (t.dtype, list(t.shape), content(t)) for name, t in read_header(path).items()}


@untimed
@given(checkpoints())
def test_what_was_written_is_read(tensors):
    assert read(encode(tensors)) == tensors


@untimed
@given(checkpoints(), st.data())
def test_a_file_cut_off_anywhere_is_refused(tensors, data):
    whole = encode(tensors)
    with pytest.raises(CheckpointError):
        read(whole[: data.draw(st.integers(0, len(whole) - 1))])


@untimed
@given(checkpoints(), st.data())
def test_a_damaged_byte_is_refused_or_leaves_tensors_of_the_size_they_claim(tensors, data):
    damaged = bytearray(encode(tensors))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read(bytes(damaged))
    except CheckpointError:
        return
    assert all(len(held) * 8 == math.prod(shape) * BITS[dtype] for dtype, shape, held in found.values())
