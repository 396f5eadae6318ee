"""A target's own part of the page: what it is, how it was made and why, how good it is, what went in."""

from typing import Any

from onnxmake.page import chain, overview, trend
from onnxmake.page.facts import Built, Site
from onnxmake.page.markup import SHORT, Html, code, described, element, folded, joined, link, pill, short, table


def _source(built: Built) -> Html:
    source = built.target.source
    if source.path:
        return code(source.path)
    address = f"https://huggingface.co/{source.repo}/tree/{source.revision}"
    return link(address, f"{source.repo}@{str(source.revision)[:SHORT]}")


def _made(built: Built) -> Html:
    first = joined(element("strong", "checkpoint"), " ", _source(built))
    last = joined(element("strong", f"dist/{built.target.name}"), f" {built.size / 1e6:,.1f} MB")
    return chain.drawn(built.steps, first, last)


def _figure(row: Any) -> list[Any]:
    metric, value, limit, verdict = [*row, "", ""][:4]
    kind = "bad" if verdict.startswith("MISSED") else "good"
    return [metric, value, limit, pill(verdict, kind) if verdict else ""]


def _quality(built: Built) -> Html:
    rows = [_figure(row) for row in built.figures]
    on = (
        f"Against the unquantised model, on {built.counted}."
        if built.counted
        else f"doit check:{built.target.name} finds the others."
    )
    asked = table(f"Quality of {built.target.name}", ["metric", "value", "limit", ""], [(None, rows)], [1])
    lacks = element("p", built.lacking.splitlines()[0]) if built.lacking else None
    return joined(
        element("p", overview.check(built) if not built.lacking else pill("not passed", "open")),
        lacks,
        asked,
        element("p", on, class_="note"),
    )


def _again(built: Built) -> Html:
    if not built.again:
        return element("p", "Not built a second time: ", code(f"doit verify:{built.target.name}"), " does.")
    rows = [
        [
            s["pass"],
            pill(s["verdict"], "bad" if s["verdict"] == "different" else "good"),
            ", then ".join(s["runners"]),
            s["detail"],
        ]
        for s in built.again["steps"]
    ]
    heads = ["step", "second build", "in", "where it rests"]
    varied = element("p", f"Varied: {', '.join(built.again['varied'])}.", class_="note")
    return joined(table(f"{built.target.name} built a second time", heads, [(None, rows)]), varied)


def _provenance(site: Site, built: Built) -> Html:
    locks = dict.fromkeys((f"containers/{s.environment}/requirements.lock", s.lock) for s in built.steps if s.lock)
    kinds = [
        ("checkpoint", built.checkpoint.items()),
        ("locks and base image", [*locks, site.base]),
        (f"files of dist/{built.target.name}", [(name, sha) for name, (sha, _) in built.files.items()]),
    ]
    groups = [(kind, [[name, code(digest, digest)] for name, digest in found]) for kind, found in kinds]
    return table(f"What went into {built.target.name} and came out", ["name", "sha256"], groups)


def _releases(built: Built) -> Html | None:
    found = [
        [
            release.version,
            f"{release.size / 1e6:,.1f}",
            pill("signed", "good") if release.signed else pill("not signed", "open"),
            code(release.folder),
        ]
        for release in built.releases
    ]
    return (
        table(f"Releases of {built.target.name}", ["version", "size MB", "signature", "folder"], [(None, found)], [1])
        if found
        else None
    )


def sheet(site: Site, built: Built) -> Html:
    """Linked by #target-NAME."""
    target, name = built.target, built.target.name
    facts = [
        ("device", target.device),
        ("checkpoint", _source(built)),
        ("size", f"{built.size / 1e6:,.1f} MB"),
        ("files", short(built.digest)),
        ("status", built.status),
        ("architecture", built.proof),
    ]
    sections = {
        "Quality": _quality(built),
        "Over its builds": trend.told(name, built.past),
        "How it was made": _made(built),
        "Built a second time": _again(built),
        "Releases": _releases(built),
        "Provenance": folded("Digests of all that went in and came out", _provenance(site, built)),
        "Definition": folded("The target with every default", element("pre", code(built.definition))),
    }
    back = element("p", link("#overview", "← All targets"), class_="back")
    made = [element("section", element("h3", title), content) for title, content in sections.items() if content]
    head = element("h2", name), element("p", target.description, class_="lead"), described(facts)
    return element("article", back, head, made, id=f"target-{name}")
