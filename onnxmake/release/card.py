"""The model card, README.md with the hub's front matter: what it is, how to run it, how it was made, what quality it keeps."""

import json
from collections.abc import Iterator
from typing import Any

from onnxmake.build import gates
from onnxmake.release import sums
from onnxmake.release.facts import Facts, tool_version

RUN = {
    True: """```
pip install onnxruntime-genai
python -c "
import onnxruntime_genai as og
model = og.Model('.')
tokenizer, parameters = og.Tokenizer(model), og.GeneratorParams(model)
parameters.set_search_options(max_length=128)
generator = og.Generator(model, parameters)
generator.append_tokens(tokenizer.encode('Once upon a time'))
while not generator.is_done():
    generator.generate_next_token()
print(tokenizer.decode(generator.get_sequence(0)))"
```""",
    False: """```
pip install onnxruntime
python -c "
import onnxruntime
session = onnxruntime.InferenceSession('model.onnx')
print([i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()])"
```""",
}
VERIFY = f"""```
sha256sum --check --strict {sums.FILE}
python -m onnxmake verify .
```"""


def _yaml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)  # of strings and lists of them, JSON's form is YAML's


def _front(facts: Facts) -> Iterator[str]:
    yield "---"
    yield from (f"{key}: {_yaml(value)}" for key, value in facts.licence.items())
    if facts.repo:
        yield f"base_model: {_yaml(facts.repo)}"
        if any(step["pass"].startswith("quantize_") or step["pass"] == "repack" for step in facts.steps):
            yield "base_model_relation: quantized"
    yield "library_name: onnx"
    yield f"pipeline_tag: {facts.task}"
    tags = ["onnx", "onnxruntime-genai" if facts.generates else "onnxruntime", facts.device]
    yield f"tags: {_yaml(tags)}"
    yield "---"


def _cell(value: Any) -> str:
    """Text that stays within its cell."""
    return str(value).replace("|", "\\|").replace("\n", " ")


def _table(heads: list[str], rows: list[list[Any]]) -> str:
    from tabulate import tabulate

    return tabulate([[_cell(cell) for cell in row] for row in rows], heads, tablefmt="github", disable_numparse=True)


def _made(facts: Facts) -> str:
    rows = [
        [
            step["pass"],
            step["environment"]["name"],
            ", ".join(f"{k} = {json.dumps(v)}" for k, v in sorted(step["options"].items())),
            step["key"][:12],
        ]
        for step in facts.steps
    ]
    return _table(["pass", "environment", "options", "key"], rows)


def _quality(facts: Facts) -> str:
    if not facts.quality:
        return "It was not evaluated: its passes leave nothing that could be."
    limits = {gates.metric_of(gate): f"{gate} = {limit:g}" for gate, limit in facts.gates.items()}
    rows = [
        [label, form.format(facts.quality["metrics"][name]), limits.get(name, "")]
        for name, (label, form) in gates.METRICS.items()
        if name in facts.quality["metrics"]
    ]
    counted = f"{facts.quality['counted']:,} {facts.quality['of']}"
    return _table(["metric", "value", "limit"], rows) + f"\n\nAgainst the unquantised model, on {counted}."


def _again(facts: Facts) -> Iterator[str]:
    if facts.again:
        told = ", ".join(f"{name} {verdict}" for name, verdict in facts.again.items())
        yield f"\n## Built a second time\n\nElsewhere, without the store, its surroundings varied (`doit verify:{facts.name}`): {told}."


def card(facts: Facts) -> str:
    size = sum(size for _, size in facts.files.values()) / 1e6
    origin = (
        f"[{facts.source}](https://huggingface.co/{facts.repo}/tree/{facts.revision})" if facts.repo else facts.source
    )
    return "\n".join(
        [
            *_front(facts),
            f"\n# {facts.name} {facts.version}\n\n{facts.description}\n",
            f"Made of {origin} by onnxmake {tool_version()} for {facts.device}; {size:,.1f} MB.",
            f"\n## Run\n\n{RUN[facts.generates]}",
            f"\n## How it was made\n\n{_made(facts)}",
            f"\n```toml\n{facts.definition.rstrip()}\n```",
            f"\n## Quality\n\n{_quality(facts)}",
            *_again(facts),
            f"\n## Verify\n\n{VERIFY}\n",
            "`bom.cdx.json` is a CycloneDX bill of materials, `provenance.intoto.json` SLSA provenance: the checkpoint's files, locks and"
            " steps. Where `model.sig` is there, the folder is signed: "
            "`python -m model_signing verify key . --signature model.sig --public_key KEY`.",
            "",
        ]
    )
