"""The model card, README.md with the hub's front matter: what it is, how to run it, how it was made, what quality it keeps."""

import json
from collections.abc import Iterator
from typing import Any

from onnxmake.build import gates, quality
from onnxmake.release import sums
from onnxmake.release.facts import Facts, tool_version
from onnxmake.release.part import Part
from onnxmake.release.running import how_to_run

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
        passes = {step["pass"] for part in facts.parts for step in part.steps}
        if passes & {*quality.TUNING}:
            yield "base_model_relation: finetune"
        elif any(name.startswith("quantize_") or name == "repack" for name in passes):
            yield "base_model_relation: quantized"
    yield "library_name: onnx"
    yield f"pipeline_tag: {facts.task}"
    tags = ["onnx", "onnxruntime-genai" if facts.generates else "onnxruntime", *(p.device for p in facts.parts)]
    yield f"tags: {_yaml(tags)}"
    yield "---"


def _cell(value: Any) -> str:
    """Text that stays within its cell."""
    return str(value).replace("|", "\\|").replace("\n", " ")


def _table(heads: list[str], rows: list[list[Any]]) -> str:
    from tabulate import tabulate

    return tabulate([[_cell(cell) for cell in row] for row in rows], heads, tablefmt="github", disable_numparse=True)


def _made(part: Part) -> str:
    rows = [
        [
            step["pass"],
            step["environment"]["name"],
            ", ".join(f"{k} = {json.dumps(v)}" for k, v in sorted(step["options"].items())),
            step["key"][:12],
        ]
        for step in part.steps
    ]
    return _table(["pass", "environment", "options", "key"], rows)


def _counted(part: Part) -> str:
    return f"Against the unquantised model, on {part.quality['counted']:,} {part.quality['of']}."


def _quality(part: Part) -> str:
    if not part.quality:
        return "It was not evaluated: its passes leave nothing that could be."
    limits = {gates.metric_of(gate): f"{gate} = {limit:g}" for gate, limit in part.gates.items()}
    rows = [
        [label, form.format(part.quality["metrics"][name]), limits.get(name, "")]
        for name, (label, form) in gates.METRICS.items()
        if name in part.quality["metrics"]
    ]
    return _table(["metric", "value", "limit"], rows) + f"\n\n{_counted(part)}"


def _variants(facts: Facts) -> Iterator[str]:
    """One table over all, where there are several."""
    if len(facts.parts) == 1:
        return
    found = [(part, (part.quality or {"metrics": {}})["metrics"]) for part in facts.parts]
    shown = [name for name in gates.METRICS if any(name in metrics for _, metrics in found)]
    rows = [
        [
            part.device,
            part.name,
            f"{part.size / 1e6:,.2f}",
            *(gates.METRICS[name][1].format(metrics[name]) if name in metrics else "" for name in shown),
            ", ".join(f"{gate} = {limit:g}" for gate, limit in part.gates.items()),
        ]
        for part, metrics in found
    ]
    yield f"\n## Variants\n\n{_table(['device', 'target', 'MB', *(gates.METRICS[name][0] for name in shown), 'gates kept'], rows)}"


def _about(part: Part, level: str) -> Iterator[str]:
    """How a target was made, and what of it was found."""
    yield f"\n{level} How it was made\n\n{_made(part)}"
    yield f"\n```toml\n{part.definition.rstrip()}\n```"
    yield f"\n{level} Quality\n\n{_quality(part)}"
    if part.again:
        told = ", ".join(f"{name} {verdict}" for name, verdict in part.again.items())
        yield f"\n{level} Built a second time\n\nElsewhere, without the store, its surroundings varied (`doit verify:{part.name}`): {told}."


def _abouts(facts: Facts) -> Iterator[str]:
    if len(facts.parts) == 1:
        yield from _about(facts.parts[0], "##")
        return
    for part in facts.parts:
        yield f"\n## {part.name}\n\n{part.description}"
        yield from _about(part, "###")


def card(facts: Facts) -> str:
    size = sum(file.size for file in facts.files.values()) / 1e6
    origin = (
        f"[{facts.source}](https://huggingface.co/{facts.repo}/tree/{facts.revision})" if facts.repo else facts.source
    )
    devices = ", ".join(part.device for part in facts.parts)
    return "\n".join(
        [
            *_front(facts),
            f"\n# {facts.name} {facts.version}\n\n{facts.description}\n",
            f"Made of {origin} by onnxmake {tool_version()} for {devices}; {size:,.1f} MB.",
            *_variants(facts),
            f"\n## Run\n\n{how_to_run(facts.parts)}",
            *_abouts(facts),
            f"\n## Verify\n\n{VERIFY}\n",
            "`bom.cdx.json` is a CycloneDX bill of materials, `provenance.intoto.json` SLSA provenance: the checkpoint's files, locks and"
            " steps. Where `model.sig` is there, the folder is signed: "
            "`python -m model_signing verify key . --signature model.sig --public_key KEY`.",
            "",
        ]
    )
