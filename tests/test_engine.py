"""What a person sees where the container engine is missing or refuses, on an engine that answers from a table; no real one."""

import json
import os
import re
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest
from builder import verbs
from fake_engine import API, ATTACHED, CUT, serve
from test_normalise import ONE, save, sha
from toy import Toy, leftovers

from onnxmake.build import container, engine, image, locks, paths, runner
from onnxmake.build.files import write_record
from onnxmake.build.job import Job
from onnxmake.build.talk import PREFIX
from onnxmake.errors import EngineError, EnvironmentMissing, OnnxmakeError, StepFailed, TargetError

VARIABLES = (
    *("DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"),
    *("ONNXMAKE_RUNNER", "ONNXMAKE_BASE", "ONNXMAKE_CA", "ONNXMAKE_NETWORK"),
)
BASE = {
    "Id": "sha256:base",
    "RootFS": {"Layers": [f"sha256:{sha(layer)}" for layer in ONE.base]},
    "Config": {"Env": []},
}
MADE = {"Id": "sha256:made", "Size": 1_000_000, "RootFS": {"Layers": []}, "Config": {}}
NO_IMAGE = "environment cpu: a venv. There is no image of it"
DISK = "write /var/lib/docker/tmp/x: no space left on device"
GPU = 'could not select device driver "" with capabilities: [[gpu]]'
AS_ANOTHER = """
import os, sys
import docker, requests, urllib3
from onnxmake.build import engine
from onnxmake.errors import EngineError
if os.getuid() == 0:
    os.setgroups([])
    os.setresgid(12345, 12345, 12345)
    os.setresuid(12345, 12345, 12345)
try:
    engine.client()
except EngineError as error:
    print(error)
"""


def refused(message: str) -> dict[str, str]:
    return {"message": message}


@pytest.fixture(autouse=True)
def forgetful(tmp_path, monkeypatch):
    """Nothing is known of an engine, before and after, and this machine's own is not asked."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    cached = (engine.client, runner.available, container._image, container._user)
    for function in cached:
        function.cache_clear()
    container._running.clear()
    yield
    container._running.clear()
    for function in cached:
        function.cache_clear()


@pytest.fixture
def fake(output, monkeypatch):
    """A healthy engine without images that DOCKER_HOST names, and a cache of the test's own."""
    with serve() as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.url)
        yield fake


@pytest.fixture
def ready(fake, monkeypatch):
    """One with the base, and with an image of the environment cpu that starts containers."""
    fake.answers |= {
        ("GET", f"/images/{re.escape(image.base()['image'])}/json"): (200, BASE),
        ("GET", "/images/sha256:made/json"): (200, MADE),
        ("POST", "/containers/create"): (201, {"Id": "it", "Warnings": []}),
        ("POST", "/containers/it/attach"): (ATTACHED, b""),
        ("POST", "/containers/it/start"): (204, None),
        ("DELETE", "/containers/it"): (204, None),
    }
    record = {"environment": "cpu", "id": "sha256:made", "tag": "onnxmake-cpu:0", "size": 1_000_000}
    monkeypatch.setenv("ONNXMAKE_RUNNER", "docker")
    kept = image._kept("cpu", image._recipe("cpu", engine.client().images.get(image.base()["image"])))
    write_record(kept, record)
    fake.asked.clear()
    return fake


@pytest.fixture
def toy(tmp_path):
    return Toy(tmp_path)


def seen(call, *arguments, kind: type[OnnxmakeError] = EngineError) -> OnnxmakeError:
    """The error of a call, which must say fact, cause and next action."""
    with pytest.raises(kind) as caught:
        call(*arguments)
    error = caught.value
    assert error.fact and error.cause and error.action
    assert "Traceback" not in str(error) and "object at 0x" not in str(error)
    return error


def ran(tmp_path: Path, **limits):
    """What a job in a container gives."""
    return runner.run(Job("cpu", ("-V",), **limits), {"do": "it"}, tmp_path / "log", "it")


def recorded(cache: Path) -> None:
    """Have it look as if an image of the environment cpu had been made once."""
    (cache / "images").mkdir(parents=True)
    (cache / "images" / "cpu-000000000000.json").write_text("{}")


def test_no_socket_at_all_is_no_engine():
    error = seen(engine.client)
    assert "No container engine answers." in error.fact
    assert all(word in error.action for word in ("systemctl start docker", "DOCKER_HOST", "runner=venv"))


def test_a_socket_that_nobody_listens_on_is_no_engine(monkeypatch):
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{folder}/left.sock")
        monkeypatch.setenv("DOCKER_HOST", f"unix://{folder}/left.sock")
        error = seen(engine.client)
    assert "No container engine answers." in error.fact and "runner=venv" in error.action


def test_a_socket_that_is_another_group_s_names_the_group(fake):
    os.chmod(fake.socket.parent, 0o755)
    os.chmod(fake.socket, 0o600 if os.getuid() == 0 else 0)
    done = subprocess.run(
        [sys.executable, "-c", AS_ANOTHER], cwd=paths.ROOT, capture_output=True, text=True, timeout=60
    )
    assert "This user may not use the container engine." in done.stdout, done.stderr
    assert "usermod -aG docker" in done.stdout and "runner=venv" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "answers",
    [
        {("GET", "/version"): (200, {"ApiVersion": "1.20", "Os": "linux"})},
        {
            ("GET", f"/v{API}/.*"): (
                400,
                refused(f"client version {API} is too old. Minimum supported API version is 1.99, please upgrade"),
            )
        },
        {
            ("GET", f"/v{API}/.*"): (
                400,
                refused(f"client version {API} is too new. Maximum supported API version is 1"),
            )
        },
    ],
    ids=["old engine", "new engine", "older than it said"],
)
def test_an_engine_of_another_time_is_told_by_its_api(fake, answers):
    fake.answers |= answers
    error = seen(engine.client)
    assert "another version of its API" in error.fact
    assert "Update the engine" in error.action and "pip install -U docker" in error.action


def test_an_engine_of_windows_containers_is_not_taken(fake):
    fake.answers["GET", "/version"] = (200, {"ApiVersion": API, "Os": "windows"})
    error = seen(engine.client)
    assert "runs windows containers" in error.fact and "Switch it to Linux containers" in error.action


@pytest.mark.parametrize(
    ("status", "value", "word"),
    [
        (CUT, {"ApiVersion": API, "Os": "linux"}, ""),
        (500, refused("layer store is on fire"), "layer store is on fire"),
        (503, b"<html>no upstream</html>", "no upstream"),
        (200, b"<html>a web server</html>", ""),
        (200, {"Os": "linux"}, "ApiVersion"),
    ],
)
def test_what_answers_as_no_engine_does_is_not_called_an_old_one(fake, status, value, word):
    fake.answers["GET", "/version"] = (status, value)
    error = seen(engine.client)
    assert error.fact.startswith("Could not reach the container engine: ") and word in error.fact
    assert "runner=venv" in error.action and "API" not in error.cause


@pytest.mark.parametrize("host", ["nonsense", "tcp://localhost:0", "npipe:////./pipe/x"])
def test_a_host_that_can_be_none_is_an_error_that_says_so(monkeypatch, host):
    monkeypatch.setenv("DOCKER_HOST", host)
    error = seen(engine.client)
    assert "Could not reach the container engine" in error.fact and "API" not in error.fact
    assert "runner=venv" in error.action


def test_an_engine_that_comes_back_is_found(fake, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"{fake.url}-not-yet")
    seen(engine.client)
    monkeypatch.setenv("DOCKER_HOST", fake.url)
    assert engine.client() is engine.client()


def test_threads_share_one_connected_client(fake):
    start = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        assert len({id(c) for c in pool.map(lambda _: (start.wait(60), engine.client())[1], range(4))}) == 1
    assert len(fake.of("GET", "/containers/json")) == 1


REFUSALS = [
    (("POST", "/containers/create"), 500, DISK, "disk is full", "docker system prune"),
    (("POST", "/containers/create"), 404, "No such image: sha256:made", "is gone from the engine", "Build again"),
    (("POST", "/containers/create"), 400, "invalid mount config", "invalid mount config", "journalctl"),
    (("POST", "/containers/it/attach"), 500, "broken", "broken", "journalctl"),
    (("POST", "/containers/it/start"), 500, GPU, "cannot give a container the GPU", "nvidia-ctk"),
    (("POST", "/containers/it/start"), 500, DISK, "disk is full", "docker system df"),
    (("POST", "/containers/it/start"), 500, "OCI runtime create failed: python: not found", "not found", "runner=venv"),
]


@pytest.mark.parametrize(("asked", "status", "said", "fact", "action"), REFUSALS)
def test_a_refused_container_is_an_error_with_advice_and_leaves_none(ready, asked, status, said, fact, action):
    ready.answers[asked] = (status, refused(said))
    error = seen(container.start, Job("cpu", ("-V",), gpus=(0,)))
    assert error.fact.startswith("Could not start a container of the image cpu") and fact in error.fact
    assert action in error.action
    created = asked != ("POST", "/containers/create")
    assert ready.paths("DELETE") == ["/containers/it"] * created
    assert not container._running


@pytest.mark.parametrize(
    "asked", [("GET", "/containers/json"), ("GET", "/images/sha256:made/json"), ("POST", "/containers/create")]
)
def test_a_connection_that_ends_in_the_middle_of_an_answer_is_an_error_that_says_so(ready, asked):
    engine.client.cache_clear()
    ready.answers[asked] = (CUT, {"Id": "it", "Warnings": [], "padding": "-" * 1000})
    error = seen(container.start, Job("cpu", ("-V",)))
    assert error.fact.startswith("Could not ") and "The container engine stopped" in error.cause


def test_an_engine_that_stops_while_a_step_runs_is_said_and_its_container_is_asked_to_go(ready, tmp_path):
    ready.answers["POST", "/containers/it/wait"] = (CUT, {"StatusCode": 0, "Error": None})
    error = seen(ran, tmp_path)
    assert error.fact.startswith("Could not follow a step's container")
    assert ready.paths("DELETE") == ["/containers/it"] and not container._running


def ending(fake, code: int, out_of_memory: bool = False, said: bytes = b"") -> None:
    """Let the container end so."""
    fake.answers |= {
        ("POST", "/containers/it/attach"): (ATTACHED, said),
        ("POST", "/containers/it/wait"): (200, {"StatusCode": code}),
        ("GET", "/containers/it/json"): (200, {"Id": "it", "State": {"OOMKilled": out_of_memory}}),
    }


def test_a_container_is_handed_its_action_and_heard_and_removed(ready, tmp_path):
    ending(ready, 0, said=f'a line\n{PREFIX}{{"result": [1, 2]}}\n'.encode())
    assert ran(tmp_path) == [1, 2]
    assert (tmp_path / "log").read_text() == "a line\n"
    assert [json.loads(asked.body) for asked in ready.of("STDIN")] == [{"do": "it"}]
    assert ready.paths("DELETE") == ["/containers/it"]


def test_a_container_may_do_and_see_no_more_than_its_job_says(ready, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    job = Job("cpu", ("-P", "x"), (str(tmp_path / "link"),), (str(tmp_path / "out"),), 700, gpus=(3,), code={"a": "b"})
    container.start(job)
    (asked,) = ready.of("POST", "/containers/create")
    host = asked.body["HostConfig"]
    assert asked.body["Image"] == "sha256:made" and asked.body["Cmd"] == ["python", "-P", "x", "container"]
    assert asked.body["User"] == f"{os.getuid()}:{os.getgid()}"
    assert (host["NetworkMode"], host["ReadonlyRootfs"], host["CapDrop"]) == ("none", True, ["ALL"])
    assert host["Memory"] == host["MemorySwap"] == 700_000_000 and "no-new-privileges" in host["SecurityOpt"]
    assert host["DeviceRequests"][0]["DeviceIDs"] == ["3"]
    mounts = {mount["Target"]: (mount["Source"], mount["ReadOnly"]) for mount in host["Mounts"]}
    assert mounts.pop(str(tmp_path / "link")) == (str(tmp_path / "real"), True)
    assert mounts.pop(str(tmp_path / "out")) == (str(tmp_path / "out"), False)
    assert [target.startswith(str(paths.CACHE / "numba")) for target in mounts] == [True]
    assert asked.body["Labels"] == engine.labels(locks.scratch(paths.CACHE))


@pytest.mark.parametrize(("options", "root"), [(["name=rootless", "name=cgroupns"], True), ([], False), (None, False)])
def test_a_container_s_files_are_the_caller_s_also_where_the_engine_runs_without_root(ready, options, root):
    ready.answers["GET", "/info"] = (200, {"SecurityOptions": options})
    container.start(Job("cpu", ("-V",)))
    (asked,) = ready.of("POST", "/containers/create")
    assert asked.body["User"] == ("0:0" if root else f"{os.getuid()}:{os.getgid()}")


@pytest.mark.parametrize(("code", "out_of_memory"), [(137, True), (137, False), (1, True)])
def test_a_container_whose_memory_ran_out_says_how_to_give_it_more(ready, tmp_path, code, out_of_memory):
    ending(ready, code, out_of_memory)
    error = seen(lambda: ran(tmp_path, memory_mb=700), kind=StepFailed)
    assert "ran out of memory: its container had 700 MB" in error.fact and "memory_mb" in error.action


def test_a_container_that_was_killed_or_fails_is_told_as_a_process_is(ready, tmp_path):
    ending(ready, 137)
    assert "it was killed." in seen(lambda: ran(tmp_path), kind=StepFailed).fact
    ending(ready, 3, said=b"what went wrong")
    error = seen(lambda: ran(tmp_path), kind=StepFailed)
    assert "ended with exit code 3" in error.fact and "what went wrong" in error.fact


def listed(found: dict[str, dict[str, str]]):
    """An engine's list of containers, by labels as it is asked; name -> labels."""

    def answer(asked):
        wanted = dict(label.split("=", 1) for label in json.loads(asked.query["filters"])["label"])
        assert asked.query["all"] == "1"
        return [{"Id": name, "Labels": labels} for name, labels in found.items() if wanted.items() <= labels.items()]

    return answer


def containers(fake, found: dict[str, dict[str, str]]) -> None:
    fake.answers["GET", "/containers/json"] = (200, listed(found))
    for name, labels in found.items():
        fake.answers["GET", f"/containers/{name}/json"] = (200, {"Id": name, "Config": {"Labels": labels}})
        fake.answers["DELETE", f"/containers/{name}"] = (204, None)


def test_containers_of_dead_builds_are_removed_and_no_others(fake, tmp_path):
    gone, alive = tmp_path / "gone", tmp_path / "alive"
    alive.mkdir()
    elsewhere = {engine.CACHE: f"{socket.gethostname()}:/another/cache"}
    another = {engine.CACHE: f"another-machine:{paths.CACHE}"}
    containers(
        fake,
        {
            "dead": engine.labels(gone),
            "living": engine.labels(alive),
            "own": engine.labels(locks.scratch(paths.CACHE)),
            "elsewhere": engine.labels(gone) | elsewhere,
            "another": engine.labels(gone) | another,
            "stranger": {},
            "late": engine.labels(gone / "more"),
        },
    )
    engine.client()
    assert fake.paths("DELETE") == ["/containers/dead", "/containers/late"]
    assert all(asked.query == {"v": "True", "link": "False", "force": "True"} for asked in fake.of("DELETE"))


@pytest.mark.parametrize(
    ("status", "said"), [(404, "No such container: dead"), (409, "removal of container dead is already in progress")]
)
def test_a_container_that_another_build_removes_meanwhile_stops_nobody(fake, tmp_path, status, said):
    containers(fake, {"dead": engine.labels(tmp_path / "gone")})
    fake.answers["DELETE", "/containers/dead"] = (status, refused(said))
    assert engine.client()


def test_a_container_that_ends_while_they_are_listed_stops_nobody(fake, tmp_path):
    containers(fake, {"dead": engine.labels(tmp_path / "gone"), "living": engine.labels(tmp_path)})
    fake.answers["GET", "/containers/(dead|living)/json"] = (404, refused("No such container"))
    assert engine.client()


def lines(capsys) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_without_an_engine_it_is_a_venv_and_one_line_for_each_environment_says_why(monkeypatch, capsys):
    monkeypatch.setattr(engine, "may_answer", lambda: False)
    assert [runner.chosen(name) for name in ("cpu", "cpu", "torch", "cpu", "torch")] == ["venv"] * 5
    because = "a venv. No container engine answers."
    assert lines(capsys) == [f"environment cpu: {because}", f"environment torch: {because}"]


def test_where_no_image_was_ever_made_the_line_says_how_and_no_engine_is_asked(fake, capsys):
    assert runner.chosen("cpu") == "venv"
    assert lines(capsys) == [f"{NO_IMAGE}: `doit image:cpu` makes one."] and not fake.asked


@pytest.mark.parametrize("status", [CUT, 500])
def test_an_engine_that_fails_is_named_as_the_reason_for_a_venv(fake, capsys, status):
    recorded(paths.CACHE)
    fake.answers["GET", "/version"] = (status, refused("layer store is on fire"))
    assert runner.chosen("cpu") == runner.chosen("cpu") == "venv"
    (line,) = lines(capsys)
    assert line.startswith("environment cpu: a venv. ") and "reach the container engine" in line


def test_with_an_engine_and_an_image_it_is_docker_without_a_word(ready, monkeypatch, capsys):
    monkeypatch.setenv("ONNXMAKE_RUNNER", "auto")
    assert runner.chosen("cpu") == "docker" and lines(capsys) == []


@pytest.mark.parametrize("gone", ["sha256:made", image.base()["image"]], ids=["image", "base"])
def test_an_image_or_base_that_is_gone_makes_it_a_venv_and_nothing_is_pulled(ready, monkeypatch, capsys, gone):
    monkeypatch.setenv("ONNXMAKE_RUNNER", "auto")
    ready.answers["GET", f"/images/{re.escape(gone)}/json"] = (404, refused(f"No such image: {gone}"))
    assert runner.chosen("cpu") == "venv"
    (line,) = lines(capsys)
    assert line.startswith(NO_IMAGE) and ready.paths("POST") == []


def test_threads_that_ask_at_once_are_told_once(fake, capsys):
    recorded(paths.CACHE)
    release = threading.Event()
    threading.Timer(0.2, release.set).start()
    fake.answers["GET", "/version"] = (500, lambda asked: (release.wait(60), refused("on fire"))[1])
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(runner.chosen, ["cpu"] * 4)) == ["venv"] * 4
    assert len(lines(capsys)) == 1


@pytest.mark.parametrize(("said", "advice"), [("podman", "Valid: auto, docker, venv."), ("dokcer", "'docker'")])
def test_a_runner_that_is_none_names_those_that_are(monkeypatch, said, advice):
    monkeypatch.setenv("ONNXMAKE_RUNNER", said)
    error = seen(runner.chosen, "cpu", kind=TargetError)
    assert error.fact == f"runner={said} is none that there is." and advice in error.action


def built(fake, *messages: dict, saved: bytes = b"") -> None:
    """An engine that has the base, and builds with these messages."""
    fake.answers |= {
        ("GET", f"/images/{re.escape(image.base()['image'])}/json"): (200, BASE),
        ("POST", "/build"): (200, messages),
        ("GET", "/images/sha256:built/json"): (200, {"Id": "sha256:built"}),
        ("GET", "/images/sha256:built/get"): (200, saved),
        ("POST", "/images/load"): (200, ({"stream": "Loaded image ID: sha256:made\n"},)),
        ("GET", "/images/(sha256:made|onnxmake-cpu:[0-9a-f]{12})/json"): (200, MADE),
        ("DELETE", "/images/sha256:built"): (200, []),
        ("POST", "/images/prune"): (200, {"ImagesDeleted": None, "SpaceReclaimed": 0}),
    }


DONE = ({"stream": "Step 1/9 : ARG\n"}, {"aux": {"ID": "sha256:built"}}, {"stream": "Successfully built it\n"})


@pytest.fixture
def archive(tmp_path):
    """What an engine saves of an image that it has built on BASE."""
    return save(tmp_path / "saved.tar", ONE).read_bytes()


def test_an_image_is_built_once_and_its_context_is_what_its_recipe_names(fake, archive, monkeypatch, capsys):
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.invalid/simple")
    built(fake, *DONE, saved=archive)
    first = image.ensure("cpu")
    assert image.ensure("cpu") == first == image.find("cpu") and first["id"] == "sha256:made"
    (asked,) = fake.of("POST", "/build")
    with tarfile.open(fileobj=BytesIO(asked.body)) as context:
        found = {member.name: context.extractfile(member).read() for member in context}
    assert found == {
        n: (paths.CONTAINERS / n).read_bytes() for n in ("install.sh", "cpu/Dockerfile", "cpu/requirements.lock")
    }
    assert json.loads(asked.query["buildargs"]) == {
        "BASE_IMAGE": image.base()["image"],
        "PIP_INDEX_URL": "https://index.invalid/simple",
    }
    assert asked.query["dockerfile"] == "cpu/Dockerfile" and fake.paths("DELETE") == ["/images/sha256:built"]
    (loaded,) = fake.of("POST", "/images/load")
    with tarfile.open(fileobj=BytesIO(loaded.body)) as normal:
        (described,) = json.load(normal.extractfile("manifest.json"))
    assert described["RepoTags"] == [first["tag"]]
    assert described["Config"] == f"blobs/{first['config'].replace(':', '/')}"
    image.ensure("cpu", fresh=True)
    assert [asked.query["nocache"] for asked in fake.of("POST", "/build")] == ["False", "True"]
    assert capsys.readouterr().out.count("building containers/cpu/Dockerfile") == 2


def test_an_image_that_was_removed_from_the_engine_is_built_again(fake, archive, monkeypatch):
    built(fake, *DONE, saved=archive)
    image.ensure("cpu")
    gone = iter([True, True])  # asked for twice: before the lock is there, and after
    missing = (404, refused("No such image: sha256:made"))
    usual = fake.answer

    def answer(asked, whole):
        return missing if asked.path == "/images/sha256:made/json" and next(gone, False) else usual(asked, whole)

    monkeypatch.setattr(fake, "answer", answer)
    image.ensure("cpu")
    assert len(fake.of("POST", "/build")) == 2


@pytest.mark.parametrize(
    "messages",
    [
        [{"error": "dockerfile parse error on line 3: unknown instruction: RNU"}],
        [
            {"stream": "Collecting numpy\n"},
            {"stream": "no route to the index"},
            {"error": "The command 'sh /context/install.sh' returned a non-zero code: 1"},
        ],
    ],
)
def test_a_build_that_fails_shows_the_end_of_its_log_with_the_engine_s_own_word(fake, messages):
    built(fake, *messages)
    error = seen(image.ensure, "cpu", kind=EnvironmentMissing)
    assert "The image cpu could not be built" in error.fact and "network=host" in error.action
    assert "image-cpu.log" in error.action
    for message in messages:
        assert message.get("stream", message.get("error")).strip() in error.fact


def test_a_build_that_fills_the_engine_s_disk_says_so(fake):
    built(fake, {"stream": "Collecting numpy\n"}, {"error": DISK})
    assert "disk is full" in seen(image.ensure, "cpu").fact


@pytest.mark.parametrize(
    ("asked", "status", "said", "word"),
    [
        (("POST", "/build"), 500, "builder broke", "builder broke"),
        (("POST", "/build"), CUT, "cut off", "image cpu"),
        (("GET", "/images/sha256:built/json"), 404, "No such image: sha256:built", "is gone from the engine"),
        (("GET", "/images/sha256:built/get"), 500, "cannot export", "cannot export"),
        (("GET", "/images/sha256:built/get"), CUT, "cut off", "image cpu"),
        (("POST", "/images/load"), 500, DISK, "disk is full"),
        (("POST", "/images/load"), 200, ({"errorDetail": {"message": "invalid tar header"}},), "invalid tar header"),
        (("POST", "/images/load"), 200, ({"errorDetail": {"message": DISK}},), "disk is full"),
    ],
)
def test_an_engine_that_fails_in_a_build_is_an_error_with_advice_and_leaves_no_record(
    fake, archive, asked, status, said, word
):
    built(fake, *DONE, saved=archive)
    fake.answers[asked] = (status, refused(said) if isinstance(said, str) else said)
    assert word in seen(image.ensure, "cpu").fact
    assert not image.recorded("cpu") and os.listdir(locks.scratch(paths.CACHE)) == []


def test_an_engine_that_loads_an_image_without_a_word_is_asked_for_it_by_name(fake, archive):
    built(fake, *DONE, saved=archive)
    fake.answers["POST", "/images/load"] = (200, ())
    assert image.ensure("cpu")["id"] == "sha256:made"


def test_a_base_that_cannot_be_pulled_names_the_ways_to_another(fake):
    fake.answers["POST", "/images/create"] = (500, refused("lookup registry: no such host"))
    error = seen(image.ensure, "cpu")
    assert "could not be pulled: lookup registry: no such host" in error.fact
    assert "containers/base/build" in error.action and "base=REF" in error.action


def test_a_base_that_a_person_names_is_the_only_one_that_is_asked_for(fake, monkeypatch):
    monkeypatch.setenv("ONNXMAKE_BASE", "mine.invalid/python:3")
    fake.answers["POST", "/images/create"] = (404, refused("pull access denied for mine.invalid/python"))
    assert "mine.invalid/python:3 could not be pulled: pull access denied" in seen(image.ensure, "cpu").fact
    assert fake.paths("GET")[-1] == "/images/mine.invalid/python:3/json"


def test_a_certificate_that_is_not_there_is_said_before_anything_is_built(fake, monkeypatch):
    monkeypatch.setenv("ONNXMAKE_CA", "/no/such.pem")
    built(fake)
    assert "ca=/no/such.pem is no file." in seen(image.ensure, "cpu", kind=EnvironmentMissing).fact
    assert not fake.of("POST", "/build")


def test_an_environment_without_an_image_for_linux_names_those_that_have_one(fake):
    built(fake)
    error = seen(image.ensure, "directml", kind=EnvironmentMissing)
    assert "no image 'directml' for Linux" in error.fact and "cpu" in error.action


@pytest.mark.parametrize("how", ["argument", "variable"])
def test_a_build_without_an_engine_falls_back_to_a_venv_and_says_so_once(toy, how):
    recorded(toy.cache)
    names = [toy.target(f"t{n}", [("begin", {}), ("scale", {"factor": n}), ("finish", {})]) for n in range(3)]
    toy.settings["ONNXMAKE_RUNNER"] = "auto" if how == "variable" else "docker"
    printed = toy.run(*(["runner=auto"] if how == "argument" else []), "-n", "4", *names)
    said = [line for line in printed.splitlines() if "a venv." in line]
    assert len(said) == 1 and said[0].startswith("environment cpu: ") and "No container engine answers." in said[0]
    assert "ran" in verbs(printed).values() and all((toy.output / "dist" / f"t{n}").is_dir() for n in range(3))


@pytest.mark.parametrize(("said", "advice"), [("podman", "Valid: auto, docker, venv."), ("dockr", "'docker'")])
def test_a_build_with_a_runner_that_is_none_names_those_that_are(toy, said, advice):
    printed = toy.fail(f"runner={said}", toy.target("a"))
    assert f"runner={said} is none that there is." in printed and advice in printed
    assert not toy.dist("a").exists() and not leftovers(toy)


def test_a_build_that_is_told_to_use_docker_does_not_fall_back(toy):
    recorded(toy.cache)
    printed = toy.fail("runner=docker", toy.target("a"))
    assert "No container engine answers." in printed and "runner=venv" in printed and "a venv." not in printed
    assert printed.count("ERROR") == 1 and not toy.dist("a").exists() and not leftovers(toy)


def test_a_build_that_the_engine_refuses_a_container_ends_with_its_reason(toy, archive):
    with serve() as fake:
        built(fake, *DONE, saved=archive)
        fake.answers["POST", "/containers/create"] = (500, refused(DISK))
        toy.settings |= {"DOCKER_HOST": fake.url, "ONNXMAKE_RUNNER": "docker"}
        printed = toy.fail(toy.target("a"))
        assert "image cpu: building" in printed and "disk is full" in printed and "docker system prune" in printed
        assert not leftovers(toy)
        fake.answers["POST", "/containers/create"] = (CUT, {"Id": "it", "Warnings": [], "padding": "-" * 1000})
        printed = toy.fail("build:a")
        assert "Could not start a container of the image cpu" in printed and "image cpu: building" not in printed
        assert "restored" not in printed and "ran" in verbs(toy.run("runner=venv", "build:a")).values()


def test_an_engine_at_another_usual_socket_is_found_and_docker_host_comes_first(fake, monkeypatch):
    monkeypatch.delenv("DOCKER_HOST")
    monkeypatch.setattr(engine, "SOCKETS", ("/nowhere.sock", f"$XDG_RUNTIME_DIR/{fake.socket.name}"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(fake.socket.parent))
    assert engine.may_answer() and engine.client() and fake.asked
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    assert not engine.may_answer()
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    assert engine.address() == "tcp://127.0.0.1:9"
