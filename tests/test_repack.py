"""repack: a product over a checkpoint's own codes is that of the values they stand for, bit by bit."""

import json
import tempfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from graphs import FLOAT, load_pass, model, node, operations, run, value
from hypothesis import given, settings
from hypothesis import strategies as st
from packers import (
    AWQ_SETTINGS,
    Weight,
    awq,
    compressed,
    compressed_settings,
    drawn,
    gptq,
    gptq_settings,
    int8,
)
from stored import write
from test_references import blocks_of

from onnxmake.build import execute, twin
from onnxmake.build.plan import checkpoint_of
from onnxmake.build.source import describe
from onnxmake.build.target import read_target
from onnxmake.errors import CheckpointError, PassError, TargetError, UnsupportedError
from onnxmake.model import canonical
from onnxmake.model.assemble import assemble
from onnxmake.model.graph import attribute, nodes
from onnxmake.model.prequantized import read_logical
from onnxmake.model.quantisers.packing import unpack
from onnxmake.model.reader import Reader
from onnxmake.model.segments import segments


def product(parts: list[str], rows: int, width: int, bounds=None, dtype=FLOAT, **more) -> ir.Model:
    """x [batch, seq, K] times the rows of some tensors."""
    chosen = {"rows": bounds} if bounds else {}
    w = node("Weight", [], (rows, width), dtypes=[dtype], parts=[f"{p}.weight" for p in parts], **chosen, **more)
    x = value("x", ["batch", "seq", width], dtype)
    y = node("Linear", [x, w.outputs[0]], ["batch", "seq", rows], dtypes=[dtype])
    y.outputs[0].name = "y"
    return model([x], y.outputs, w, y)


def repacked(built: ir.Model, folder: Path, work: Path, **options) -> ir.Model:
    """The graph after the pass."""
    used, src, out = load_pass("repack"), work / "src", work / "out"
    for place in (src, out):
        place.mkdir(parents=True)
    canonical.save(built, src / "model.onnx")
    (src / "checkpoint").symlink_to(folder)
    used.run(src, out, used.Options(accuracy_level=1, **options))
    return ir.load(out / "model.onnx")


def bound(built: ir.Model, folder: Path, out: Path, device: str = "cpu") -> ir.Model:
    out.mkdir(parents=True, exist_ok=True)
    assemble(built, device, folder, out, lambda done, total: None)
    return ir.load(out / "model.onnx")


def stands_for(made: ir.Model) -> np.ndarray:
    """float32 [N, K] in the order of the checkpoint's inputs: what MatMulNBits is given, by its definition."""
    (op,) = nodes(made.graph, "MatMulNBits")
    bits, block, width = (attribute(op, name) for name in ("bits", "block_size", "K"))
    packed, scales, *zeros = [v.const_value.numpy() for v in op.inputs[1:] if v is not None]
    codes = unpack(packed, bits, block).astype(np.float32)
    middle = unpack(zeros[0], bits, scales.shape[1])[..., None] if zeros else np.float32(2 ** (bits - 1))
    found = ((codes - middle) * scales.astype(np.float32)[..., None]).reshape(len(codes), -1)[:, :width]
    if gather := nodes(made.graph, "Gather"):
        order = gather[0].inputs[1].const_value.numpy()
        found = found[:, np.argsort(order)]
    return found


def read(folder: Path, name: str, turned: bool = False, start: int = 0, end: int | None = None) -> np.ndarray:
    with ThreadPoolExecutor(1) as ahead:
        reader = Reader(read_logical(folder), ahead)
        blocks = [block.copy() for block in (reader.columns if turned else reader.rows)(name, start, end)]
    return np.concatenate(blocks)


S = True
FORMATS = {  # name -> weight, its tensors, quantization_config; what block size and zero points the product has
    "gptq": (w := drawn(24, 96, 32, lowest=1), gptq("a", w), gptq_settings(32), 32, True),
    "gptq symmetric": (w := drawn(24, 96, 32, symmetric=S), gptq("a", w), gptq_settings(32, sym=True), 32, False),
    "gptq_v2": (w := drawn(24, 96, 32), gptq("a", w, 2), gptq_settings(32, version=2), 32, True),
    "gptq of 8 bits": (w := drawn(24, 64, 64, 8, lowest=1), gptq("a", w), gptq_settings(64, 8), 64, True),
    "gptq of 2 bits": (w := drawn(32, 64, 16, 2, symmetric=S), gptq("a", w), gptq_settings(16, 2), 16, False),
    "gptq by channel": (w := drawn(24, 96, 96, symmetric=S), gptq("a", w), gptq_settings(-1), 32, False),
    "gptq by odd channel": (w := drawn(24, 40, 40, symmetric=S), gptq("a", w), gptq_settings(-1), 16, False),
    "gptq, the last group short": (w := drawn(8, 80, 32, lowest=1), gptq("a", w), gptq_settings(32), 32, True),
    "gptq in groups of 512": (w := drawn(8, 1024, 512, lowest=1), gptq("a", w), gptq_settings(512), 256, True),
    "gptq, desc_act": (
        w := drawn(24, 96, 32, order=True, lowest=1),
        gptq("a", w),
        gptq_settings(32, desc_act=True),
        32,
        True,
    ),
    "awq": (w := drawn(24, 128, 32), awq("a", w), AWQ_SETTINGS | {"group_size": 32}, 32, True),
    "awq by channel": (w := drawn(8, 64, 64), awq("a", w), AWQ_SETTINGS | {"group_size": -1}, 64, True),
    "compressed-tensors": (w := drawn(24, 96, 32), compressed("a", w), compressed_settings(32), 32, True),
    "compressed-tensors, uneven rows": (w := drawn(13, 96, 32), compressed("a", w), compressed_settings(32), 32, True),
    "compressed-tensors symmetric": (
        w := drawn(24, 96, 32, symmetric=S, dtype=np.float32),
        compressed("a", w, S),
        compressed_settings(32, symmetric=S),
        32,
        False,
    ),
    "compressed-tensors by channel": (
        w := drawn(24, 96, 96, symmetric=S),
        compressed("a", w, S),
        compressed_settings(None, symmetric=S),
        32,
        False,
    ),
    "compressed-tensors of 8 bits": (
        w := drawn(24, 96, 32, 8),
        compressed("a", w),
        compressed_settings(32, 8),
        32,
        True,
    ),
    "compressed-tensors, actorder": (
        w := drawn(24, 96, 32, order=True),
        compressed("a", w),
        compressed_settings(32, actorder="group"),
        32,
        True,
    ),
    "int8": (
        w := drawn(24, 96, 96, 8, symmetric=S),
        int8("a", w),
        compressed_settings(None, 8, S, "int-quantized"),
        32,
        False,
    ),
    "int8 asymmetric": (
        w := drawn(24, 96, 96, 8),
        int8("a", w, False),
        compressed_settings(None, 8, form="int-quantized"),
        32,
        True,
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_product_reads_the_codes_as_they_are(tmp_path, name):
    w, raw, method, block, asymmetric = FORMATS[name]
    folder = write(tmp_path / "checkpoint", raw, method)
    rows, width = w.codes.shape
    np.testing.assert_array_equal(read(folder, "a.weight"), w.values)  # so it is read without the pass
    with blocks_of(1 << 11):
        made = bound(repacked(product(["a"], rows, width), folder, tmp_path), folder, tmp_path)
    (op,) = nodes(made.graph, "MatMulNBits")
    assert attribute(op, "block_size") == block and attribute(op, "bits") == w.bits
    assert (len(op.inputs) > 3) is asymmetric
    assert ("Gather" in operations(made)) is ("act" in name)
    np.testing.assert_array_equal(stands_for(made), w.values)
    plain = bound(product(["a"], rows, width), folder, tmp_path / "plain")
    assert "MatMulNBits" not in operations(plain)
    x = np.random.default_rng(1).standard_normal((2, 3, width), np.float32)
    files = [tmp_path / "model.onnx", tmp_path / "plain" / "model.onnx"]
    (found,), (expected,) = (run(file, x=x) for file in files)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@st.composite
def layouts(draw):
    """A weight as one of the methods stores it, its quantization_config, and a range of rows of what `turned` says."""
    method, order = draw(st.sampled_from(["gptq", "gptq_v2", "awq", "compressed", "int8"])), draw(st.booleans())
    bits = {"awq": 4, "int8": 8}.get(method) or draw(st.sampled_from([2, 4, 8]))
    each = 32 // bits
    rows, width = (each * draw(st.integers(1, 4)) for _ in "NK")
    group = width if method == "int8" else draw(st.integers(1, width))
    w = drawn(rows, width, group, bits, False, order and method != "awq", draw(st.integers(0, 99)), method == "gptq")
    raw, settings_ = {
        "gptq": lambda: (gptq("a", w), gptq_settings(group, bits)),
        "gptq_v2": lambda: (gptq("a", w, 2), gptq_settings(group, bits, 2)),
        "awq": lambda: (awq("a", w), AWQ_SETTINGS | {"group_size": group}),
        "compressed": lambda: (compressed("a", w), compressed_settings(group, bits)),
        "int8": lambda: (int8("a", w, False), compressed_settings(None, 8, form="int-quantized")),
    }[method]()
    turned = draw(st.booleans())
    limit = width if turned else rows
    start, end = sorted(draw(st.lists(st.integers(0, limit), min_size=2, max_size=2, unique=True)))
    return w, raw, settings_, turned, start, end


@settings(max_examples=80, deadline=None)
@given(layouts(), st.integers(64, 800))
def test_any_range_of_any_layout_is_what_its_codes_stand_for(chosen, piece):
    w, raw, method, turned, start, end = chosen
    with tempfile.TemporaryDirectory() as name, blocks_of(piece):
        folder = write(Path(name), raw, method)
        shapes = {n: tuple(shape) for n, shape in json.loads(describe(folder)[1]["tensors.json"]).items()}
        assert shapes == {"a.weight": w.codes.shape}
        found = read(folder, "a.weight", turned, start, end)
    np.testing.assert_array_equal(found, (w.values.T if turned else w.values)[start:end])


def test_parts_follow_each_other_as_the_product_packs_them(tmp_path):
    """Symmetric and not, a slice of one: as query, key and value are one product."""
    q, k, v = drawn(24, 64, 32, seed=1), drawn(16, 64, 32, symmetric=True, seed=2), drawn(32, 64, 32, seed=3)
    raw = compressed("q", q) | compressed("k", k) | compressed("v", v)
    folder = write(tmp_path / "checkpoint", raw, compressed_settings(32))
    built = product(["q", "k", "v"], 48, 64, [0, 24, 3, 11, 16, 32])
    with blocks_of(1 << 10):
        made = bound(repacked(built, folder, tmp_path), folder, tmp_path)
    np.testing.assert_array_equal(stands_for(made), np.concatenate([q.values, k.values[3:11], v.values[16:]]))


def two(first: str, second: str) -> ir.Model:
    """Two products of one input."""
    x = value("x", ["batch", "seq", 64])
    ws = [node("Weight", [], (16, 64), parts=[f"{name}.weight"]) for name in (first, second)]
    ys = [node("Linear", [x, w.outputs[0]], ["batch", "seq", 16]) for w in ws]
    for y, name in zip(ys, "yz"):
        y.outputs[0].name = name
    return model([x], [y.outputs[0] for y in ys], *ws, *ys)


def test_products_whose_inputs_have_one_order_share_its_gather(tmp_path):
    a, b = (drawn(16, 64, 16, order=True, lowest=1, seed=1) for _ in "ab")
    folder = write(tmp_path / "checkpoint", gptq("a", a) | gptq("b", b), gptq_settings(16))
    found = operations(repacked(two("a", "b"), folder, tmp_path))
    assert found.count("Gather") == 1 and found.count("MatMulNBits") == 2


def test_what_is_kept_and_what_the_checkpoint_does_not_hold_quantised_is_left_to_a_quantiser(tmp_path):
    a, b = drawn(16, 64, 16, seed=1), drawn(16, 64, 16, seed=2)
    folder = write(tmp_path / "checkpoint", awq("a", a) | awq("b", b), AWQ_SETTINGS | {"group_size": 16})
    made = repacked(two("a", "b"), folder, tmp_path, keep=("b",))
    assert sorted(n.op_type for n in made.graph) == ["Linear", "MatMulNBits", "QuantizedWeight", "Weight"]
    before = [n for n in made.graph if n.op_type == "MatMulNBits"]
    rtn = load_pass("quantize_rtn")
    assert rtn.rewrite(made, rtn.Options(bits=8)) == 1
    assert before[0] in nodes(made.graph, "MatMulNBits")
    methods = {attribute(n, "parts")[0]: attribute(n, "method") for n in nodes(made.graph, "QuantizedWeight")}
    assert methods == {"a.weight": "checkpoint", "b.weight": "rtn"}


@pytest.mark.parametrize(
    ("model_type", "scales", "right"),
    [
        ("FLOAT", "float16", True),
        ("FLOAT16", "float16", True),
        ("BFLOAT16", "bfloat16", True),
        ("FLOAT16", "bfloat16", True),  # those of weights, of middling size, have numbers in float16
        ("BFLOAT16", "float16", False),
        ("FLOAT16", "float32", False),
    ],
)
def test_scales_are_never_rounded(tmp_path, model_type, scales, right):
    dtype, w = ir.DataType[model_type], drawn(16, 64, 32, dtype=np.dtype(scales))
    raw = compressed("a", w)
    raw["a.weight_scale"] = raw["a.weight_scale"][0], w.scales.view(f"u{w.scales.itemsize}")
    folder = write(tmp_path / "checkpoint", raw, compressed_settings(32))
    made = repacked(product(["a"], 16, 64, dtype=dtype), folder, tmp_path)
    if right:
        np.testing.assert_array_equal(stands_for(bound(made, folder, tmp_path)), w.values)
    else:
        with pytest.raises(UnsupportedError, match=f"Scales of a.weight are no numbers of .*: {scales} holds more"):
            bound(made, folder, tmp_path)


@pytest.mark.parametrize("device", ["cuda", "directml"])
def test_other_devices_read_the_same_bytes(tmp_path, device):
    w, raw, method, *_ = FORMATS["awq"]
    folder = write(tmp_path / "checkpoint", raw, method)
    made = bound(repacked(product(["a"], 24, 128), folder, tmp_path), folder, tmp_path, device)
    np.testing.assert_array_equal(stands_for(made), w.values)
    w, raw, method, *_ = FORMATS["gptq of 2 bits"]
    folder = write(tmp_path / "two", raw, method)
    with pytest.raises(UnsupportedError, match="weights of 2 bits"):
        bound(repacked(product(["a"], 32, 64), folder, tmp_path / "b"), folder, tmp_path, device)


def test_memory_is_that_of_a_few_blocks(tmp_path):
    rng = np.random.default_rng(0)
    raw = {
        "a.qweight": ("I32", rng.integers(0, 2**31, (256, 4096), np.int32)),
        "a.qzeros": ("I32", np.full((16, 512), 0x77777777, np.int32)),
        "a.scales": ("F16", np.full((16, 4096), 0.5, np.float16)),
        "a.g_idx": ("I32", (np.arange(2048) // 128).astype(np.int32)),
    }
    folder = write(tmp_path / "checkpoint", raw, gptq_settings(128))
    made = repacked(product(["a"], 4096, 2048), folder, tmp_path)
    bound(product(["a"], 4096, 2048), folder, tmp_path / "plain")  # imports
    with blocks_of(1 << 18):
        tracemalloc.start()
        bound(made, folder, tmp_path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert (tmp_path / "model.onnx.data").stat().st_size > 4 << 20 and peak < 3 << 20


def crooked(w: Weight, index) -> dict:
    return gptq("a", w) | {"a.g_idx": ("I32", np.array(index, np.int32))}


PLAIN = {"b.weight": ("F32", np.ones((16, 64), np.float32))}
LOSSY = {  # tensors, quantization_config, the product's parts and what else it says, the error
    "one part of two": (
        compressed("a", drawn(16, 64, 32)) | PLAIN,
        compressed_settings(32),
        (["a", "b"], {}),
        "a.weight and 1 more: it is quantised in part",
    ),
    "groups of 24": (
        compressed("a", drawn(16, 96, 24)),
        compressed_settings(24),
        (["a"], {}),
        "a.weight: its groups are of 24 inputs",
    ),
    "orders that differ": (
        {k: v for n in (1, 2) for k, v in gptq("ab"[n - 1], drawn(16, 64, 16, order=True, seed=n, lowest=1)).items()},
        gptq_settings(16),
        (["a", "b"], {}),
        "weights have their inputs in different orders",
    ),
    "uneven groups": (
        crooked(drawn(16, 64, 32, lowest=1), [0] * 20 + [1] * 44),
        gptq_settings(32),
        (["a"], {}),
        "groups of a.weight are not of 32 inputs each",
    ),
    "a transposed weight": (
        compressed("a", drawn(64, 64, 32)),
        compressed_settings(32),
        (["a"], {"transposed": 1}),
        "it is read transposed",
    ),
}


@pytest.mark.parametrize("case", LOSSY)
def test_what_would_lose_something_is_refused_unless_it_is_kept(tmp_path, case):
    raw, method, (parts, more), message = LOSSY[case]
    folder = write(tmp_path / "checkpoint", raw, method)
    shapes = {name: tensor.shape for name, tensor in read_logical(folder).items()}
    rows, width = sum(shapes[f"{p}.weight"][0] for p in parts), shapes["a.weight"][1]
    built = product(parts, rows, width, **more)
    with pytest.raises(UnsupportedError, match=message) as caught:
        repacked(built, folder, tmp_path)
    assert "keep" in caught.value.action
    with pytest.raises(PassError, match="repack changed nothing"):
        repacked(built, folder, tmp_path / "again", keep=("*",))


TARGET = """
device = "cpu"
[source]
path = "checkpoint"
[[pass]]
use = "export"
[[pass]]
use = "optimize"
[[pass]]
use = "{use}"
[[pass]]
use = "package_genai"
"""


@pytest.mark.parametrize("use", ["repack", "quantize_rtn"])
def test_a_target_that_takes_weights_over_has_a_twin_stored_as_its_checkpoint(output, tmp_path, monkeypatch, use):
    raw = {k: v for n in ("layers.0.q", "layers.1.q") for k, v in compressed(n, drawn(16, 64, 32)).items()}
    method, asked = compressed_settings(32), []
    folder = write(tmp_path / "checkpoint", raw | PLAIN, method)
    (tmp_path / "one.toml").write_text(TARGET.format(use=use))
    target = read_target(tmp_path / "one.toml")
    checkpoint = checkpoint_of(target)
    execute.make_source(checkpoint)
    monkeypatch.setattr(twin.support, "run", lambda *given: asked.append(given))
    twin._store_alike(target, checkpoint, folder / "twin")
    action = {"settings": method, "names": ["layers.*.q.weight"], "scales": "F16"}
    assert asked == ([("regroup", "cpu", folder / "twin", action, "check:one")] if use == "repack" else [])


def test_a_pass_that_finds_nothing_comes_late_or_keeps_what_is_not_there_is_refused(tmp_path):
    plain = write(tmp_path / "plain", PLAIN, None)
    with pytest.raises(PassError, match="repack changed nothing") as caught:
        repacked(product(["b"], 16, 64), plain, tmp_path / "1")
    assert "no quantization_config" in caught.value.cause
    folder = write(tmp_path / "checkpoint", compressed("a", drawn(16, 64, 32)), compressed_settings(32))
    with pytest.raises(TargetError, match="keep = 'z' matches no weight"):
        repacked(product(["a"], 16, 64), folder, tmp_path / "2", keep=("z",))
    late, rtn = product(["a"], 16, 64), load_pass("quantize_rtn")
    rtn.rewrite(late, rtn.Options())
    with pytest.raises(PassError, match="repack came after a quantiser"):
        repacked(late, folder, tmp_path / "3")


def test_what_is_taken_over_is_no_unquantised_model(tmp_path):
    folder = write(tmp_path / "checkpoint", compressed("a", drawn(16, 64, 32)), compressed_settings(32))
    made = repacked(product(["a"], 16, 64), folder, tmp_path)
    with pytest.raises(UnsupportedError, match="weights that are quantised already") as caught:
        segments(made, ["y"])
    assert "quantize_rtn" in caught.value.action


def changed(raw: dict, **changes) -> dict:
    """Names without a dot in front: a_NAME is a.NAME."""
    replaced = {name.replace("a_", "a.", 1): entry for name, entry in changes.items()}
    return {name: entry for name, entry in (raw | replaced).items() if entry is not None}


W = drawn(16, 64, 32, lowest=1)
G, A, C = gptq("a", W), awq("a", W), compressed("a", W)
BY32 = gptq_settings(32)
KINDS = {  # tensors, quantization_config, the error when the checkpoint is described
    "no scales": (changed(G, a_scales=None), BY32, CheckpointError, "quantised, and there is no a.scales"),
    "no zero points": (changed(A, a_qzeros=None), AWQ_SETTINGS | {"group_size": 32}, CheckpointError, "no a.qzeros"),
    "no zero points where there should be": (
        changed(C, a_weight_zero_point=None),
        compressed_settings(32),
        CheckpointError,
        "no a.weight_zero_point",
    ),
    "scales of other groups": (G, gptq_settings(16), CheckpointError, r"a.qzeros has shape \[2, 2\].*\[4, 2\]"),
    "other bits": (G, gptq_settings(32, 8), CheckpointError, r"a.g_idx has type I32 and shape \[64\].*\[32\]"),
    "groups of floats": (changed(G, a_g_idx=("F32", np.ones(64, np.float32))), BY32, CheckpointError, "type F32"),
    "scales of no float type": (changed(G, a_scales=("I32", G["a.g_idx"][1])), BY32, UnsupportedError, "has type I32"),
    "a stack": (changed(G, a_qweight=("I32", np.ones((2, 8, 16), np.int32))), BY32, UnsupportedError, "2, 8, 16"),
    "3 bits": (G, gptq_settings(32, 3), UnsupportedError, "bits = 3; known are 2, 4, 8"),
    "a layout of one device": (G, BY32 | {"checkpoint_format": "marlin"}, UnsupportedError, "'marlin'"),
    "bits of each module": (G, BY32 | {"dynamic": {"+:.*": {"bits": 8}}}, UnsupportedError, "dynamic = "),
    "another version of awq": (A, AWQ_SETTINGS | {"version": "gemv"}, UnsupportedError, "version = 'gemv'"),
    "a size that is no number": (A, AWQ_SETTINGS | {"group_size": "all"}, UnsupportedError, "group_size = 'all'"),
    "another format": (C, compressed_settings(32, form="nvfp4-pack-quantized"), UnsupportedError, "format = 'nvfp4"),
    "floats of 4 bits": (C, compressed_settings(32, type="float"), UnsupportedError, "'type': 'float'"),
    "one scale a tensor": (C, compressed_settings(32, strategy="tensor"), UnsupportedError, "'strategy': 'tensor'"),
    "no groups": (C, compressed_settings(32) | {"config_groups": {}}, UnsupportedError, "config_groups = {}"),
}


@pytest.mark.parametrize("case", KINDS)
def test_a_bad_checkpoint_is_refused_when_it_is_described(output, tmp_path, case):
    raw, method, error, message = KINDS[case]
    with pytest.raises(error, match=message) as caught:
        describe(write(tmp_path / "checkpoint", raw, method))
    assert caught.value.cause and caught.value.action


def test_modules_that_are_excepted_need_no_setting_of_their_own(output, tmp_path):
    method = BY32 | {"dynamic": {"-:.*lm_head": {}}}
    derived = describe(write(tmp_path / "checkpoint", G | PLAIN, method))[1]
    assert json.loads(derived["tensors.json"]) == {"a.weight": [16, 64], "b.weight": [16, 64]}


def test_a_bias_of_zeros_that_gptq_wrote_for_a_module_without_one_is_none(output, tmp_path):
    biases = {"a.bias": ("F16", np.zeros(16, np.float16)), "b.bias": ("F16", np.zeros(16, np.float16))}
    found = json.loads(describe(write(tmp_path / "0", G | PLAIN | biases, BY32))[1]["tensors.json"])
    assert sorted(found) == ["a.weight", "b.bias", "b.weight"]
    biases["a.bias"][1][-1] = 1
    assert "a.bias" in describe(write(tmp_path / "1", G | PLAIN | biases, BY32))[1]["tensors.json"]
    stored = write(tmp_path / "2", C | {"a.bias": ("F16", np.zeros(16, np.float16))}, compressed_settings(32))
    assert "a.bias" in describe(stored)[1]["tensors.json"]


@pytest.mark.parametrize("taken_over", [True, False])
@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (changed(G, a_qzeros=("I32", np.full((2, 2), -1, np.int32))), "numbers that 4 bits do not"),
        (crooked(W, [7] * 64), "groups of a.weight are numbered from 7 to 7; there are 2"),
        (
            changed(G, a_scales=("F16", np.full((2, 16), np.nan, np.float16))),
            "a.weight (holds|has scales that are) NaN",
        ),
    ],
)
def test_numbers_that_mean_nothing_are_named(tmp_path, raw, message, taken_over):
    folder = write(tmp_path / "checkpoint", raw, BY32)
    with pytest.raises(CheckpointError, match=message):
        built = product(["a"], 16, 64)
        bound(repacked(built, folder, tmp_path) if taken_over else built, folder, tmp_path)
