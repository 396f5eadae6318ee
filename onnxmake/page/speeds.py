"""Latency and throughput of what is built, as it was measured last."""

from collections.abc import Mapping
from typing import Any

from onnxmake.build import results, speed
from onnxmake.build.files import canonical_json
from onnxmake.page import charts
from onnxmake.page.facts import Site
from onnxmake.page.markup import BLANK, Html, element, linked, table


def _table(found: Mapping[str, Mapping[str, Any]]) -> Html:
    """Of one device on one machine, at a prompt that all have, or else each at its longest."""
    shared = speed.shared_prompt([*found.values()])
    runs = {n: speed.at(r, shared or max(run["prompt_tokens"] for run in r["runs"])) for n, r in found.items()}
    values = {
        name: [
            run["decode"] and run["decode"]["p50"],
            run["prefill"]["p50"],
            run["first_token_s"]["p50"] * 1e3,
            found[name]["load_s"],
            found[name]["peak_bytes"] / 1e6,
        ]
        for name, run in runs.items()
    }
    most = [max((v or 0 for v in column), default=0) for column in zip(*values.values())]
    forms = ("{:,.1f}", "{:,.0f}", "{:,.1f}", "{:.2f}", "{:,.0f}")
    lines = [
        [linked(name), runs[name]["prompt_tokens"]]
        + [charts.bar(v / top if top else 0, form.format(v)) if v else BLANK for v, top, form in zip(line, most, forms)]
        for name, line in values.items()
    ]
    result = next(iter(found.values()))
    heads = ["target", "prompt", "decode tok/s", "prefill tok/s", "first token ms", "load s", "peak MB"]
    return table(
        f"{result['device']}: {results.machine(result['machine'])}", heads, [(None, lines)], range(1, 7), "seen"
    )


def told(site: Site) -> Html | None:
    """A table for each machine; nothing where nothing was measured."""
    places: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, one in site.built.items():
        if one.bench:
            places.setdefault(canonical_json([one.bench["device"], one.bench["machine"]]), {})[name] = one.bench
    what = "Medians, of a machine each. What was measured of earlier builds is with each target."
    made = [_table(found) for found in places.values()]
    return element("section", element("h2", "Latency and throughput"), element("p", what), made) if made else None
