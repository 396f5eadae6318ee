"""What the page shows first: counts, the built targets, quality against size, speeds, releases, architectures."""

from typing import Any

from onnxmake.build import compare, reproduced
from onnxmake.page import architectures, charts, speeds
from onnxmake.page.facts import Built, Site
from onnxmake.page.markup import BLANK, Html, code, element, joined, linked, pill, table, tiles
from onnxmake.page.released import Released, is_of

FIGURES = ("bits", "size_mb", "kl", "top1", "cosine", "prefill", "decode")  # columns of `doit compare`
BEGIN = (
    ("doit build:tiny-int4-cpu", "builds the model that comes along, in seconds"),
    ("doit list", "shows the targets"),
)


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
    worst = reproduced.worst(built.again)
    return pill(worst, "bad" if worst == reproduced.VERDICTS[-1] else "good") if worst else joined(BLANK)


def counts(site: Site) -> Html:
    built = site.built.values()
    return tiles(
        [
            (len(built), "target built" if len(built) == 1 else "targets built"),
            (sum(not one.lacking for one in built), "passed their check"),
            (sum(bool(one.again) for one in built), "built a second time"),
            (sum(one.bench is not None for one in built), "measured"),
            (len(site.releases), "release" if len(site.releases) == 1 else "releases"),
        ]
    )


def _targets(site: Site) -> Html:
    groups: list[tuple[Any, list]] = []
    shown = [c for c in FIGURES if any(c in row.values for rows in site.models.values() for row in rows)]
    for model, rows in site.models.items():
        lines = []
        for row in rows:
            one = site.built[row.target]
            figures = [compare.COLUMNS[c][1].format(row.values[c]) if c in row.values else BLANK for c in shown]
            versions = ", ".join(release.version for release in one.releases) or BLANK
            name = joined(linked(row.target), element("small", row.method))
            lines.append([name, row.device, *figures, check(one), again(one), versions])
        groups.append((model, lines))
    heads = ["target", "device", *(compare.COLUMNS[c][0] for c in shown), "check", "built again", "releases"]
    note = element("p", "–: not measured as it is built, or not like the others of its model.", class_="note")
    return joined(table("Built targets", heads, groups, range(2, 2 + len(shown))), note)


def _quality(site: Site) -> Html | None:
    plots = {model: compare.points(rows) for model, rows in site.models.items()}
    drawn = [
        element("div", element("h3", model) if len(plots) > 1 else None, charts.quality(model, points))
        for model, points in plots.items()
        if points
    ]
    what = "How far each is from its unquantised model, and how large: down and to the left is better."
    return element("section", element("h2", "Quality against size"), element("p", what), drawn) if drawn else None


def _release(site: Site, release: Released) -> list[Any]:
    built = {name: site.built[name].files for name in release.targets if name in site.built}
    same = len(built) == len(release.targets) and all(is_of(release, *one) for one in built.items())
    now = pill("as built now", "good") if same else pill("of another build") if built else BLANK
    signed = pill("signed", "good") if release.signed else pill("not signed", "open")
    names = [linked(name) if name in built else name for name in release.targets]
    return [
        joined(*[part for name in names for part in (", ", name)][1:]),
        release.version,
        f"{release.size / 1e6:,.1f}",
        release.licence or BLANK,
        signed,
        now,
        code(release.folder),
    ]


def _releases(site: Site) -> Html | None:
    heads = ["targets", "version", "size MB", "licence", "signature", "files", "folder"]
    lines = [_release(site, release) for release in site.releases]
    return (
        element("section", element("h2", "Releases"), table("Releases", heads, [(None, lines)], [2])) if lines else None
    )


def _nothing() -> Html:
    how = [element("div", element("dt", code(command)), element("dd", does)) for command, does in BEGIN]
    return element("section", element("h2", "Nothing is built yet"), element("p", "To begin:"), element("dl", how))


def overview(site: Site) -> Html:
    lost = [element("li", one) for one in site.damaged]
    said = element("section", element("h2", "Left out, as it cannot be read"), element("ul", lost)) if lost else None
    built = element("section", element("h2", "Targets"), _targets(site)) if site.built else _nothing()
    parts = [
        counts(site),
        said,
        built,
        _quality(site),
        speeds.told(site),
        _releases(site),
        architectures.told(site.architectures),
    ]
    return element("div", parts, id="overview")
