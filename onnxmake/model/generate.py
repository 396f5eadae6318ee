"""Generate text with a built model through ONNX Runtime GenAI, streaming: one {"text"} line per token."""

import json
from pathlib import Path

from onnxmake.errors import UnsupportedError
from onnxmake.model.bench import GENAI, load
from onnxmake.model.serve import serve


def generate(folder: str, device: str, prompt: str, tokens: int) -> dict:
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
    generator.append_tokens(ids)
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
