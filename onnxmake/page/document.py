"""The page as a whole: one file that loads nothing, which its policy makes sure of."""

from pathlib import Path

from onnxmake.page.facts import Site
from onnxmake.page.markup import Html, element, link
from onnxmake.page.overview import overview
from onnxmake.page.sheet import sheet

STYLE = Path(__file__).with_name("style.css")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
ICON = (  # so that no browser asks a server for one
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Crect width='16' height='16' rx='4' fill='%230f6b5c'/%3E"
    "%3Cpath d='M4 11V8a4 4 0 0 1 8 0v3' fill='none' stroke='white' stroke-width='2'/%3E%3C/svg%3E"
)


def document(site: Site) -> str:
    """HTML without a script. It names no time of its own: the same records give the same page."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("link", rel="icon", href=ICON),
        element("title", "onnxmake: what is built"),
        element("style", Html(STYLE.read_text("utf-8"))),
    )
    top = element("header", element("p", link("#overview", "onnxmake"), class_="brand"), element("h1", "What is built"))
    foot = element("footer", element("p", f"Written by doit report, onnxmake {site.version}, from records of builds."))
    main = element("main", overview(site), [sheet(site, built) for built in site.built.values()])
    page = element("html", head, element("body", top, main, foot), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"
