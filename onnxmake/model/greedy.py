"""Does GenAI generate from a captured graph what Transformers generates."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxmake.errors import UnsupportedError
from onnxmake.model import genai
from onnxmake.model.direct import build
from onnxmake.model.head import last_token_only


def generate(folder: Path, prompt: np.ndarray, count: int) -> np.ndarray:
    """The prompt and `count` tokens that GenAI continues it by, without sampling."""
    import onnxruntime_genai as og

    parameters = og.GeneratorParams(model := og.Model(str(folder)))
    parameters.set_search_options(max_length=len(prompt) + count, do_sample=False)
    generator = og.Generator(model, parameters)
    generator.append_tokens(prompt.astype(np.int32))
    for _ in range(count):
        generator.generate_next_token()
    return np.array(generator.get_sequence(0))


def _as_packaged(graph: ir.Graph) -> None:
    genai.equal_widths(graph)
    last_token_only(graph)


def package(graph: Path, checkpoint: Path, out: Path, end: int) -> Path:
    """The captured graph for the CPU with the configuration that GenAI reads; `end` is the token that ends a text."""
    model = ir.load(build(graph, checkpoint, out, "cpu", _as_packaged))
    config = json.loads((checkpoint / "config.json").read_text("utf-8")) | {"eos_token_id": end}
    (out / "genai_config.json").write_text(json.dumps(genai.genai_config(model.graph, config, {})))
    return out


def generates(graph: Path, checkpoint: Path, out: Path, expected: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The share of greedy tokens that differ from those of Transformers. Raises UnsupportedError for an encoder."""
    if "greedy" not in expected:
        raise UnsupportedError(
            "It generates no text.", "It is an encoder.", "Use package_onnx in place of package_genai."
        )
    tokens, prompt = expected["greedy"], int(expected["prompt"])
    unused = min({*range(len(tokens) + 1)} - {*tokens.tolist()})  # as the text's end, which then does not come early
    made = generate(package(graph, checkpoint, out, unused), tokens[:prompt], len(tokens) - prompt)
    return {"greedy": float(np.mean(made != tokens))}
