"""Generate text with a built model through ONNX Runtime GenAI, streaming: one {"text"} line per token."""

import json
from pathlib import Path
from typing import Any

from onnxmake.errors import TargetError, UnsupportedError
from onnxmake.model.bench import GENAI, load
from onnxmake.model.nearest import nearest
from onnxmake.model.serve import serve


def _activate(model: Any, generator: Any, folder: Path, name: str) -> None:
    """Let an adapter beside the model take part. Raises TargetError where there is none of that name."""
    import onnxruntime_genai as og

    file = folder / f"{name}.onnx_adapter"
    if not file.exists():
        raise TargetError(
            f"{folder.name} has no adapter {name!r}.",
            "attach_adapters puts them beside the model.",
            nearest(name, [found.stem for found in folder.glob("*.onnx_adapter")]),
        )
    adapters = og.Adapters(model)
    adapters.load(str(file), name)
    generator.set_active_adapter(adapters, name)


def _read(generator: Any, ids: Any) -> None:
    """The prompt, in one go. Raises UnsupportedError where the model takes no text of that length."""
    try:
        generator.append_tokens(ids)
    except Exception as error:  # GenAI's own class has no public name
        if "invalid dimensions" not in str(error):
            raise
        raise UnsupportedError(
            f"The model takes no prompt of {len(ids)} tokens.",
            "fix_shapes gave it sizes that generation does not have.",
            "Generate with a target whose sizes are free; ONNX Runtime runs this one by itself.",
        ) from None


def generate(folder: str, device: str, prompt: str, tokens: int, adapter: str = "") -> dict:
    if not Path(folder, GENAI).exists():
        raise UnsupportedError(
            "The model generates no text.",
            "It is an encoder, laid out by package_onnx.",
            "doit bench measures it; ONNX Runtime runs model.onnx.",
        )
    model = load(folder, device)
    import onnxruntime_genai as og

    tokenizer = og.Tokenizer(model)
    ids = tokenizer.encode(prompt)
    if not len(ids):
        raise UnsupportedError(
            "The prompt is empty.", "-p was not given.", 'Give a prompt: doit try:NAME -p "some text".'
        )
    params = og.GeneratorParams(model)
    params.set_search_options(
        max_length=min(len(ids) + tokens, json.loads(Path(folder, GENAI).read_text())["model"]["context_length"])
    )
    generator = og.Generator(model, params)
    if adapter:
        _activate(model, generator, Path(folder), adapter)
    _read(generator, ids)
    stream, text = tokenizer.create_stream(), ""
    print(json.dumps({"text": prompt}), flush=True)
    while not generator.is_done():
        generator.generate_next_token()
        piece = stream.decode(generator.get_next_tokens()[0])
        text += piece
        print(json.dumps({"text": piece}), flush=True)
    return {"text": text}


if __name__ == "__main__":
    serve(lambda action: generate(**action))
