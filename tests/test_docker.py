"""Steps in containers: the same bytes as without, nothing of the host but what they are given, and nothing left behind.

Needs a container engine, the base of containers/base/build (or the official one) and the images cpu and torch: `.ci/run` has
them made. Where there is none these tests fail; `pytest -m "not docker"` leaves them out.
"""

import itertools
import json
import os
import shutil
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pytest
from builder import Builder, passes, verbs
from conftest import TINY
from hub_server import COMMIT, REPO, serve
from released import checked_as_if
from releasing import content
from toy import Toy, leftovers, tree

from onnxmake.build import engine, image, paths
from onnxmake.build.files import read_record
from onnxmake.build.target import read_target

pytestmark = pytest.mark.docker
RELEASED = ("tiny-int4-cpu", "tiny-int4-cuda", "tiny-int4-directml")
READS = '("checkpoint/architecture.json",)'
DOCKER = {"ONNXMAKE_RUNNER": "docker", "ONNXMAKE_SANDBOX": "off"}  # namespaces would hide what a container lets through
numbers = itertools.count(1)


@pytest.fixture(scope="module")
def client():
    return engine.client()


@pytest.fixture(scope="module")
def toy(tmp_path_factory, client):
    """A checkout whose environment is the base alone."""
    toy = Toy(tmp_path_factory.mktemp("docker"))
    toy.settings = dict(DOCKER)
    toy.target("first")
    toy.run("build:first")
    yield toy
    for record in (toy.cache / "images").glob("*.json"):
        client.images.remove(read_record(record)["tag"], force=True)


def in_docker(folder: Path) -> Builder:
    """The checkout with a store of its own, and the images that there are."""
    docker = Builder(folder / "out", folder / "cache", dict(DOCKER))
    os.symlink(paths.CACHE / "images", docker.cache / "images")
    return docker


def clone(folder: Path) -> Path:
    """What git knows of the checkout, as it stands, and nothing else."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=paths.ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(paths.ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def contained(tmp_path_factory) -> tuple[Builder, str]:
    """The tiny targets built in containers in a clean clone, and what that printed."""
    folder = tmp_path_factory.mktemp("contained")
    docker = in_docker(folder)
    docker.root = clone(folder / "checkout")
    return docker, docker.run(*(f"build:{name}" for name in TINY))


def made(builder: Builder, name: str) -> dict:
    """All that dist/<name> holds, but for what was measured of it."""
    files = tree(builder.dist(name))
    return files | {"manifest.json": {k: v for k, v in json.loads(files["manifest.json"]).items() if k != "status"}}


def containers(client, toy) -> list:
    # One that goes while it is being looked at is not there any more.
    return client.containers.list(
        all=True, ignore_removed=True, filters={"label": f"{engine.CACHE}={os.uname().nodename}:{toy.cache}"}
    )


def attempt(toy, run: str, head: str = "", **more) -> str:
    """Add a target of one pass whose body is `run`; returns build:<its name>."""
    name = f"try{next(numbers)}"
    toy.write_pass(name, run, READS, head)
    return toy.target(f"x{name}", [(name, more)])


def within(seconds: float, true) -> bool:
    end = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < end:
        time.sleep(0.05)
    return bool(found)


def test_all_tiny_targets_are_byte_for_byte_what_they_are_without_containers(built, contained):
    docker, printed = contained
    assert "ran" in verbs(printed).values() and "not cut off" not in printed and "a venv" not in printed
    for name in TINY:
        assert made(docker, name) == made(built, name), name


def test_two_releases_from_two_clean_clones_are_the_same_whether_made_in_containers_or_not(
    contained, tmp_path, monkeypatch
):
    docker, _ = contained
    venv = Builder(tmp_path / "out", tmp_path / "cache")
    venv.root = clone(tmp_path / "checkout")
    assert "ran" in verbs(venv.run(*(f"build:{name}" for name in RELEASED))).values()
    with monkeypatch.context() as here:
        for name, value in {"BUILD": venv.output / "build", "DIST": venv.output / "dist", "CACHE": venv.cache}.items():
            here.setattr(paths, name, value)
        for name in RELEASED:  # what a check would find is of these bytes; it counts for the same bytes elsewhere
            checked_as_if(read_target(venv.root / "targets" / f"{name}.toml"))
    shutil.copytree(venv.output / "build" / "quality", docker.output / "build" / "quality")
    names = [f"release:{name}" for name in ("tiny-int4", *RELEASED)]
    for builder in (venv, docker):
        printed = builder.run("version=1.0.0", "archive=yes", *names)
        assert printed.count("as one file") == len(names)
    made = [content(builder.output / "dist" / "releases") for builder in (venv, docker)]
    assert made[0] == made[1]
    assert {f"{name}-1.0.0/SHA256SUMS" for name in ("tiny-int4", *RELEASED)} < set(made[0])
    for builder in (venv, docker):
        runners = {read_record(file)["runner"] for file in (builder.output / "build" / "steps").glob("cast-*.json")}
        assert runners == {builder.settings.get("ONNXMAKE_RUNNER", "venv")}


def test_an_export_is_byte_for_byte_what_it_is_without_containers(tmp_path):
    checkpoint = tmp_path / "tiny"
    shutil.copytree(paths.TARGETS / "tiny", checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    config["rms_norm_eps"] = 3e-6  # another graph than the shipped one
    (checkpoint / "config.json").write_text(json.dumps(config))
    seen = []
    for builder in (in_docker(tmp_path / "docker"), Builder(tmp_path / "venv", tmp_path / "cache")):
        name = builder.target("x", checkpoint, passes("export", "optimize", "package_genai"))
        assert verbs(builder.run(name))["export"] == "ran"
        seen.append(tree(builder.dist("x")))
    assert seen[0] == seen[1]


def test_a_built_target_is_run_and_measured_in_its_image(built):
    docker = Builder(built.output, built.cache, dict(DOCKER))
    assert "\nimport os" in docker.run("try:tiny-int4-cpu", "-p", "import os", "-n", "4")
    (built.output / "targets").mkdir(exist_ok=True)
    docker.target(
        "small",
        paths.TARGETS / "tiny",
        passes("export", "optimize", "package_genai") + "[bench]\nprompt_tokens = [4]\nnew_tokens = 2\nrepeats = 1\n",
    )
    assert "small" in docker.run("bench:small").splitlines()[-3]
    assert json.loads((docker.output / "build" / "bench" / "small.json").read_text())["device"] == "CPU"


def test_two_builds_without_the_engine_s_cache_give_the_same_image_whatever_they_are_lent(toy, tmp_path, client):
    mark = uuid.uuid4().hex
    (tmp_path / "ca.pem").write_text(f"# {mark}\n")
    plain = toy.run("image:cpu", "--no-cache")
    lent = toy.run("image:cpu", "--no-cache", f"ca={tmp_path / 'ca.pem'}", "network=host")
    assert "building" in plain and "building" in lent
    assert plain.splitlines()[-1] == lent.splitlines()[-1] and "sha256:" in plain.splitlines()[-1]
    saved = b"".join(client.images.get(lent.split()[-1]).save())
    assert mark.encode() not in saved
    assert "is no file" in toy.fail("image:cpu", "--no-cache", "ca=nowhere.pem")


@pytest.mark.slow
def test_an_image_of_an_environment_is_the_same_again(tmp_path):
    before = image.ensure("cpu")
    builder = Builder(tmp_path / "out")
    builder.run("image:cpu", "--no-cache")
    after = image.find("cpu")
    assert {k: v for k, v in before.items() if k != "seconds"} == {k: v for k, v in after.items() if k != "seconds"}
    assert json.loads((builder.output / "build" / "images" / "cpu.json").read_text()) == after


def test_an_image_is_built_again_for_another_dockerfile_or_when_it_is_gone(toy, client):
    assert "building" not in toy.run("image:cpu")
    file = toy.root / "containers" / "cpu" / "Dockerfile"
    before = file.read_text()
    file.write_text(before.replace("ORT_DISABLE_TELEMETRY=1", "ORT_DISABLE_TELEMETRY=1 SAID=here"))
    other = toy.run("image:cpu")
    assert "building" in other and "building" not in toy.run("image:cpu")
    client.images.remove(other.split()[-1], force=True)
    assert "building" in toy.run("image:cpu")
    file.write_text(before)
    assert "building" not in toy.run("image:cpu")


def test_gc_forgets_an_image_that_was_not_used_for_long(toy, client, tmp_path):
    other = Toy(tmp_path)
    other.settings = dict(DOCKER)
    with open(other.root / "containers" / "cpu" / "Dockerfile", "a") as file:
        file.write("# another\n")
    tag = other.run("image:cpu").splitlines()[-1].split()[1].rstrip(",")
    (record,) = (other.cache / "images").glob("*.json")
    assert "0 images" in other.run("cache", "gc") and client.images.get(tag)
    os.utime(record, (0, 0))
    assert "1 images" in other.run("cache", "gc") and not record.exists()
    assert not client.images.list(tag)
    assert "building" not in toy.run("image:cpu")  # the same image by another name


LOOK = """
import glob, importlib.util, json, os
packages = [n for n in ("onnxruntime", "numba", "torch", "transformers", "pip", "doit") if importlib.util.find_spec(n)]
print(json.dumps([packages, os.listdir("/opt"), os.listdir("/tmp"), glob.glob("/*"), os.getuid()]))
"""


def test_the_cpu_image_is_small_and_holds_neither_torch_nor_what_the_build_was_lent(client):
    record = image.ensure("cpu")
    assert record["size"] < 600e6 and record["id"] in (record["config"], record["manifest"])
    printed = client.containers.run(record["id"], ["python", "-c", LOOK], network_mode="none", remove=True)
    packages, opt, temporary, root, user = json.loads(printed)
    assert packages == ["onnxruntime", "numba"] and opt == ["venv"] and temporary == [] and user == 10001
    assert "/context" not in root and "/step" not in root


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ("import socket\nsocket.create_connection(('127.0.0.1', 9), 5)", ""),
        ("import urllib.request\nurllib.request.urlopen('http://192.0.2.1', timeout=5)", ""),
        ("import urllib.request\nurllib.request.urlopen('http://example.org', timeout=5)", "an address"),
        ("open('/written', 'w')", "/written"),
        ("open(src / 'new', 'w')", "new"),
        ("open(src / 'checkpoint' / 'architecture.json', 'a')", "architecture.json"),
        (f"open({str(paths.ROOT / 'README.md')!r})", "README.md"),
        ("open(src / 'checkpoint' / 'config.json')", "config.json"),
    ],
    ids=["loopback", "network", "a name", "elsewhere", "beside input", "input", "checkout", "undeclared"],
)
def test_a_pass_that_reaches_outside_fails(toy, run, said):
    name = attempt(toy, run)
    printed = toy.fail(name)
    assert said in printed and ("READS" in printed or "ended with exit code 1" in printed), printed
    assert not toy.dist(name.removeprefix("build:")).exists()


def test_a_pass_does_not_see_the_caller_s_home(toy):
    file = Path.home() / f".onnxmake-{uuid.uuid4().hex}"
    file.write_text("private")
    try:
        printed = toy.fail(attempt(toy, f"open({str(file)!r})"))
    finally:
        file.unlink()
    assert file.name in printed and "READS" in printed


def test_a_step_s_container_has_the_caller_s_rights_and_no_more(toy, client):
    hold = toy.cache / "hold"
    name = attempt(toy, f"import time, os\nopen(out / {hold.name!r}, 'w')\ntime.sleep(600)", "MEMORY_MB = 99")
    process = toy.start(name)
    try:
        assert within(30, lambda: containers(client, toy) and containers(client, toy)[0].status == "running")
        found = containers(client, toy)[0]
        host, config = found.attrs["HostConfig"], found.attrs["Config"]
        assert host["NetworkMode"] == "none" and host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and host["Init"]
        assert host["Memory"] == host["MemorySwap"] == 99_000_000 and "no-new-privileges" in host["SecurityOpt"]
        assert config["User"] == f"{os.getuid()}:{os.getgid()}" and config["Labels"][engine.WORK]
        writable = {Path(mount["Destination"]).name for mount in found.attrs["Mounts"] if mount["RW"]}
        assert {"out", "tmp"} < writable and len(writable) == 3  # and the compiled kernels
        assert not [v for v in config["Env"] if "TOKEN" in v or "SECRET" in v]
    finally:
        process.terminate()
        process.communicate()
    assert containers(client, toy) == []


def test_what_a_step_makes_belongs_to_the_caller(toy):
    owner = (toy.dist("first") / "model.json").stat()
    assert (owner.st_uid, owner.st_gid) == (os.getuid(), os.getgid())


@pytest.mark.parametrize("child", [False, True], ids=["the step", "its child"])
def test_a_step_that_runs_out_of_memory_says_so(toy, child):
    use = "x = bytearray(300_000_000)\nfor i in range(0, len(x), 4096): x[i] = 1"
    run = (
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {use!r}])"
        if child
        else use.replace(": x", ":\n    x")
    )
    printed = toy.fail(attempt(toy, f"{run}\n(out / 'x').write_text('x')", "MEMORY_MB = 100"))
    assert "ran out of memory: its container had 100 MB" in printed and "memory_mb" in printed


def test_a_target_gives_a_pass_more_memory(toy):
    use = "x = bytearray(150_000_000)\nfor i in range(0, len(x), 4096):\n    x[i] = 1\n(out / 'x').write_text('x')"
    name = attempt(toy, use, "MEMORY_MB = 100", memory_mb=400)
    assert "ran" in verbs(toy.run(name)).values()


def test_a_step_that_hangs_is_ended(toy, client):
    printed = toy.fail(attempt(toy, "import time\ntime.sleep(600)", "TIMEOUT_S = 2"))
    assert "did not end within 2 s" in printed and "TIMEOUT_S" in printed
    assert containers(client, toy) == []


def test_every_line_of_a_step_reaches_its_log_as_it_comes(toy):
    run = "import sys\nfor n in range(20000):\n    print(n, 'line', file=(sys.stdout, sys.stderr)[n % 2], flush=n % 500 == 0)\n"
    name = attempt(toy, f"{run}(out / 'x').write_text('x')\nsys.stderr.write('the end')")
    toy.run(name)
    log = max((toy.output / "build" / "logs").glob("try*.log"), key=os.path.getmtime).read_text()
    assert sorted(int(line.split()[0]) for line in log.splitlines() if line.endswith(" line")) == list(range(20000))
    assert "the end" in log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_build_that_is_ended_leaves_no_container(toy, client, number):
    name = attempt(toy, "import time\nprint('here', flush=True)\ntime.sleep(600)")
    process = toy.start(name)
    try:
        assert within(30, lambda: any(c.status == "running" for c in containers(client, toy)))
        process.send_signal(number)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    ended = [] if number != signal.SIGKILL else ["exited"]  # it went with its build; the next one removes it
    assert within(20, lambda: [c.status for c in containers(client, toy)] == ended), containers(client, toy)
    toy.run(attempt(toy, "(out / 'x').write_text('x')"))
    assert containers(client, toy) == [] and leftovers(toy) == []


def test_a_gpu_that_the_engine_cannot_give_is_a_clear_error(toy):
    toy.settings["ONNXMAKE_GPUS"] = "0"
    try:
        printed = toy.fail(attempt(toy, "(out / 'x').write_text('x')", "GPUS = 1"))
    finally:
        del toy.settings["ONNXMAKE_GPUS"]
    assert "cannot give a container the GPU" in printed and "NVIDIA Container Toolkit" in printed


def test_a_fetch_has_the_network_and_the_hub_s_cache(built, tmp_path):
    docker = Builder(tmp_path / "out", settings=DOCKER | {"HF_HUB_DISABLE_XET": "1"})
    docker.settings["HF_HOME"] = str(tmp_path / "hub")
    name = docker.target("hubbed", paths.TARGETS / "tiny", passes("export", "optimize", "package_genai"))
    file = docker.output / "targets" / "hubbed.toml"
    text = file.read_text().replace(f'path = "{paths.TARGETS / "tiny"}"', f'repo = "{REPO}"\nrevision = "{COMMIT}"')
    file.write_text(text)
    with serve(paths.TARGETS / "tiny") as hub:
        docker.settings["HF_ENDPOINT"] = hub.url
        docker.run(name)
    same = {k: v for k, v in tree(docker.dist("hubbed")).items() if k != "manifest.json"}
    assert same == {k: v for k, v in tree(built.dist("tiny-fp32-cpu")).items() if k != "manifest.json"}


def test_a_first_base_is_named_where_none_can_be_had(toy):
    printed = toy.fail("image:cpu", "base=registry.invalid/none:1")
    assert "could not be pulled" in printed and "containers/base/build" in printed
