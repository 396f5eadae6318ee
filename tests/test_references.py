"""References bound to a checkpoint's bytes, and graphs that fold and lower around them, against numpy."""

import contextlib
import functools
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from graphs import bind, load_pass, model, node, operations, run, value, write_safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmake.errors import UnsupportedError
from onnxmake.model import reader
from onnxmake.model.capture import fold

STORED = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
rng = np.random.default_rng(0)


def checkpoint(folder, dtype: str = "float32", **shapes):
    """A file of random tensors, and what it holds as float32."""
    arrays = {name: rng.standard_normal(shape).astype(STORED[dtype]) for name, shape in shapes.items()}
    raw = {n: a.view(np.uint16) if dtype == "bfloat16" else a for n, a in arrays.items()}
    return write_safetensors(folder / "m.safetensors", raw), {n: a.astype(np.float32) for n, a in arrays.items()}


def rows_of(array: np.ndarray, transposed: bool) -> np.ndarray:
    array = array.swapaxes(-1, -2) if transposed else array
    return np.ascontiguousarray(array).reshape(-1, array.shape[-1])


def read(source, folder, *references: tuple) -> list[np.ndarray]:
    """What Weight nodes of (shape, attributes) come to in the model that is made of them."""
    made = [node("Weight", [], shape, **attributes) for shape, attributes in references]
    inputs = [value(f"x{i}", shape) for i, (shape, _) in enumerate(references)]
    sums = [node("Add", [x, w.outputs[0]], w.outputs[0].shape, domain="") for x, w in zip(inputs, made)]
    file = bind(model(inputs, [s.outputs[0] for s in sums], *made, *sums), source, folder)
    return run(file, **{f"x{i}": np.zeros(shape, np.float32) for i, (shape, _) in enumerate(references)})


@contextlib.contextmanager
def blocks_of(size: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "BLOCK", size)
        yield


@pytest.mark.parametrize("block", [8 << 20, 48])
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize(("shape", "transposed"), [((7,), 0), ((6, 5), 0), ((6, 5), 1), ((3, 4, 5), 0), ((3, 4, 5), 1)])
def test_a_reference_is_read_as_it_stands_or_turned_with_its_offset(tmp_path, shape, transposed, stored, offset, block):
    source, arrays = checkpoint(tmp_path, stored, a=shape)
    expected = arrays["a"].swapaxes(-1, -2) if transposed else arrays["a"]
    attributes = {"parts": ["a"]} | ({"transposed": 1} if transposed else {}) | ({"offset": offset} if offset else {})
    with blocks_of(block):
        (out,) = read(source, tmp_path / "out", (expected.shape, attributes))
    np.testing.assert_array_equal(out, expected + np.float32(offset))


@st.composite
def ranges(draw):
    """Whether parts are turned, and for each of some parts its name and a range of its rows."""
    transposed = draw(st.booleans())
    limits = {"a": 15, "b": 7} if transposed else {"a": 12, "c": 6}
    names = draw(st.lists(st.sampled_from(sorted(limits)), min_size=1, max_size=4))
    bounds = [sorted(draw(st.lists(st.integers(0, limits[n]), min_size=2, max_size=2, unique=True))) for n in names]
    return transposed, names, bounds


@settings(max_examples=60, deadline=None)
@given(ranges(), st.integers(20, 200), st.sampled_from(sorted(STORED)))
def test_any_rows_of_any_parts_follow_each_other(chosen, block, stored):
    transposed, names, bounds = chosen
    with tempfile.TemporaryDirectory() as folder, blocks_of(block):
        source, arrays = checkpoint(Path(folder), stored, a=(3, 4, 5), b=(4, 7), c=(6, 5))
        expected = np.concatenate([rows_of(arrays[n], transposed)[start:end] for n, (start, end) in zip(names, bounds)])
        attributes = {"parts": names, "rows": [i for pair in bounds for i in pair]}
        attributes |= {"transposed": 1} if transposed else {}
        (out,) = read(source, Path(folder) / "out", (expected.shape, attributes))
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(
    "second",
    [
        ((2, 5), {"parts": ["a"], "rows": [4, 6]}),
        ((5, 6), {"parts": ["a"], "transposed": 1}),
        ((6, 5), {"parts": ["a"], "offset": 1.0}),
        ((8, 5), {"parts": ["a", "c"]}),
    ],
)
def test_one_tensor_may_be_read_in_two_ways_by_the_same_graph(tmp_path, second):
    source, arrays = checkpoint(tmp_path, a=(6, 5), c=(2, 5))
    whole, other = read(source, tmp_path / "out", ((6, 5), {"parts": ["a"]}), second)
    shape, attributes = second
    start, end = attributes.get("rows", (0, None))
    expected = np.concatenate([rows_of(arrays[n], "transposed" in attributes)[start:end] for n in attributes["parts"]])
    np.testing.assert_array_equal(whole, arrays["a"])
    np.testing.assert_array_equal(other, expected + np.float32(attributes.get("offset", 0)))


def test_a_row_longer_than_a_block_is_refused_and_named(tmp_path):
    source, _ = checkpoint(tmp_path, a=(2, 20))
    with blocks_of(79), pytest.raises(UnsupportedError, match="A row of tensor a takes 80 bytes"):
        read(source, tmp_path / "out", ((2, 20), {"parts": ["a"]}))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("stored", STORED)
def test_a_weight_stored_the_other_way_round_is_quantised_to_the_same_bytes(tmp_path, stored, bits, symmetric):
    raw = rng.standard_normal((50, 80)).astype(STORED[stored])
    rtn, out = load_pass("quantize_rtn"), []
    for name, array in (("plain", raw), ("turned", np.ascontiguousarray(raw.T))):
        (tmp_path / name).mkdir()
        array = array.view(np.uint16) if stored == "bfloat16" else array
        source = write_safetensors(tmp_path / name / "m.safetensors", {"w": array})
        w = node("Weight", [], (50, 80), parts=["w"], **({"transposed": 1} if name == "turned" else {}))
        x = value("x", ["batch", 1, 80])
        y = node("Linear", [x, w.outputs[0]], ["batch", 1, 50])
        built = model([x], [y.outputs[0]], w, y)
        assert rtn.rewrite(built, rtn.Options(bits=bits, symmetric=symmetric)) == 1
        with blocks_of(2048 if name == "turned" else 8 << 20):
            out.append(bind(built, source, tmp_path / name / "out").with_name("model.onnx.data").read_bytes())
    assert out[0] == out[1] and any(out[0])


@pytest.mark.parametrize(
    ("stored", "shape", "perm", "attributes", "left"),
    [
        ({"a": (6, 5)}, (6, 5), [1, 0], {}, 0),
        ({"a": (6, 5)}, (5, 6), [1, 0], {"transposed": 1}, 0),
        ({"a": (3, 6, 5)}, (3, 6, 5), [0, 2, 1], {}, 0),
        ({"a": (6, 5), "b": (6, 5)}, (2, 6, 5), [0, 2, 1], {}, 0),  # experts stored one by one
        ({"a": (6, 5)}, (6, 5), [0, 1], {}, 1),
        ({"a": (3, 6, 5)}, (3, 6, 5), [2, 1, 0], {}, 1),
        ({"a": (6, 5)}, (3, 5), [1, 0], {"rows": [1, 4]}, 1),
        ({"a": (6, 5), "b": (2, 5)}, (8, 5), [1, 0], {}, 1),  # one on top of the other
        ({n: (2, 5) for n in "abcd"}, (2, 4, 5), [0, 2, 1], {}, 1),  # gate and up of two experts
    ],
)
def test_a_turned_matrix_is_read_turned_and_means_the_same(tmp_path, stored, shape, perm, attributes, left):
    source, arrays = checkpoint(tmp_path, **stored)
    w = node("Weight", [], shape, parts=list(stored), **attributes)
    turned = node("Transpose", [w.outputs[0]], [shape[i] for i in perm], domain="", perm=perm)
    x = value("x", [shape[i] for i in perm])
    total = node("Add", [x, turned.outputs[0]], x.shape, domain="")
    built = model([x], [total.outputs[0]], w, turned, total)
    fold.transposed_weights(built.graph)
    rows = slice(*attributes["rows"]) if "rows" in attributes else slice(None)
    joined = np.concatenate([rows_of(a, "transposed" in attributes)[rows] for a in arrays.values()]).reshape(shape)
    file = bind(built, source, tmp_path / "out")
    np.testing.assert_array_equal(run(file, x=np.zeros(x.shape, np.float32))[0], joined.transpose(perm))
    assert operations(built).count("Transpose") == left


def test_the_transpose_of_an_activation_stays():
    x = value("x", (6, 5))
    turned = node("Transpose", [x], (5, 6), domain="", perm=[1, 0])
    built = model([x], [turned.outputs[0]], turned)
    fold.transposed_weights(built.graph)
    assert operations(built) == ["Transpose"]


END = np.iinfo(np.int64).max


@pytest.mark.parametrize(
    ("change", "folds"),
    [
        ({}, True),
        ({"rest": (4, 8, -1)}, True),
        ({"rest": (-4, END, 3)}, True),
        ({"layout": "once"}, True),
        ({"rest": (4, END, 3, 1), "layout": "neighbours", "interleaved": 1}, True),
        ({"rest": (5, END, 3)}, False),
        ({"rest": (4, -1, 3)}, False),
        ({"rest": (4, END, 3, 2)}, False),
        ({"other": True}, False),
        ({"axis": 1}, False),
        ({"swapped": True}, False),
    ],
)
def test_a_rotated_part_and_the_rest_are_one_rotation_only_where_they_are_one_tensor(tmp_path, change, folds):
    change = {"rest": (4, END, 3), "layout": "halves", "interleaved": 0, "axis": -1} | change
    x, y, cos, sin = (
        value(n, s) for n, s in zip("xycs", [(1, 2, 3, 8)] * 2 + [(1, 3, 2 if change["layout"] == "once" else 4)] * 2)
    )
    known: dict[str, ir.Value] = {}

    def part(source: ir.Value, bounds) -> ir.Node:
        for i in bounds:
            known.setdefault(f"i{i}", value(f"i{i}", [1], ir.DataType.INT64)).const_value = ir.tensor(np.array([i]))
        width = len(range(8)[bounds[0] : bounds[1] : (*bounds, 1)[3] if len(bounds) > 3 else 1])
        return node("Slice", [source, *(known[f"i{i}"] for i in bounds)], (1, 2, 3, width), domain="")

    first, rest = part(x, (0, 4, 3)), part(y if change.get("other") else x, change["rest"])
    kept = {name: change[name] for name in ("layout", "interleaved")}
    turn = node("RotaryEmbedding", [first.outputs[0], cos, sin], (1, 2, 3, 4), **kept)
    both = [turn.outputs[0], rest.outputs[0]][:: -1 if change.get("swapped") else 1]
    width = 4 + rest.outputs[0].shape[3]
    shape = (1, 2, 3, width) if change["axis"] == -1 else (1, 4, 3, 4)
    joined = node("Concat", both, shape, domain="", axis=change["axis"])
    outcomes = []
    built = model([x, y, cos, sin], [joined.outputs[0]], first, rest, turn, joined)
    for v in known.values():
        built.graph.register_initializer(v)
    joined.outputs[0].name = "z"
    data = {v.name: rng.standard_normal([*v.shape]).astype(np.float32) for v in built.graph.inputs}
    if change["layout"] != "once":
        for name in "cs":
            half = data[name][..., :2]
            data[name] = half.repeat(2, -1) if change["interleaved"] else np.concatenate([half, half], -1)
    for number, folded in enumerate((built.clone(), built)):
        if number:
            fold.partial_rotations(folded.graph)
            assert operations(folded) == (
                ["RotaryEmbedding"] if folds else ["Slice", "Slice", "RotaryEmbedding", "Concat"]
            )
        file = bind(folded, write_safetensors(tmp_path / "none", {}), tmp_path / str(number), "portable")
        outcomes.append(run(file, **data)[0])
    np.testing.assert_allclose(*outcomes, rtol=1e-6)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """Decay by channel or by head, with beta or without -> LinearAttention in standard operators, each made once."""
    return functools.cache(lambda *kind: linear_attention(tmp_path_factory.mktemp("scan"), *kind))


def linear_attention(folder: Path, by_channel: bool, delta: bool) -> Path:
    """One of 2 heads, 3 key and 4 value channels."""
    tokens = (1, "sequence", 2)
    shapes = dict(q=(*tokens, 3), k=(*tokens, 3), v=(*tokens, 4), decay=(*tokens, 3) if by_channel else tokens)
    inputs = [value(n, s) for n, s in (shapes | {"state": (1, 2, 3, 4)} | ({"beta": tokens} if delta else {})).items()]
    made = node("LinearAttention", inputs, (*tokens, 4), (1, 2, 3, 4), scale=0.5)
    made.outputs[0].name, made.outputs[1].name = "out", "last"
    return bind(model(inputs, made.outputs, made), write_safetensors(folder / "none", {}), folder, "portable")


def loop(q, k, v, decay, state, beta=None):
    """Token by token, as the table of semantic ops says it."""
    out, state = np.zeros_like(v), state[0].copy()
    for t in range(v.shape[1]):
        for h in range(2):
            state[h] *= np.exp(decay[0, t, h])[:, None] if decay.ndim == 4 else np.exp(decay[0, t, h])
            new = v[0, t, h] if beta is None else beta[0, t, h] * (v[0, t, h] - state[h].T @ k[0, t, h])
            state[h] += np.outer(k[0, t, h], new)
            out[0, t, h] = 0.5 * state[h].T @ q[0, t, h]
    return out, state[None]


@settings(max_examples=40, deadline=None)
@given(st.booleans(), st.booleans(), st.integers(1, 9), st.integers(0, 9), st.integers(0, 2**31))
def test_linear_attention_is_its_loop_in_one_call_or_two(scan, by_channel, delta, length, cut, seed):
    draw = np.random.default_rng(seed)
    full = {n: draw.standard_normal((1, length, 2, w)).astype(np.float32) for n, w in dict(q=3, k=3, v=4).items()}
    full["decay"] = -draw.random((1, length, 2, *([3] if by_channel else [])), np.float32)
    full |= {"beta": draw.random((1, length, 2), np.float32)} if delta else {}
    state = draw.standard_normal((1, 2, 3, 4)).astype(np.float32)
    expected = loop(**full, state=state)
    outs = []
    for piece in (slice(0, min(cut, length)), slice(min(cut, length), None)):
        if full["q"][:, piece].size:
            out, state = run(scan(by_channel, delta), **{n: a[:, piece] for n, a in full.items()}, state=state)
            outs.append(out)
    for got, wanted in zip((np.concatenate(outs, 1), state), expected):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
