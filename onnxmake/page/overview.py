"""What the page shows first: counts, the built targets, quality against size, speeds, releases, architectures."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxmake.build import compare, results, speed, support
from onnxmake.build.files import canonical_json
from onnxmake.build.verify import VERDICTS
from onnxmake.page import charts
from onnxmake.page.facts import Built, Site
from onnxmake.page.markup import Html, code, element, folded, joined, link, pill, table
from onnxmake.page.released import Released

NONE = "–"
FIGURES = ("bits", "size_mb", "kl", "top1", "cosine", "prefill", "decode")  # columns of `doit compare`
BEGIN = (
    ("doit build:tiny-int4-cpu", "builds the model that comes along, in seconds"),
    ("doit list", "shows the targets"),
)


def named(name: str) -> Html:
    return link(f"#target-{name}", name)


def check(built: Built) -> Html:
    """Passed, or what it lacks."""
    if not built.lacking:
        return pill("passed", "good")
    lacks = (
        built.lacking.splitlines()[0]
        .removeprefix(f"{built.target.name} ")
        .removesuffix(f": doit check:{built.target.name}")
    )
    return joined(pill("not passed", "open"), element("small", lacks))


def again(built: Built) -> Html:
    """The worst verdict of a second build's steps."""
    verdicts = [step["verdict"] for step in built.again["steps"]] if built.again else []
    worst = max(verdicts, key=VERDICTS.index, default=NONE)
    return pill(worst, "bad" if worst == VERDICTS[-1] else "good") if verdicts else joined(NONE)


def _tile(number: Any, word: str) -> Html:
    return element("li", element("strong", number), " ", word)


def counts(site: Site) -> Html:
    built = site.built.values()
    tiles = [
        _tile(len(built), "built" if len(built) == 1 else "targets built"),
        _tile(sum(not one.lacking for one in built), "passed their check"),
        _tile(sum(bool(one.again) for one in built), "built a second time"),
        _tile(sum(one.bench is not None for one in built), "measured"),
        _tile(len(site.releases), "release" if len(site.releases) == 1 else "releases"),
    ]
    return element("ul", tiles, class_="tiles")


def _targets(site: Site) -> Html:
    groups: list[tuple[Any, list]] = []
    shown = [c for c in FIGURES if any(c in row.values for rows in site.models.values() for row in rows)]
    for model, rows in site.models.items():
        lines = []
        for row in rows:
            one = site.built[row.target]
            figures = [compare.COLUMNS[c][1].format(row.values[c]) if c in row.values else NONE for c in shown]
            versions = ", ".join(release.version for release in one.releases) or NONE
            lines.append([named(row.target), row.device, row.method, *figures, check(one), again(one), versions])
        groups.append((model, lines))
    heads = ["target", "device", "method", *(compare.COLUMNS[c][0] for c in shown), "check", "built again", "releases"]
    note = element("p", "–: not measured as it is built, or not like the others of its model.", class_="note")
    return joined(table("Built targets", heads, groups, range(3, 3 + len(shown))), note)


def _quality(site: Site) -> Html | None:
    plots = {model: compare.points(rows) for model, rows in site.models.items()}
    drawn = [
        element("div", element("h3", model) if len(plots) > 1 else None, charts.quality(model, points))
        for model, points in plots.items()
        if points
    ]
    what = "How far each is from its unquantised model, and how large: down and to the left is better."
    return element("section", element("h2", "Quality against size"), element("p", what), drawn) if drawn else None


def _speeds(found: Mapping[str, Mapping[str, Any]]) -> Html:
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
        [named(name), runs[name]["prompt_tokens"]]
        + [charts.bar(v / top if top else 0, form.format(v)) if v else NONE for v, top, form in zip(line, most, forms)]
        for name, line in values.items()
    ]
    result = next(iter(found.values()))
    heads = ["target", "prompt", "decode tok/s", "prefill tok/s", "first token ms", "load s", "peak MB"]
    return table(f"{result['device']}: {results.machine(result['machine'])}", heads, [(None, lines)], range(1, 7))


def _speed(site: Site) -> Html | None:
    places: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, one in site.built.items():
        if one.bench:
            places.setdefault(canonical_json([one.bench["device"], one.bench["machine"]]), {})[name] = one.bench
    what = "Medians, of a machine each. What was measured of earlier builds is with each target."
    made = [_speeds(found) for found in places.values()]
    return element("section", element("h2", "Latency and throughput"), element("p", what), made) if made else None


def _release(site: Site, release: Released) -> list[Any]:
    one = site.built.get(release.target)
    same = one and dict(release.files) == {name: sha for name, (sha, _) in one.files.items()}
    now = pill("as built now", "good") if same else pill("of another build") if one else NONE
    signed = pill("signed", "good") if release.signed else pill("not signed", "open")
    name = named(release.target) if one else release.target
    return [
        code(release.folder),
        name,
        release.version,
        f"{release.size / 1e6:,.1f}",
        release.licence or NONE,
        signed,
        now,
    ]


def _releases(site: Site) -> Html | None:
    heads = ["folder in dist/releases", "target", "version", "size MB", "licence", "signature", "files"]
    lines = [_release(site, release) for release in site.releases]
    return (
        element("section", element("h2", "Releases"), table("Releases", heads, [(None, lines)], [3])) if lines else None
    )


def _architectures(rows: Mapping[str, support.Row]) -> Iterator[Html]:
    right = {name: sum(support.is_proven(name, device, rows) for device in support.DEVICES) for name in rows}
    groups = {
        "Right in every column": [name for name in rows if right[name] == len(support.DEVICES)],
        "Right in some": [name for name in rows if 0 < right[name] < len(support.DEVICES)],
        "Right nowhere": [name for name in rows if not right[name]],
    }
    for title, names in groups.items():
        lines = [
            [name, *map(_verdict, rows[name].verdicts), _why(rows[name].verdicts), rows[name].date] for name in names
        ]
        heads = ["architecture", *support.DEVICES, "why not", "date"]
        yield folded(f"{title}: {len(names)}", table(title, heads, [(None, lines)]))


def _verdict(verdict: str) -> Html:
    word, _, rest = verdict.partition(" ")
    return (
        pill(f"✓ {rest}", "good") if word == "right" else pill(word.rstrip(":"), "bad" if word == "WRONG" else "open")
    )


def _why(verdicts: Sequence[str]) -> Html:
    reasons = dict.fromkeys(v.partition(": ")[2] for v in verdicts if not v.startswith(("right", "WRONG")))
    return element("span", "; ".join(filter(None, reasons)), class_="why")


def _support(site: Site) -> Html | None:
    rows = site.architectures
    if not rows:
        return None
    totals = [
        [device, charts.bar(n / len(rows), f"{n} of {len(rows)}")]
        for device in support.DEVICES
        for n in [sum(support.is_proven(name, device, rows) for name in rows)]
    ]
    what = "A small twin of each with random weights, compared with Transformers. A number is the largest difference of its outputs."
    title, summed = (
        element("h2", "Architectures"),
        table("Architectures proven right", ["column", "right"], [(None, totals)], [1]),
    )
    return element("section", title, element("p", what), summed, [*_architectures(rows)])


def _nothing() -> Html:
    how = [element("div", element("dt", code(command)), element("dd", does)) for command, does in BEGIN]
    return element("section", element("h2", "Nothing is built yet"), element("p", "To begin:"), element("dl", how))


def overview(site: Site) -> Html:
    lost = [element("li", one) for one in site.damaged]
    said = element("section", element("h2", "Left out, as it cannot be read"), element("ul", lost)) if lost else None
    built = element("section", element("h2", "Targets"), _targets(site)) if site.built else _nothing()
    parts = [counts(site), said, built, _quality(site), _speed(site), _releases(site), _support(site)]
    return element("div", parts, id="overview")
