"""WebGPU's provider in the environment of its device, on a GPU in software: SwiftShader, which comes with Chromium.

It has float32 only, and lanes in groups of 4: the provider's kernel for prompts of 32 tokens and more wants 8 of them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx_ir as ir
import pytest
from builder import STEPS, Builder, passes
from graphs import bind, load_pass, operations
from test_twins import lowered

from onnxmake.build import environment, paths, support
from onnxmake.errors import UnsupportedError
from onnxmake.model import plugin

CHROMIUM = Path("/usr/lib/chromium")
SOFTWARE = {
    "LD_LIBRARY_PATH": str(CHROMIUM),  # Vulkan's loader
    "VK_ICD_FILENAMES": str(CHROMIUM / "vk_swiftshader_icd.json"),
    "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "1",
}
pytestmark = pytest.mark.browser  # for its SwiftShader
# those with something of their own: a window, a soft cap, sinks and experts, interleaved rotations, convolutions and linear attention
TWINS = ("qwen2-tied", "mistral", "gemma2", "gpt_oss", "cohere", "qwen3_next")
SHAPES = {
    "CastLike",
    "Concat",
    "ConstantOfShape",
    "Gather",
    "Neg",
    "ReduceSum",
    "Reshape",
    "Shape",
    "Slice",
    "Squeeze",
    "Sub",
}
PROGRAM = '''
import json, sys
from pathlib import Path
import numpy as np
from onnxmake.model.session import TYPES, open_session
ids = np.random.default_rng(7).integers(3, 160, (1, 24))
def decoded(file, device):
    """Logits of 18 tokens at once and of 6 one by one."""
    session, states, rows = open_session(Path(file), device), {}, []
    outputs = [output.name for output in session.get_outputs()]
    for i in session.get_inputs():
        shape = [size if isinstance(size, int) else int(size == "batch") for size in i.shape]
        states[i.name] = np.zeros(shape, TYPES[i.type])
    for start, end in [(0, 18), *((t, t + 1) for t in range(18, 24))]:
        told = {"input_ids": ids[:, start:end], "attention_mask": ids[:, :end] * 0 + 1, "position_ids": np.arange(start, end)[None]}
        feed = {name: told.get(name, value) for name, value in states.items()}
        made = dict(zip(outputs, session.run(outputs, feed)))
        rows.append(made.pop("logits"))
        states |= {name.replace("present", "past_key_values"): value for name, value in made.items()}
    return np.concatenate(rows, 1)
cpu, gpu = (decoded(sys.argv[1], device) for device in ("CPU", "WebGPU"))
print(json.dumps(float(np.abs(gpu - cpu).max() / np.abs(cpu).max())))
'''
KERNELS = """
import json
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state
from onnxmake.model import plugin
plugin.register(onnxruntime, "WebGPU")
print(json.dumps(sorted({kernel.op_name for kernel in state.get_registered_ep_kernel_defs("WebGpuExecutionProvider")})))
"""
TOKENS = """
import json, sys
import onnxruntime_genai as og
from onnxmake.model.bench import load
def generated(device):
    model = load(sys.argv[1], device)
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=40, min_length=40, do_sample=False)
    generator = og.Generator(model, parameters)
    generator.append_tokens(list(range(3, 27)))
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)]
print(json.dumps([generated("CPU"), generated("WebGPU")]))
"""


def python(program: str, *arguments, software: dict[str, str] = SOFTWARE, code: int = 0) -> str:
    """What the program prints in the device's environment."""
    done = subprocess.run(
        [environment.ensure("webgpu"), "-c", program, *map(str, arguments)],
        env={"PATH": os.defpath, "PYTHONPATH": str(paths.ROOT), **software},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def kernels() -> set[str]:
    return {*json.loads(python(KERNELS).splitlines()[-1])}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The embedded model for WebGPU with float32 activations, 4 bits, as it is delivered."""
    builder = Builder(tmp_path_factory.mktemp("webgpu"))
    builder.target("software", paths.TARGETS / "tiny", passes(*STEPS, accuracy_level=1))
    file = Path(builder.settings["ONNXMAKE_TARGETS"], "software.toml")
    file.write_text(file.read_text().replace('device = "cpu"', 'device = "webgpu"'))
    builder.run("build:software")
    return builder.dist("software")


@pytest.mark.parametrize("name", TWINS)
def test_the_provider_computes_what_the_cpu_s_does_in_prefill_and_cached_decode(twin, tmp_path, name):
    folder, graph = twin(name)
    assert json.loads(python(PROGRAM, lowered(graph, folder, tmp_path, "webgpu")).splitlines()[-1]) < support.TOLERANCE


@pytest.mark.parametrize("name", TWINS)
def test_what_is_computed_of_many_numbers_has_a_kernel_there(twin, tmp_path, kernels, name):
    folder, graph = twin(name)
    assert {*operations(ir.load(lowered(graph, folder, tmp_path, "webgpu")))} <= kernels | SHAPES


def test_a_soft_cap_is_plain_ops_as_the_kernel_drops_it(twin, tmp_path):
    for name, capped in {"gemma2": True, "gemma3_text": False}.items():
        folder, graph = twin(name)
        found = {*operations(ir.load(lowered(graph, folder, tmp_path / name, "webgpu")))}
        assert ("GroupQueryAttention" in found) is not capped and ("Tanh" in found) is capped


@pytest.mark.parametrize(("bits", "symmetric"), [(2, True), (4, False), (8, True)])
def test_quantised_weights_are_read_as_they_are_written(twin, tmp_path, bits, symmetric):
    folder, graph = twin("qwen2-tied")
    built, optimize, rtn = ir.load(graph), load_pass("optimize"), load_pass("quantize_rtn")
    optimize.rewrite(built, optimize.Options("webgpu"))
    rtn.rewrite(built, rtn.Options(bits=bits, block_size=16, symmetric=symmetric, accuracy_level=1))
    file = bind(built, folder, tmp_path, "webgpu")
    assert {"MatMulNBits", "GatherBlockQuantized"} <= {*operations(ir.load(file))}
    assert json.loads(python(PROGRAM, file).splitlines()[-1]) < 1e-5


def test_genai_generates_there_what_it_generates_on_the_cpu(built):
    cpu, gpu = json.loads(python(TOKENS, built).splitlines()[-1])
    assert len(cpu) == 40 and gpu == cpu


def test_a_machine_without_a_gpu_is_told_so(built):
    for program in (PROGRAM.replace("sys.argv[1]", "sys.argv[1] + '/model.onnx'"), TOKENS):
        assert "UnsupportedError: The model" in python(program, built, software={}, code=1)


def test_an_environment_without_the_provider_is_told_so(monkeypatch):
    monkeypatch.setitem(plugin.PACKAGES, "WebGPU", "no_such_package")
    plugin.register.cache_clear()
    with pytest.raises(UnsupportedError, match="no package no-such-package"):
        plugin.register(sys, "WebGPU")
    plugin.register(sys, "CPU")  # nothing to tell
