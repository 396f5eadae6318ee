"""Checkpoints in fp8 and mxfp4: read as numpy and Transformers read them, and built to the bytes of unquantised ones."""

import contextlib
import json
import tempfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from graphs import load_pass, model, node, value
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from stored import fp4_values, fp8_values, requantised, write
from test_references import blocks_of, rows_of
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors
from twins import config_of, read_config

from onnxmake.build.source import describe
from onnxmake.errors import CheckpointError, UnsupportedError
from onnxmake.model import canonical, parity, reference
from onnxmake.model.assemble import assemble
from onnxmake.model.capture import capture
from onnxmake.model.emulate import rounded_checkpoint
from onnxmake.model.optimize import optimize
from onnxmake.model.prequantized import Quantized, read_logical
from onnxmake.model.reader import Reader
from onnxmake.model.safetensors import read_checkpoint

MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
TOLERANCE = 1e-4
rng = np.random.default_rng(0)


def fp8(*block: int) -> dict:
    return {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": list(block) or None}


def codes(*shape: int, rng: np.random.Generator = rng) -> np.ndarray:
    """Any numbers of fp8, and no NaN."""
    drawn = rng.integers(0, 256, shape, np.uint8)
    return np.where(drawn & 127 == 127, drawn ^ 1, drawn)


def scales(*shape: int, rng: np.random.Generator = rng) -> np.ndarray:
    return np.exp(rng.standard_normal(shape)).astype(np.float32)


def read(folder: Path, name: str, turned: bool = False, start: int = 0, end: int | None = None) -> np.ndarray:
    """Rows of a tensor, or its columns as rows: float32 [rows, columns]."""
    with ThreadPoolExecutor(1) as ahead:
        reader = Reader(read_logical(folder), ahead)
        return np.concatenate(list((reader.columns if turned else reader.rows)(name, start, end)))


@st.composite
def fp8_tensors(draw):
    """Shape, block, and a range of rows of what `turned` says."""
    shape = (*draw(st.sampled_from([(), (3,)])), draw(st.integers(1, 20)), draw(st.integers(1, 20)))
    block = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)) | st.just((128, 128)))
    turned = draw(st.booleans())
    limit = int(np.prod(shape)) // shape[-2 if turned else -1]
    start, end = sorted(draw(st.lists(st.integers(0, limit), min_size=2, max_size=2, unique=True)))
    return shape, block, turned, start, end


@settings(max_examples=80, deadline=None)
@given(fp8_tensors(), st.integers(80, 300), st.integers(0, 2**31))
def test_fp8_is_each_code_times_the_scale_of_its_block(chosen, piece, seed):
    (*lead, rows, columns), block, turned, start, end = chosen
    rng = np.random.default_rng(seed)
    stored = codes(*lead, rows, columns, rng=rng)
    factors = scales(*lead, -(-rows // block[0]), -(-columns // block[1]), rng=rng)
    with tempfile.TemporaryDirectory() as name, blocks_of(piece):
        raw = {"a.weight": ("F8_E4M3", stored), "a.weight_scale_inv": ("F32", factors)}
        found = read(write(Path(name), raw, fp8(*block)), "a.weight", turned, start, end)
    np.testing.assert_array_equal(found, rows_of(fp8_values(stored, factors, block), turned)[start:end])


@pytest.mark.parametrize("shape", [(256, 384), (200, 130), (1, 1)])
def test_blocks_are_of_128_by_128_unless_the_configuration_says_otherwise(tmp_path, shape):
    stored, factors = codes(*shape), scales(*(-(-n // 128) for n in shape))
    raw = {"a.weight": ("F8_E4M3", stored), "a.weight_scale_inv": ("F32", factors)}
    write(tmp_path, raw, {"quant_method": "fp8"})
    np.testing.assert_array_equal(read(tmp_path, "a.weight"), fp8_values(stored, factors, (128, 128)))


SCALES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "U8": torch.uint8}


@pytest.mark.parametrize("kind", [*SCALES, "F8_E8M0", "one"])
@pytest.mark.parametrize("lead", [(), (2,)])
def test_fp8_is_what_transformers_makes_of_it(tmp_path, lead, kind):
    stored, grid = torch.from_numpy(codes(*lead, 24, 40)), (*lead, 3, 5)
    if kind in ("U8", "F8_E8M0"):
        factors = torch.from_numpy(rng.integers(100, 150, grid, np.uint8))
    else:
        factors = torch.from_numpy(scales(*((*lead, 1, 1) if kind == "one" else grid))).to(SCALES.get(kind))
    known = factors.view(torch.float8_e8m0fnu) if kind == "F8_E8M0" else factors
    expected = Fp8Dequantize(None)._dequantize_one(stored.view(torch.float8_e4m3fn), known, torch.float32).numpy()
    raw_scales = factors.view(torch.int16 if factors.itemsize == 2 else factors.dtype).numpy()
    raw = {
        "a.weight": ("F8_E4M3", stored.numpy()),
        "a.weight_scale_inv": ("F32" if kind == "one" else kind, raw_scales),
    }
    write(tmp_path, raw, fp8() if kind == "one" else fp8(8, 8))
    np.testing.assert_array_equal(read(tmp_path, "a.weight"), expected.reshape(-1, 40))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_scale_of_the_whole_tensor_may_have_any_shape_of_one(tmp_path, shape):
    stored, factor = codes(30, 20), scales(*shape)
    raw = {"a.weight": ("F8_E4M3", stored), "a.weight_scale_inv": ("F32", factor)}
    write(tmp_path, raw, fp8())
    np.testing.assert_array_equal(read(tmp_path, "a.weight"), fp8_values(stored, factor.reshape(1, 1), (30, 20)))
    np.testing.assert_array_equal(read(tmp_path, "a.weight", True, 3, 11), read(tmp_path, "a.weight").T[3:11])


@settings(max_examples=60, deadline=None)
@given(st.tuples(*(st.integers(1, n) for n in (3, 12, 3))), st.booleans(), st.integers(64, 600), st.data())
def test_mxfp4_is_what_transformers_makes_of_it(shape, turned, piece, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    blocks, exponents = rng.integers(0, 256, (*shape, 16), np.uint8), rng.integers(0, 250, shape, np.uint8)
    expected = convert_moe_packed_tensors(*map(torch.from_numpy, (blocks, exponents)), dtype=torch.float32).numpy()
    np.testing.assert_array_equal(expected, fp4_values(blocks, exponents).swapaxes(1, 2))
    limit = expected.size // expected.shape[-2 if turned else -1]
    start, end = sorted(data.draw(st.lists(st.integers(0, limit), min_size=2, max_size=2, unique=True)))
    with tempfile.TemporaryDirectory() as name, blocks_of(piece):
        folder = write(Path(name), {"e_blocks": ("U8", blocks), "e_scales": ("U8", exponents)}, MXFP4)
        assert read_logical(folder)["e"].shape == expected.shape
        found = read(folder, "e", turned, start, end)
    np.testing.assert_array_equal(found, rows_of(expected, turned)[start:end])


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("method", ["fp8", "mxfp4"])
def test_memory_is_that_of_a_few_blocks_whatever_the_tensor(tmp_path, method, turned):
    if method == "fp8":
        raw = {"a": ("F8_E4M3", codes(2048, 2048)), "a_scale_inv": ("F32", scales(16, 16))}
    else:
        raw = {"a_blocks": ("U8", codes(2, 1024, 64, 16)), "a_scales": ("U8", codes(2, 1024, 64))}
    write(tmp_path, raw, fp8(128, 128) if method == "fp8" else MXFP4)
    with ThreadPoolExecutor(1) as ahead, blocks_of(1 << 16):
        reader = Reader(read_logical(tmp_path), ahead)
        tracemalloc.start()
        total = sum(len(block) for block in (reader.columns if turned else reader.rows)("a"))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert total in (2048, 4096) and peak < 12 << 16


@pytest.mark.parametrize("strategy", ["channel", "tensor"])
def test_fp8_of_compressed_tensors_is_each_code_times_its_channels_scale(tmp_path, strategy):
    stored, factors = codes(24, 40), scales(*((24, 1) if strategy == "channel" else (1,)))
    weights = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": strategy}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    method = {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": groups}
    raw = {"a.weight": ("F8_E4M3", stored), "a.weight_scale": ("F32", factors), "a.input_scale": ("F32", factors)}
    folder = write(tmp_path, raw, method)
    assert list(read_logical(folder)) == ["a.weight"]
    block = (1, 40) if strategy == "channel" else (24, 40)
    np.testing.assert_array_equal(read(folder, "a.weight"), fp8_values(stored, factors.reshape(-1, 1), block))
    weights["num_bits"] = 4
    with pytest.raises(UnsupportedError, match="floats of 8 bits"):
        read_logical(write(tmp_path, raw, method))


def test_what_is_not_quantised_stays_and_what_only_kernels_read_goes(tmp_path):
    plain = np.arange(6, dtype=np.float32).reshape(2, 3)
    raw = {
        "norm.weight": ("F32", plain),
        "a.weight": ("F8_E4M3", codes(2, 3)),
        "a.weight_scale_inv": ("F32", scales()),
        "a.activation_scale": ("F32", scales()),
        "a_blocks": ("U8", codes(2, 3, 16)),
    }
    found = read_logical(write(tmp_path, raw, fp8()))
    assert set(found) == {"norm.weight", "a.weight", "a_blocks"}
    assert [name for name, tensor in found.items() if isinstance(tensor, Quantized)] == ["a.weight"]
    np.testing.assert_array_equal(read(tmp_path, "norm.weight"), plain)


@pytest.mark.parametrize("nothing", [None, {}])
def test_without_a_method_nothing_is_quantised(tmp_path, nothing):
    raw = {"a.weight": ("F8_E4M3", codes(2, 3)), "a.weight_scale_inv": ("F32", scales(1, 1))}
    assert set(read_logical(write(tmp_path, raw, nothing))) == set(raw)


BUILDS = {  # twin, quantization_config, what else its config.json says
    "qwen3 in fp8": ("qwen3", fp8(48, 40), {}),
    "qwen3 in fp8, one scale a tensor": ("qwen3", fp8(), {}),
    "experts in fp8": ("qwen3_moe", fp8(16, 32), {}),
    "latent attention in fp8": ("deepseek_v3", fp8(128, 128), {}),
    "experts in mxfp4": ("gpt_oss", MXFP4, {"intermediate_size": 96}),
}


@pytest.fixture(scope="module", params=BUILDS)
def checkpoints(request, tmp_path_factory):
    """Checkpoints of the same values, quantised and not, and the graph of the second."""
    twin, stored, changes = BUILDS[request.param]
    folder = tmp_path_factory.mktemp("stored")
    both = requantised(reference.make_checkpoint(config_of(twin) | changes, folder / "float"), folder, stored)
    shapes = {name: list(tensor.shape) for name, tensor in read_checkpoint(both[1]).items()}
    canonical.save(capture(read_config(both[1]), shapes), folder / "graph.onnx")
    return *both, folder / "graph.onnx"


def test_a_quantised_checkpoint_is_built_as_an_unquantised_one_of_its_values(checkpoints, output, tmp_path):
    stored, plain, graph = checkpoints
    assert describe(stored)[1] == describe(plain)[1]  # so export makes the same graph of both
    expected = reference.expected(plain)
    for device in ("cpu", "portable"):
        with blocks_of(1 << 12):
            file = parity.build(graph, stored, tmp_path / device, device)
        errors = parity.compare(file, expected, padded=device == "portable")
        assert max(errors.values()) < TOLERANCE, (device, errors)


def test_an_int4_model_has_the_bytes_of_one_of_the_unquantised_checkpoint(checkpoints, tmp_path):
    *both, graph = checkpoints
    rtn, made = load_pass("quantize_rtn"), []
    for checkpoint in both:
        built = ir.load(graph)
        optimize(built, "cpu")
        assert rtn.rewrite(built, rtn.Options(block_size=16)) > 0
        rounded = rounded_checkpoint(built, checkpoint, tmp_path / f"{checkpoint.name}-rounded")
        (out := tmp_path / checkpoint.name).mkdir()
        assemble(built, "cpu", checkpoint, out, lambda done, total: None)
        made.append(((out / "model.onnx.data").read_bytes(), load_file(rounded / "model.safetensors")))
    assert made[0][0] == made[1][0] and len(made[0][0]) > 10_000
    assert made[0][1].keys() == made[1][1].keys()
    for name, array in made[0][1].items():
        np.testing.assert_array_equal(array, made[1][1][name])


GOOD = {
    "a.weight": ("F8_E4M3", codes(20, 30)),
    "a.weight_scale_inv": ("F32", scales(3, 4)),
    "e_blocks": ("U8", codes(2, 5, 1, 16)),
    "e_scales": ("U8", codes(2, 5, 1)),
}
BAD = {  # what stands in place of GOOD, quantization_config, the error
    "no scales": (
        {"a.weight_scale_inv": None},
        fp8(8, 8),
        CheckpointError,
        "a.weight is quantised, and there is no a.weight_scale_inv",
    ),
    "no exponents": (
        {"e_scales": None},
        MXFP4,
        CheckpointError,
        "e_blocks is quantised, and there is no e_scales",
    ),
    "scales of other blocks": ({}, fp8(8, 16), CheckpointError, r"a.weight_scale_inv has shape \[3, 4\].*\[3, 2\]"),
    "one scale where there should be more": (
        {"a.weight_scale_inv": ("F32", scales())},
        fp8(8, 8),
        CheckpointError,
        r"a.weight_scale_inv has shape \[\].*\[3, 4\]",
    ),
    "more scales where there should be one": ({}, fp8(), CheckpointError, r"has shape \[3, 4\].*\[1, 1\]"),
    "scales the other way round": (
        {"a.weight_scale_inv": ("F32", scales(4, 3))},
        fp8(8, 8),
        CheckpointError,
        r"a.weight_scale_inv has shape \[4, 3\]",
    ),
    "exponents of other groups": (
        {"e_scales": ("U8", codes(2, 5, 2))},
        MXFP4,
        CheckpointError,
        r"e_scales has shape \[2, 5, 2\].*\[2, 5, 1\]",
    ),
    "scales of no float type": (
        {"a.weight_scale_inv": ("I32", rng.integers(0, 9, (3, 4), np.int32))},
        fp8(8, 8),
        UnsupportedError,
        "a.weight_scale_inv has type I32",
    ),
    "no block size": ({}, fp8(8), CheckpointError, r"weight_block_size \[8\]"),
    "a block of nothing": ({}, fp8(0, 8), CheckpointError, r"weight_block_size \[0, 8\]"),
    "no table": ({}, "fp8", UnsupportedError, "'unnamed'"),
    "no method": ({}, {"bits": 4, "group_size": 64}, UnsupportedError, "'unnamed'"),
    **{
        method: ({}, {"quant_method": method, "bits": 4}, UnsupportedError, f"quantised by the method '{method}'")
        for method in ("bitsandbytes", "nvfp4", "auto-round")
    },
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_checkpoint_is_refused_when_it_is_described(output, tmp_path, case):
    changes, method, error, message = BAD[case]
    raw = {name: entry for name, entry in (GOOD | changes).items() if entry is not None}
    with pytest.raises(error, match=message) as caught:
        describe(write(tmp_path / "checkpoint", raw, method))
    assert caught.value.cause and caught.value.action


def test_what_the_bad_checkpoints_are_made_of_is_good(output, tmp_path):
    for number, (method, shapes) in enumerate(
        [
            (fp8(8, 8), {"a.weight": [20, 30], "e_blocks": [2, 5, 1, 16], "e_scales": [2, 5, 1]}),
            (MXFP4, {"a.weight": [20, 30], "a.weight_scale_inv": [3, 4], "e": [2, 32, 5]}),
        ]
    ):
        derived = describe(write(tmp_path / str(number), GOOD, method))[1]
        assert json.loads(derived["tensors.json"]) == shapes and json.loads(derived["architecture.json"]) == {}


def test_a_method_that_is_not_known_is_told_whatever_the_files_are(output, tmp_path):
    write(tmp_path / "checkpoint", GOOD, {"quant_method": "hqq"})
    (tmp_path / "checkpoint" / "model.safetensors").rename(tmp_path / "checkpoint" / "hqq.pt")
    with pytest.raises(UnsupportedError, match="'hqq'"):
        describe(tmp_path / "checkpoint")


POISON = {  # tensor, place in its codes or scales, byte
    "nothing": ("a.weight", "a.weight", 0, 0x77),
    "a code that is NaN": ("a.weight", "a.weight", 0, 0x7F),
    "a negative code that is NaN": ("a.weight", "a.weight", 5, 0xFF),
    "an exponent that is NaN": ("e", "e_scales", 1, 0xFF),
    "an exponent too large": ("e", "e_scales", 1, 0xFE),
}


@pytest.mark.parametrize("quantise", [False, True])
@pytest.mark.parametrize("case", POISON)
def test_values_that_are_not_finite_are_named(tmp_path, case, quantise):
    tensor, changed, place, byte = POISON[case]
    raw = {name: (dtype, np.full_like(array, 0x77)) for name, (dtype, array) in GOOD.items()}
    raw[changed][1].reshape(-1)[place] = byte
    folder = write(tmp_path / "checkpoint", raw, MXFP4 if tensor == "e" else fp8(8, 8))
    parts = {"parts": [tensor], "rows": [0, 20]} if tensor == "e" else {"parts": [tensor]}
    width = 5 if tensor == "e" else 30
    stack, x = node("Weight", [], (20, width), **parts), value("x", ["batch", 1, width])
    y = node("Linear", [x, stack.outputs[0]], ["batch", 1, 20])
    y.outputs[0].name, built = "y", model([x], y.outputs, stack, y)
    if quantise:
        rtn = load_pass("quantize_rtn")
        assert rtn.rewrite(built, rtn.Options(block_size=16)) == 1
    fails = pytest.raises(CheckpointError, match=f"Tensor {tensor} holds NaN or infinity")
    with contextlib.nullcontext() if case == "nothing" else fails:
        assemble(built, "cpu", folder, tmp_path, lambda done, total: None)
