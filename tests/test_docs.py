"""README and docs: links lead somewhere, and every pass, option and command is told of."""

import re
import tomllib
from dataclasses import fields

import pytest

from onnxmake.build import paths
from onnxmake.build.declaration import declaration, pass_names
from onnxmake.build.gates import Check

PAGES = {
    page.relative_to(paths.ROOT).as_posix(): page for page in (paths.ROOT / "README.md", *paths.ROOT.glob("docs/*.md"))
}
LINK = re.compile(r"\]\(([^)\s]+)\)")


def headings(text: str) -> set[str]:
    """Anchors, as GitHub makes them of headings."""
    found = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings_that_are_there(page):
    file = PAGES[page]
    for link in LINK.findall(re.sub(r"```.*?```", "", file.read_text("utf-8"), flags=re.DOTALL)):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        to = file.parent / name if name else file
        assert to.exists(), f"{page}: {link}"
        assert not anchor or anchor in headings(to.read_text("utf-8")), f"{page}: {link}"


@pytest.mark.parametrize("name", pass_names())
def test_every_pass_is_told_of_with_its_options(name):
    text = (paths.ROOT / "docs" / "passes.md").read_text("utf-8")
    assert f"`{name}`" in text
    untold = [f.name for f in fields(declaration(name).options) if not re.search(rf"\b{f.name}\b", text)]
    assert not untold


def test_every_key_of_check_is_told_of():
    text = (paths.ROOT / "docs" / "passes.md").read_text("utf-8")
    assert not [f.name for f in fields(Check) if f"`{f.name}`" not in text and f"{f.name} " not in text]


def test_every_command_is_told_of():
    commands = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["tool"]["doit"]["plugins"]["command"]
    tasks = re.findall(r"^def task_([a-z]\w*)", (paths.ROOT / "dodo.py").read_text(), re.MULTILINE)
    text = PAGES["README.md"].read_text("utf-8")
    assert not [name for name in (*commands, *tasks) if not re.search(rf"`doit {name}\b", text)]
