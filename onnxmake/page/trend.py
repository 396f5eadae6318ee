"""What was measured of a target over its builds: charts, and the figures as a table."""

from collections.abc import Callable, Sequence

from onnxmake.build import results
from onnxmake.build.files import canonical_json
from onnxmake.build.measurements import Measured
from onnxmake.page import charts
from onnxmake.page.charts import Dot
from onnxmake.page.markup import Html, code, element, folded, joined, table

SPEED = {  # of a run: title, unit, factor
    "decode": ("Decode", "tokens/s", 1),
    "prefill": ("Prefill", "tokens/s", 1),
    "first_token_s": ("First token", "ms", 1e3),
}
QUALITY = {"kl": ("KL divergence", "nats"), "perplexity": ("Perplexity", ""), "cosine": ("Cosine, least", "")}
SHOWN = 40  # of a target's past, the newest


def prompt_of(past: Sequence[Measured]) -> int | None:
    """The longest prompt that all benches have, or else the longest of the last."""
    lengths = [{int(run["prompt_tokens"] or 0) for run in one.runs} for one in past if one.runs]
    shared = set.intersection(*lengths) if lengths else set()
    return max(shared or lengths[-1]) if lengths else None


def where(one: Measured) -> str:
    """What figures must share to compare: the machine, or text and settings."""
    return canonical_json(one.machine or one.on)


def machines(past: Sequence[Measured]) -> dict[str, str]:
    """Of the benches, the last one's first: what tells a machine from others -> how a person reads it."""
    return {where(one): results.machine(one.machine) for one in reversed(past) if one.machine}


def series(past: Sequence[Measured], value: Callable[[Measured], float | None]) -> dict[str, list[Dot]]:
    """Those that have the value, for each machine or text."""
    found: dict[str, list[Dot]] = {}
    before = ""
    for number, one in enumerate(past):
        if (figure := value(one)) is not None:
            said = f"{one.when[:10]}, files {one.files[:8]}: {figure:.4g}"
            found.setdefault(where(one), []).append(Dot(number, figure, said, one.files != before))
            before = one.files
    return found


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _charts(past: Sequence[Measured], prompt: int) -> list[Html]:
    values: dict[tuple[str, str], Callable[[Measured], float | None]] = {
        (title, unit): lambda one, name=name, by=factor: _scaled(one.at(prompt).get(name), by)  # type: ignore[misc]
        for name, (title, unit, factor) in SPEED.items()
    }
    values["Size", "MB"] = lambda one: one.size / 1e6 if one.machine else None
    values["Peak memory", "MB"] = lambda one: _scaled(one.peak_bytes, 1e-6)
    values |= {told: lambda one, name=name: one.metrics.get(name) for name, told in QUALITY.items()}  # type: ignore[misc]
    kinds = {key: kind for kind, key in enumerate(machines(past))}
    out = []
    for (title, unit), value in values.items():
        if found := series(past, value):
            known = kinds if kinds.keys() & found.keys() else {key: i for i, key in enumerate(reversed(found))}
            out.append(charts.over_builds(title, unit, [(known[key], dots) for key, dots in found.items()]))
    return out


def _cell(value: float | None, factor: float = 1, form: str = "#.4g") -> str:
    return "–" if value is None else f"{value * factor:{form}}".rstrip(".")


def _line(one: Measured, prompt: int, metrics: Sequence[str]) -> list[str | Html]:
    run = one.at(prompt)
    speeds = [_cell(run.get(name), factor) for name, (_, _, factor) in SPEED.items()]
    quality = [_cell(one.metrics.get(name)) for name in metrics]
    memory = _cell(one.peak_bytes, 1e-6, ".0f")
    on = results.machine(one.machine) if one.machine else f"evaluation, {str(one.on.get('text', ''))[:24]}"
    when = one.when.replace("T", " ").rstrip("Z")
    return [when, code(one.files[:8], one.files), f"{one.size / 1e6:.1f}", *speeds, memory, *quality, on]


def told(name: str, whole: Sequence[Measured]) -> Html | None:
    """Charts with their figures; nothing where nothing was measured."""
    past = whole[-SHOWN:]
    if not past:
        return None
    prompt = prompt_of(past) or 0
    heads = ["when, UTC", "files", "MB", *(f"{title}, {unit}" for title, unit, _ in SPEED.values()), "peak MB"]
    metrics = [name for name in QUALITY if any(name in one.metrics for one in past)]
    heads += [", ".join(filter(None, QUALITY[name])) for name in metrics] + ["on"]
    lines = [(None, [_line(one, prompt, metrics) for one in reversed(past)])]
    key = [
        element("li", element("span", class_=f"swatch s{i % charts.MARKS}"), " ", machine)
        for i, machine in enumerate(machines(past).values())
    ]
    at = f"Speeds at a prompt of {prompt} tokens, medians. " if prompt else ""
    note = element(
        "p", at, "Filled: new files; a ring: the same files again. Lines join figures of one machine.", class_="note"
    )
    figures = table(f"What was measured of {name}", heads, lines, range(2, len(heads) - 1))
    more = f"Figures ({len(past)} of {len(whole)})" if len(whole) > len(past) else f"Figures ({len(past)})"
    return joined(
        element("div", _charts(past, prompt), class_="charts"),
        note,
        element("ul", key, class_="key"),
        folded(more, figures),
    )
