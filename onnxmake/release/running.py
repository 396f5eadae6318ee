"""How a release is run, with the exact commands, for its card."""

from collections.abc import Sequence
from pathlib import Path

from onnxmake.release.package import GRAPH, asset, tokenizer
from onnxmake.release.part import Part

GENAI = """```
pip install onnxruntime-genai
python -c "
import onnxruntime_genai as og
{open}
tokenizer, parameters = og.Tokenizer(model), og.GeneratorParams(model)
parameters.set_search_options(max_length=128)
generator = og.Generator(model, parameters)
generator.append_tokens(tokenizer.encode('Once upon a time'))
while not generator.is_done():
    generator.generate_next_token()
print(tokenizer.decode(generator.get_sequence(0)))"
```"""
ORT = """```
pip install onnxruntime
python -c "
import onnxruntime
session = onnxruntime.InferenceSession('{file}')
print([i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()])"
```"""
OVERLAID = """config = og.Config('{folder}')
config.overlay('{{\\"model\\": {{\\"tokenizer_dir\\": \\"../{asset}\\"}}}}')
model = og.Model(config)"""  # a folder that is opened by itself cannot resolve the package's name for it
PACKAGE = """An ONNX Runtime model package: a folder for each of {variants}, which runs by itself with the runtime of its device; here `{folder}`."""
SHARED = """The tokenizer is there once. Each `genai_config.json` is the one that was checked but for `model.tokenizer_dir`, which names the
tokenizer's folder by digest, `{uri}`; a folder that is opened by itself is told where that is."""
WHOLE = """ONNX Runtime 1.31 opens the package as a whole and takes the variant of the device (`OrtApi::GetModelPackageApi`). GenAI does by
`og.Config.from_package_ep('.', '{variant}')`, in builds that know this API; the wheel of 0.18.0 looks for an earlier form of it."""


def how_to_run(parts: Sequence[Part]) -> str:
    """Of several variants, the first, and what else there is to know."""
    uri, folder = tokenizer(parts), parts[0].device if len(parts) > 1 else "."
    opened = OVERLAID.format(folder=folder, asset=asset(uri)) if uri else f"model = og.Model('{folder}')"
    file = (Path(folder) / GRAPH).as_posix()
    generates = all(part.generates for part in parts)
    run = GENAI.format(open=opened) if generates else ORT.format(file=file)
    if len(parts) == 1:
        return run
    variants = ", ".join(f"`{part.device}`" for part in parts)
    shared = [SHARED.format(uri=uri)] if uri else []
    whole = [WHOLE.format(variant=folder)] if generates else []
    return "\n\n".join([PACKAGE.format(variants=variants, folder=folder), *shared, run, *whole])
