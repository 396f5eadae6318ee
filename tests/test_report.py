"""doit report: what the page says, of records that are whole, damaged or hostile; and how a browser shows it."""

import html
import json
import re
import shutil
import subprocess
import zlib
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from test_check import bench
from test_compare import CPU, evaluated, planned

from onnxmake.build import measurements, paths, quality, reproduced, results
from onnxmake.build.plan import Plan
from onnxmake.page import charts, markup, trend
from onnxmake.page.document import STYLE
from onnxmake.page.report import report

NAME = "tiny-int4-cpu"
HOSTILE = '<script>alert("&")</script>'
BROWSER = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


class Page(HTMLParser):
    """What a page is made of. Every element is closed in its order."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in markup.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if self.open[-1:] != ["style"] else ""

    def values(self, *names: str) -> list[str]:
        return [value for name, value in self.attributes if name in names]


def made(plan: Plan) -> str:
    report(plan)
    return (paths.BUILD / "report" / "index.html").read_text("utf-8")


def release(folder: str, target: str, version: str, files=()):
    """Papers of a release, as far as the page reads them."""
    out = paths.DIST / "releases" / folder
    out.mkdir(parents=True)
    told = {"externalParameters": {"release": target, "targets": {target: ""}, "version": version}}
    subject = [{"name": name, "digest": {"sha256": sha}} for name, (sha, _) in dict(files).items()]
    paper = {"subject": subject, "predicate": {"buildDefinition": told}}
    (out / "provenance.intoto.json").write_text(json.dumps(paper))
    (out / "README.md").write_text("---\nlicense: mit\n---\n")
    return out


@pytest.fixture
def plan(delivered):
    """Four built targets: evaluated, measured over three builds on two machines, built a second time, released."""
    plan = planned(*CPU, "tiny-int4-cuda")
    for name, kl in zip(CPU, (0.0, 0.02, 0.0004)):
        evaluated(name, kl)
        bench(name, 10)
    target, files = plan.targets[NAME][0], results.delivered(plan.targets[NAME][0])["files"]
    bench(NAME, 20, cpu="another <CPU>")
    bench(NAME, 40)
    quality.note(target, "twin", quality.twin_key(target, results.delivered(target)), {"errors": [["prefill", 1e-6]]})
    steps = [
        {"pass": step["pass"], "verdict": verdict, "detail": "model.onnx", "runners": ["venv", "docker"]}
        for step, verdict in zip(
            results.delivered(target)["steps"], ("byte-equal", "byte-equal", "graph-equal", "byte-equal")
        )
    ]
    reproduced.note(target, steps, {"TZ": "UTC"})
    (release(f"{NAME}-1.0.0", NAME, "1.0.0", files) / "model.sig").write_text("")
    release("gone-2", "gone", "2")
    return plan


def test_the_page_says_what_is_known(plan, capsys):
    text = made(plan)
    assert capsys.readouterr().out.endswith("index.html: built targets 4, releases 2\n")
    page = Page(text)
    assert page.tags.count("article") == 4 and "script" not in page.tags
    for known in (
        *("rtn int4 b16 asym lm_head=int8", "graph-equal", "as built now", "signed", "not signed", "gone", "2"),
        *("perplexity rise", "met by 0.00500", "another <CPU>, 2 cores, s", "KL divergence, mean nats", "passed"),
        *("no twin of tiny-fp32-cpu was compared", "containers/cpu/requirements.lock", "model.safetensors"),
        *("block_size = 16", "Because: ", "package_genai", "Right nowhere: ", "qwen3_moe", "venv, then docker"),
    ):
        assert known in page.text, known
    sha = results.delivered(plan.targets[NAME][0])["files"]["model.onnx"][0]
    assert sha in page.text and plan.targets[NAME][1][0].checkpoint.record["folder"] not in text
    assert made(plan) == text  # the same records, the same page


def test_every_anchor_is_there_and_nothing_is_loaded(plan):
    page = Page(made(plan))
    anchors, ids = [v for v in page.values("href") if v.startswith("#")], page.values("id")
    assert {f"#target-{name}" for name in plan.targets} <= {*anchors} <= {f"#{name}" for name in ids}
    assert len(ids) == len({*ids})
    assert {v[:5] for v in page.values("href") if v[:1] != "#"} == {"data:"} and not page.values("src", "srcset")
    assert "url(" not in STYLE.read_text() and "@import" not in STYLE.read_text()
    (policy,) = [v for v in page.values("content") if "default-src" in v]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
    target = replace(
        plan.targets[NAME][0], source=replace(plan.targets[NAME][0].source, path=None, repo="o/r", revision="a" * 40)
    )
    hub = Page(made(Plan({NAME: (target, plan.targets[NAME][1])}, {})))
    assert f"https://huggingface.co/o/r/tree/{'a' * 40}" in hub.values("href") and "noreferrer" in hub.values("rel")


def test_what_comes_from_files_is_text(plan):
    target, steps = plan.targets[NAME]
    manifest = results.delivered(target)
    results.amend(target, status=HOSTILE, files=manifest["files"] | {HOSTILE: ["0" * 64, 1]})
    release("other", HOSTILE, HOSTILE)
    text = made(Plan(plan.targets | {NAME: (replace(target, description=HOSTILE), steps)}, {}))
    assert HOSTILE not in text and "script" not in Page(text).tags and Page(text).text.count(HOSTILE) >= 5
    assert markup.element("a", "<", title='"') == '<a title="&quot;">&lt;</a>'
    assert HOSTILE not in charts.over_builds(HOSTILE, HOSTILE, [(0, [charts.Dot(0, 1.0, HOSTILE, True)])])


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"files": 3}', '{"files": {"a": ["b", "c"]}}', "\xff"])
def test_a_damaged_manifest_is_named_and_left_out(plan, text, capsys):
    (paths.DIST / NAME / "manifest.json").write_text(text, "latin-1")
    page = Page(made(plan))
    assert page.tags.count("article") == 3 and f"dist/{NAME}: " in page.text and "Left out" in page.text
    assert f"left out: dist/{NAME}: " in capsys.readouterr().out


def test_other_damaged_records_are_left_out(plan):
    (paths.DIST / "releases" / "gone-2" / "provenance.intoto.json").write_text('{"predicate": []}')
    for file in [*(paths.BUILD / "bench").glob("*.json"), *(paths.BUILD / "reproduced").glob("*.json")]:
        file.write_text('{"record": [')
    for file in [*(paths.BUILD / "history").glob("*.jsonl"), *(paths.BUILD / "steps").glob("*.json")]:
        file.write_text("[]\n\n{}\n")
    page = Page(made(plan))
    assert page.tags.count("article") == 4 and "dist/releases/gone-2: " in page.text
    assert "Over its builds" not in page.text and "Latency and throughput" not in page.text
    for file in (paths.BUILD / "sources").glob("*/manifest.json"):
        file.write_text("{}")
    page = Page(made(plan))
    assert page.tags.count("article") == 0 and "is missing or damaged" in page.text and "Nothing is built" in page.text


def test_where_nothing_is_built_it_says_how_to_begin(output, built):
    page = Page(made(planned(NAME)))
    assert "Nothing is built yet" in page.text and "doit build:tiny-int4-cpu" in page.text
    assert "ERROR" in built.run("report", "tiny-int4-cpu", code=1)


def test_figures_of_different_machines_are_not_joined(plan):
    past = measurements.past(NAME)
    found = trend.series(past, lambda one: one.at(256).get("decode"))
    assert [[dot.value for dot in dots] for dots in found.values()] == [[2560.0, 10240.0], [5120.0]]
    assert [dot.new for dots in found.values() for dot in dots] == [True, False, False]
    drawn = charts.over_builds("Decode", "tokens/s", [*enumerate(found.values())])
    assert [line.count(",") for line in re.findall(r'polyline points="([^"]*)"', drawn)] == [2, 1]
    assert trend.prompt_of(past) == 256 and trend.prompt_of([]) is None and trend.told("x", []) is None


def luminance(colour: str) -> float:
    """Of #rrggbb: https://www.w3.org/TR/WCAG22/#dfn-relative-luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return sum(
        w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
        for w, c in zip((0.2126, 0.7152, 0.0722), parts)
    )


@pytest.mark.parametrize("scheme", [0, 1])
def test_text_has_contrast_in_both_schemes(scheme):
    colours = dict(
        re.findall(r"--([\w-]+): (#[0-9a-f]{6})", STYLE.read_text().split("@media (prefers")[scheme].split("* {")[0])
    )
    pairs = [(ink, ground) for ink in ("ink", "soft", "accent") for ground in ("ground", "raised")]
    for ink, ground in pairs + [(kind, f"{kind}-ground") for kind in ("good", "bad", "open")]:
        bright, dark = sorted((luminance(colours[ink]) + 0.05, luminance(colours[ground]) + 0.05), reverse=True)
        assert bright / dark >= 4.5, (ink, ground)
    for line in ("s0", "s1", "s2", "s3"):
        bright, dark = sorted((luminance(colours[line]) + 0.05, luminance(colours["ground"]) + 0.05), reverse=True)
        assert bright / dark >= 3, line


def browse(folder, *arguments: str) -> str:
    """What Chromium prints, begun anew."""
    command = ["chromium", *BROWSER, f"--user-data-dir={folder / 'profile'}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


PROBE = """<!DOCTYPE html><body><iframe srcdoc="{page}" style="width:360px;height:800px;border:0"></iframe><pre></pre><script>
const frame = document.querySelector("iframe"), out = []
frame.onload = async () => {{
  const page = frame.contentDocument
  page.addEventListener("securitypolicyviolation", e => out.push(["blocked", e.violatedDirective]))
  for (const place of {places}) {{
    if (place) frame.contentWindow.location.hash = place
    for (const fold of page.querySelectorAll("details")) fold.open = true
    await new Promise(done => setTimeout(done, 100))
    const shown = [...page.querySelectorAll("article, #overview")].filter(e => e.offsetParent).map(e => e.id)
    out.push([place, page.documentElement.scrollWidth, shown])
  }}
  const requests = frame.contentWindow.performance.getEntriesByType("resource").map(e => e.name)
  document.querySelector("pre").textContent = JSON.stringify([out, requests])
}}
</script>"""


@pytest.mark.browser
def test_on_a_phone_nothing_is_wider_than_the_screen_and_a_target_is_a_page(plan, tmp_path):
    places = ["", f"#target-{NAME}", "#target-tiny-int4-cuda", "#overview"]
    (tmp_path / "probe.html").write_text(PROBE.format(page=html.escape(made(plan)), places=json.dumps(places)))
    shown = browse(tmp_path, "--virtual-time-budget=5000", "--dump-dom", (tmp_path / "probe.html").as_uri())
    seen, requests = json.loads(html.unescape(re.findall(r"<pre>(.*?)</pre>", shown, re.DOTALL)[-1]))
    assert requests == [] and [place for place, *_ in seen] == places
    assert [width for _, width, _ in seen] == [360] * 4
    assert [ids for *_, ids in seen] == [["overview"], [f"target-{NAME}"], ["target-tiny-int4-cuda"], ["overview"]]


def pixels(file) -> tuple[tuple[int, ...], int]:
    """Of a PNG: the first pixel, to whose left and above is none, so that it stands as it is; and how many lines differ."""
    data = file.read_bytes()
    width = int.from_bytes(data[16:20])
    at, body = 8, b""
    while at < len(data):
        size, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        body += data[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
        at += size + 12
    raw = zlib.decompress(body)
    length = 1 + width * {2: 3, 6: 4}[data[25]]
    return tuple(raw[1:4]), len({raw[i : i + length] for i in range(0, len(raw), length)})


@pytest.mark.browser
def test_it_is_light_or_dark_as_the_system_is(plan, tmp_path):
    shutil.copyfile((report(plan), paths.BUILD / "report" / "index.html")[1], tmp_path / "page.html")
    corners = []
    for scheme, name in enumerate(("dark", "light")):
        file = tmp_path / f"{name}.png"
        wanted = (f"--blink-settings=preferredColorScheme={scheme}", "--window-size=900,700", f"--screenshot={file}")
        browse(tmp_path, *wanted, (tmp_path / "page.html").as_uri())
        corner, lines = pixels(file)
        assert lines > 100
        corners.append("#" + bytes(corner).hex())
    assert corners == re.findall(r"--ground: (#\w+)", STYLE.read_text())[::-1]
