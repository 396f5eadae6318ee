"""Workflows: what they may do, and that every shell line of theirs runs here as it would there.

release.yml and bench.yml are run job by job, in the order of the file, with a stand-in for `gh` that keeps pages in a folder.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_release import FILES, NAME, PAPERS, checked, target  # noqa: F401  fixtures

from onnxmake.build import environment, paths, process
from onnxmake.release import received, sums

WORKFLOWS = {file.stem: file for file in sorted((paths.ROOT / ".github" / "workflows").glob("*.yml"))}
INSTALLS = "pip install -e "
TASKS = ("doit", ".ci/", "ruff check", "sudo -E env", "echo ", "cat build/")  # how every other line begins
WRITES = {("release", "page"): {"contents", "id-token", "attestations"}}
GH = f"""#!{sys.executable}
import json, os, pathlib, shutil, sys
pages, (kind, verb, *rest) = pathlib.Path(os.environ["PAGES"]), sys.argv[1:]
assert kind == "release" and os.environ["GH_TOKEN"] == "a token" and os.environ["GH_REPO"] == "a/b"
if verb == "list":
    tags = sorted(pages.iterdir(), key=os.path.getmtime, reverse=True)
    print("\\n".join(p.name for p in tags))
elif verb == "download":
    tag, _, folder, *patterns = rest
    os.makedirs(folder)
    for name in patterns[1::2]:
        if (pages / tag / name).exists():
            shutil.copy(pages / tag / name, folder)
elif verb == "create":
    tag, *files = rest
    files = files[: files.index("--title")]
    os.makedirs(pages / tag)
    for file in files:
        shutil.copy(file, pages / tag)
    (pages / tag / "notes").write_text(sys.stdin.read())
    (pages / tag / "arguments").write_text(json.dumps(rest))
else:
    sys.exit(verb)
"""


def read(name: str) -> dict:
    made = yaml.safe_load(WORKFLOWS[name].read_text())
    return {("on" if key is True else key): value for key, value in made.items()}  # YAML 1.1 takes `on` for true


def steps(name: str):
    for job, made in read(name)["jobs"].items():
        for step in made["steps"]:
            yield job, step


def lines(name: str) -> list[str]:
    return [line for _, step in steps(name) for line in step.get("run", "").splitlines()]


def test_the_auditor_finds_nothing():
    command = [
        Path(sys.executable).with_name("zizmor"),
        "--offline",
        "--strict-collection",
        "--no-progress",
        *WORKFLOWS.values(),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_pinned_by_commit_with_their_version_and_leave_no_token_behind(name):
    used = [line for line in WORKFLOWS[name].read_text().splitlines() if "uses:" in line]
    assert used and all(re.fullmatch(r" +- uses: [\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line) for line in used)
    for _, step in steps(name):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"] == {"persist-credentials": False}


def test_one_commit_for_one_version_everywhere():
    pins = {
        re.search(r"uses: (\S+@\S+ # \S+)", s)[1]
        for f in WORKFLOWS.values()
        for s in f.read_text().splitlines()
        if "uses:" in s
    }
    assert len(pins) == len({pin.split("@")[0] for pin in pins})


@pytest.mark.parametrize("name", WORKFLOWS)
def test_permissions_are_to_read_but_where_pages_are_written(name):
    made = read(name)
    assert made["permissions"] == {"contents": "read"}
    for job, of in made["jobs"].items():
        written = {right for right, how in of.get("permissions", {}).items() if how == "write"}
        assert written == WRITES.get((name, job), set()), job


@pytest.mark.parametrize("name", WORKFLOWS)
def test_secrets_reach_the_step_that_sends_and_no_shell_line_holds_an_expression(name):
    made = read(name)
    assert "secrets." not in json.dumps([made.get("env"), *(job.get("env") for job in made["jobs"].values())])
    holders = [step["run"] for _, step in steps(name) if "secrets." in json.dumps(step)]
    assert holders == (['doit "publish:$TARGET" go=yes'] if name == "release" else [])
    assert not [
        line for line in lines(name) if "${{" in line
    ]  # values come by the environment: nobody's text is a command


def test_what_may_write_pages_runs_no_code_of_packages():
    for _, step in [(job, step) for job, step in steps("release") if job == "page" and "run" in step]:
        assert step["run"].startswith(".ci/page ")


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_shell_line_is_a_task_that_runs_here_too(name):
    assert lines(name)
    for line in lines(name):
        assert line.startswith((INSTALLS, *TASKS)), line
        for script in re.findall(r"(?<!\S)\.ci/\w+", line):
            assert os.access(paths.ROOT / script, os.X_OK)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_stores_of_workflows_are_apart(name):
    """What a pull request's run, or the nightly one, has put into its store is not what a release is made from."""
    for _, step in steps(name):
        if step.get("uses", "").startswith("actions/cache@"):
            prefix = {"ci": "store-", "bench": "bench-store-", "release": "release-store-"}[name]
            keys = [step["with"]["key"], *step["with"]["restore-keys"].splitlines()]
            assert all(key.startswith(prefix) for key in keys)


class Runner:
    """Runs a workflow's shell lines as GitHub's runner does, in the checkout, with what `context` says of its expressions."""

    def __init__(self, folder: Path, output: Path, **context: str):
        self.folder, self.output, self.ran = folder, output, []
        self.context = {
            "github.workspace": str(folder),
            "github.token": "a token",
            "github.repository": "a/b",
            "runner.temp": str(folder / "temp"),
        } | context
        for name in ("bin", "temp", "pages"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "bin" / "gh").write_text(GH)
        (folder / "bin" / "gh").chmod(0o755)

    def value(self, expression: str) -> str:
        first, _, default = (part.strip() for part in expression.partition("||"))
        return self.context.get(first, "") or default.strip("'")

    def filled(self, text) -> str:
        return re.sub(r"\$\{\{ (.+?) \}\}", lambda found: self.value(found[1]), str(text))

    def wanted(self, step: dict) -> bool:
        condition = re.fullmatch(r"(vars\.\w+) (==|!=) ''", step.get("if", ""))
        return condition is None or (self.value(condition[1]) == "") is (condition[2] == "==")

    def job(self, name: str, job: str) -> None:
        """Every line must end well."""
        made = read(name)
        for step in filter(self.wanted, made["jobs"][job]["steps"]):
            if "run" not in step or step["run"].startswith(INSTALLS):  # this is the checkout, and it is installed
                continue
            told = {**made.get("env", {}), **made["jobs"][job].get("env", {}), **step.get("env", {})}
            environ = os.environ | {key: self.filled(value) for key, value in told.items()}
            environ |= {
                "ONNXMAKE_OUTPUT": str(self.output),
                "ONNXMAKE_CACHE": str(paths.CACHE),
                "ONNXMAKE_RUNNER": "venv",
                "RUNNER_TEMP": str(self.folder / "temp"),
                "PAGES": str(self.folder / "pages"),
                "GITHUB_SHA": "c" * 40,
                "PATH": os.pathsep.join(
                    [str(self.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
                ),
                "GITHUB_OUTPUT": str(self.folder / "output"),
                "GITHUB_STEP_SUMMARY": str(self.folder / "summary"),
            }
            done = subprocess.run(
                ["bash", "-e", "-c", step["run"]], cwd=paths.ROOT, env=environ, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{step['run']}\n{done.stdout}{done.stderr}"
            self.ran += step["run"].splitlines()

    def said(self, name: str) -> str:
        """What was written to GITHUB_OUTPUT or GITHUB_STEP_SUMMARY since the last time, to be handed on."""
        text = (self.folder / name).read_text()
        (self.folder / name).unlink()
        return text


@pytest.fixture
def own_store(checked, monkeypatch):  # noqa: F811
    """The checked target with a store of the test's own, as its lines collect garbage; the user's is read only."""
    shared = {name: (paths.CACHE / name).resolve() for name in ("envs", "numba", "store")}
    monkeypatch.setenv("ONNXMAKE_STORES", str(shared["store"]))
    for name in shared:
        (paths.CACHE / name).unlink()
        (paths.CACHE / name).mkdir()
    for name, folder in {"envs": environment.folder_of("cpu"), "numba": Path(process.kernel_cache("cpu"))}.items():
        (shared[name] / folder.name).mkdir(exist_ok=True)
        (paths.CACHE / name / folder.name).symlink_to(shared[name] / folder.name)


def test_a_release_a_night_and_the_next_plan(own_store, output, tmp_path):
    sent = tmp_path / "sent"
    asked = {"inputs.version": "1.0.0", "inputs.targets": f"{NAME} tiny-fp32-cpu", "vars.BENCH_TOLERANCE": "1e9"}
    asked |= {"vars.BENCH": f"build:{NAME}", "matrix.target": NAME}
    asked |= {"vars.PUBLISH_TO": f"dir://{sent}"}
    runner = Runner(tmp_path / "runner", output, **asked)
    runner.job("release", "plan")
    assert runner.said("output") == f'targets=["{NAME}", "tiny-fp32-cpu"]\n'
    assert runner.said("summary").startswith(f"{NAME}: not released yet")

    runner.job("release", "release")  # of the one; twin and evaluation were answered before
    documents = tmp_path / "runner" / "temp" / "documents"
    assert sorted(p.name for p in documents.iterdir()) == sorted([*PAPERS, "SHA256SUMS", "bench.json"])
    release = output / "dist" / "releases" / f"{NAME}-1.0.0"
    assert {*sums.read(documents)} >= {*FILES} and received.verify(release)
    (copied,) = sent.rglob("SHA256SUMS")
    assert copied.read_bytes() == (release / "SHA256SUMS").read_bytes()

    runner.job("release", "page")
    page = tmp_path / "runner" / "pages" / f"{NAME}@1.0.0"
    assert {p.name for p in page.iterdir()} == {*PAPERS, "SHA256SUMS", "bench.json", "notes", "arguments"}
    assert (page / "notes").read_text().lstrip().startswith("#") and "license:" not in (page / "notes").read_text()
    assert json.loads((page / "arguments").read_text())[-2:] == ["--target", "c" * 40]

    night = Runner(tmp_path / "night", output, **asked)
    (tmp_path / "night" / "pages").rmdir()
    (tmp_path / "night" / "pages").symlink_to(tmp_path / "runner" / "pages")
    night.job("bench", "bench")
    table = night.said("summary")
    assert f"| {NAME}" in table and "decode tok/s" in table and "0 of 8 figures are worse" in table

    shutil.rmtree(tmp_path / "night" / "temp")  # of another runner
    night.job("release", "plan")
    assert night.said("output") == 'targets=["tiny-fp32-cpu"]\n'

    left = {*lines("release"), *lines("bench")} - {*runner.ran, *night.ran}
    others = {line for line in left if not line.startswith((INSTALLS, 'doit "publish:', "echo "))}
    assert not others  # every line was run but installation, and of the two for publishing the one that is not for here
