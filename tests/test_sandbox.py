"""A step is cut off: no file but those it is given, no network, no variable of the caller's, and nothing that outlives it.

What a pass tries beyond that fails with cause and advice. Where the system permits no such thing, a build says so once, and
still notices when a pass writes to its inputs.
"""

import contextlib
import itertools
import json
import os
import py_compile
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import pytest
from builder import verbs
from toy import Toy, leftovers, tree

from onnxmake.model import sandbox

READS = '("checkpoint/architecture.json",)'
PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin")
LINGER = """import subprocess
subprocess.Popen(["sleep", "{mark}"], start_new_session={away})
(out / "x").write_text("done")"""
SCRIPT = """
import json, os, signal, socket, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import sandbox

work, what = Path(sys.argv[1]), sys.argv[2]
reason = sandbox.enter()
if reason is not None:
    print(reason)
    sys.exit(99)
if what == "exit":
    os._exit(3)
if what == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
sandbox.confine(work, [str(work / "src")], [str(work / "out"), str(work / "tmp")])


def tried(action, *arguments):
    try:
        action(*arguments)
    except OSError as error:
        return error.errno
    return 0


there = {
    "user": os.getuid(),
    "folder": os.getcwd(),
    "input": (work / "src" / "x").read_text(),
    "passwd": tried(open, "/etc/passwd"),
    "outside": tried(open, sys.argv[1] + "/secret"),
    "to input": tried(open, work / "src" / "x", "w"),
    "beside input": tried(open, work / "src" / "y", "w"),
    "elsewhere": tried(open, "/y", "w"),
    "network": tried(socket.create_connection, ("127.0.0.1", int(sys.argv[3])), 5),
    "temporary": tried(open, "/tmp/z", "w"),
}
(work / "out" / "y").write_text("made")
print(json.dumps(there))
"""
numbers = itertools.count(1)
cut_off = pytest.mark.skipif(
    not shutil.which("unshare")
    or subprocess.run(["unshare", "-n" if os.getuid() == 0 else "-Un", "true"], capture_output=True).returncode != 0,
    reason="this system permits no namespaces",
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A checkout whose passes and targets each have names of their own."""
    toy = Toy(tmp_path_factory.mktemp("sandbox"))
    toy.run(toy.target("first"))
    return toy


@pytest.fixture
def open_toy(toy):
    """The same without the cut."""
    toy.settings["ONNXMAKE_SANDBOX"] = "off"
    yield toy
    del toy.settings["ONNXMAKE_SANDBOX"]


@pytest.fixture
def mark():
    """An argument of `sleep` that no other process has."""
    return f"{10_000_000 + os.getpid()}.{next(numbers)}"


def attempt(toy, run: str, reads: str = READS, before=()) -> str:
    """A target with one pass of this body, behind the steps `before`, on a checkpoint of its own; returns its name."""
    number = next(numbers)
    folder = toy.root / "targets" / f"own{number}"
    shutil.copytree(toy.root / "targets" / "checkpoint", folder)
    toy.write_pass(f"try{number}", run, reads)
    toy.target(f"x{number}", [*before, (f"try{number}", {})], folder.name)
    return f"x{number}"


def finish(toy, *arguments) -> tuple[int, str]:
    """Run doit, which must end within 20 seconds, whoever holds its output open; returns exit code and output."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        process = start(toy, *arguments, stdout=file)
        try:
            code = process.wait(20)
        finally:
            process.kill()
            process.wait()
        file.seek(0)
        return code, file.read()


def start(toy, *arguments, stdout=subprocess.DEVNULL) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "doit", *arguments],
        cwd=toy.root,
        env=toy.environ,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.STDOUT,
    )


def built(toy, run: str, **more) -> tuple[Path, str]:
    """Build a pass of this body; returns its dist folder and what was printed."""
    name = attempt(toy, run, **more)
    code, printed = finish(toy, f"build:{name}")
    assert code == 0, printed
    return toy.dist(name), printed


def refused(toy, run: str, **more) -> str:
    """Build a pass of this body, which must end with an error of fact, cause and next action."""
    name = attempt(toy, run, **more)
    printed = toy.fail(f"build:{name}")
    assert not toy.dist(name).exists()
    assert leftovers(toy) == []
    return printed


def running(mark: str) -> list[int]:
    """Ids of processes that have `mark` among their arguments."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def within(seconds: float, condition) -> bool:
    """Whether the condition comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def descendants(pid: int) -> list[int]:
    try:
        children = [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return children + [d for c in children for d in descendants(c)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@cut_off
@pytest.mark.parametrize("path", ["/etc/passwd", "{file}", "/nowhere/at/all"])
def test_a_file_that_the_pass_was_not_given_cannot_be_read(toy, tmp_path, path):
    (tmp_path / "file").write_text("there")
    path = path.format(file=tmp_path / "file")
    printed = refused(toy, f"(out / 'x').write_bytes(open({path!r}, 'rb').read())")
    assert f"could not read or write {path}: No such file or directory" in printed
    assert "READS" in printed


@cut_off
def test_an_input_that_is_not_declared_cannot_be_read(toy):
    run = '(out / "x").write_bytes((src / "notes" / "size.txt").read_bytes())'
    printed = refused(toy, run, reads='("model.json",)', before=[("begin", {})])
    assert "size.txt" in printed and "READS" in printed
    folder, _ = built(toy, run, reads='("notes/size.txt",)', before=[("begin", {})])
    assert (folder / "x").read_text() == "3"


@cut_off
def test_what_is_declared_can_be_read_and_nothing_else_is_there(toy):
    users = ("/home", str(Path.home() / ".cache"), "/etc/passwd", "/var")
    run = f"""import os
there = sorted(os.path.join(at, n)[len(str(src)) + 1:] for at, _, names in os.walk(src) for n in names)
(out / "there").write_text(" ".join(there))
(out / "users").write_text(" ".join(n for n in {users} if os.path.exists(n)))
(out / "size").write_text((src / "checkpoint" / "architecture.json").read_text())"""
    folder, _ = built(toy, run)
    assert (folder / "there").read_text() == "checkpoint/architecture.json"
    assert (folder / "users").read_text() == ""
    assert json.loads((folder / "size").read_text()) == {"size": 3}


@cut_off
@pytest.mark.parametrize("path", ["/written", "/usr/lib/written", "/dev/written"])
def test_nothing_can_be_written_outside(toy, path):
    printed = refused(toy, f"(out / 'x').write_text('x')\nopen({path!r}, 'w').write('x')")
    assert f"could not read or write {path}: " in printed
    assert not Path(path).exists()


@cut_off
@pytest.mark.parametrize("where", ["/tmp/written", "{checkout}/written"])
def test_what_a_pass_writes_below_tmp_is_its_own_and_gone(toy, where):
    """The checkout is there, too."""
    path = where.format(checkout=toy.root)
    built(
        toy,
        f"""(out / "x").write_text("x")
try:
    open({path!r}, "w").write("x")
except OSError:
    pass""",
    )
    assert not Path(path).exists() and leftovers(toy) == []


@cut_off
@pytest.mark.parametrize(
    "write",
    [
        '(src / "checkpoint" / "architecture.json").write_text("{}")',
        '(src / "model.json").write_text("[]")',
        '(src / "more").write_text("x")',
        '(src / "model.json").unlink()',
    ],
)
def test_inputs_cannot_be_changed(toy, write):
    before = tree(toy.cache / "store")
    printed = refused(toy, write, reads='("model.json", "checkpoint/architecture.json")', before=[("begin", {})])
    assert "Read-only file system" in printed
    assert {name: data for name, data in tree(toy.cache / "store").items() if name in before} == before


@cut_off
def test_there_is_no_network_not_even_the_machine_s_own(toy):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), 5).close()
        server.accept()[0].close()
        printed = refused(toy, f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 10)")
        assert "has no network" in printed
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


@cut_off
def test_a_host_s_name_is_not_looked_up_and_the_error_says_why(toy):
    assert "has no network" in refused(toy, 'import socket\nsocket.create_connection(("localhost.example.org", 80), 5)')


@cut_off
@pytest.mark.parametrize("away", [False, True], ids=["in its group", "in a session of its own"])
def test_a_child_left_running_is_gone_when_the_build_is(toy, mark, away):
    folder, _ = built(toy, LINGER.format(mark=mark, away=away))
    assert running(mark) == []
    assert (folder / "x").read_text() == "done"


@cut_off
def test_a_child_left_running_is_gone_when_the_pass_fails(toy, mark):
    refused(toy, LINGER.format(mark=mark, away=True) + '\nopen("/nowhere")')
    assert running(mark) == []


@pytest.mark.parametrize("off", [pytest.param(False, marks=cut_off), True], ids=["cut off", "open"])
def test_a_child_that_goes_on_writing_after_the_result_changes_nothing(toy, request, mark, off):
    if off:
        request.getfixturevalue("open_toy")
    run = f"""import subprocess, time
subprocess.Popen(["sh", "-c", "while :; do echo more >> $1; sleep 0.01; done", "{mark}", str(out / "x")])
while not (out / "x").exists():
    time.sleep(0.01)"""
    folder, _ = built(toy, run)
    assert running(mark) == []
    digest, size = json.loads((folder / "manifest.json").read_text())["files"]["x"]
    kept = toy.cache / "store" / "objects" / digest[:2] / digest
    assert sha256(kept.read_bytes()).hexdigest() == digest
    assert (folder / "x").read_bytes() == kept.read_bytes() and kept.stat().st_size == size


@pytest.mark.parametrize("code", [0, 3])
def test_a_pass_that_ends_its_process_is_an_error(toy, code):
    name = attempt(toy, f'(out / "x").write_text("x")\nimport os\nos._exit({code})')
    printed = toy.fail(f"build:{name}")
    assert ("ended without a result" if code == 0 else "ended with exit code 3") in printed
    assert not toy.dist(name).exists()


def test_a_pass_that_is_killed_is_an_error(toy):
    assert "was killed" in refused(toy, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")


def test_a_pass_may_print_much_and_anything(toy):
    run = """import os, sys
for number in range(50_000):
    print(number, "line " * 10)
print("e" * 5_000_000, file=sys.stderr, flush=True)
os.write(1, b"\\xff\\xfe\\0\\n")
(out / "x").write_text("x")"""
    folder, printed = built(toy, run)
    assert (folder / "x").read_text() == "x"
    assert "line line" not in printed
    log = max((toy.output / "build" / "logs").glob("try*.log"), key=lambda p: p.stat().st_mtime).read_text("utf-8")
    assert "49999 line" in log and "e" * 5_000_000 in log


def test_a_pass_may_leave_a_line_unfinished(toy):
    folder, _ = built(toy, 'print("at work ...", end="", flush=True)\n(out / "x").write_text("x")')
    assert (folder / "x").read_text() == "x"


@pytest.mark.parametrize("line", ["@onnxmake hello", '@onnxmake {"total": 1}'])
def test_a_line_that_looks_like_a_message_does_no_harm(toy, line):
    run = f"""print({line!r}, flush=True)
for number in range(10_000):
    print(number, "more", flush=number % 1000 == 0)
(out / "x").write_text("x")"""
    folder, printed = built(toy, run)
    assert (folder / "x").read_text() == "x"
    assert "Traceback" not in printed


@cut_off
@pytest.mark.parametrize("module", ["safetensors", "kernels"])
def test_a_module_that_the_pass_does_not_name_cannot_be_imported(toy, module):
    run = f"""import importlib
importlib.import_module("onnxmake.model." + {module!r})
(out / "x").write_text("x")"""
    name = attempt(toy, run)
    code, printed = finish(toy, f"build:{name}")
    assert code != 0, printed
    assert module in printed and not toy.dist(name).exists()


def test_a_module_that_the_pass_names_can_be_imported(toy):
    folder, _ = built(toy, 'from onnxmake.model import safetensors as s\n(out / "x").write_text(s.__name__)')
    assert (folder / "x").read_text() == "onnxmake.model.safetensors"


def test_a_step_sees_no_variable_of_the_caller_s_and_a_home_of_its_own(toy):
    toy.settings |= {"SECRET": "1", "LC_ALL": "de_DE.UTF-8", "PYTHONHASHSEED": "7", "HF_TOKEN": "t", "HOME": "/root"}
    try:
        run = """import json, os, tempfile
seen = {"variables": dict(os.environ), "folder": os.getcwd(), "temporary": tempfile.gettempdir(),
    "home": os.path.expanduser("~"), "out": str(out)}
(out / "x").write_text(json.dumps(seen))"""
        folder, _ = built(toy, run)
    finally:
        for name in ("SECRET", "LC_ALL", "PYTHONHASHSEED", "HF_TOKEN", "HOME"):
            del toy.settings[name]
    seen = json.loads((folder / "x").read_text())
    variables = seen["variables"]
    assert not {"SECRET", "HF_TOKEN", "ONNXMAKE_CACHE", "ONNXMAKE_OUTPUT"} & set(variables)
    assert (variables["LC_ALL"], variables["PYTHONHASHSEED"], variables["TZ"]) == ("C.UTF-8", "0", "UTC")
    work = Path(seen["out"]).parent
    assert seen["folder"] == str(work) and work.is_relative_to(toy.cache)
    assert seen["home"] == seen["temporary"] == variables["HOME"] == variables["TMPDIR"]
    assert Path(seen["home"]).is_relative_to(work)
    assert not work.exists()


def test_what_a_pass_leaves_in_its_temporary_folder_is_no_result_and_gone(toy):
    run = """import tempfile, os
with tempfile.NamedTemporaryFile(delete=False) as file:
    file.write(b"scrap")
open(os.path.expanduser("~/.settings"), "w").close()
(out / "x").write_text("x")"""
    folder, _ = built(toy, run)
    assert sorted(os.listdir(folder)) == ["manifest.json", "x"]
    assert leftovers(toy) == [] and os.listdir(toy.cache / "home") == []


@pytest.mark.parametrize(
    "leave",
    [
        'os.symlink(src / "checkpoint" / "architecture.json", out / "odd")',
        'os.symlink("nowhere", out / "odd")',
        'os.symlink("/usr", out / "odd")',
        'os.mkfifo(out / "odd")',
    ],
)
def test_anything_but_plain_files_and_folders_is_refused_as_a_result(toy, leave):
    before = set(tree(toy.cache / "store" / "entries"))
    printed = refused(toy, f'import os\n(out / "x").write_text("x")\n{leave}')
    assert "odd" in printed and "is no plain file" in printed
    assert {n.split("/")[-1] for n in set(tree(toy.cache / "store" / "entries")) - before} == set()


def test_without_the_cut_a_build_says_so_once(open_toy, tmp_path):
    other = Toy(open_toy.root.parent, tmp_path / "cache", tmp_path / "out")
    other.settings = open_toy.settings
    printed = other.run("build:first")
    assert list(verbs(printed).values()) == ["ran"] * 3
    said = [line for line in printed.splitlines() if "not cut off" in line]
    assert len(said) == 1 and "ONNXMAKE_SANDBOX" in said[0]
    assert other.run("build:first") == "build:first: up to date\n"


def test_without_the_cut_a_child_left_running_is_gone_when_the_build_is(open_toy, mark):
    folder, _ = built(open_toy, LINGER.format(mark=mark, away=False))
    assert running(mark) == [] and (folder / "x").read_text() == "done"


def test_without_the_cut_the_bytes_are_the_same(open_toy, tmp_path):
    other = Toy(open_toy.root.parent, tmp_path / "cache", tmp_path / "out")
    other.settings = open_toy.settings
    other.run("build:first")
    assert tree(other.dist("first")) == tree(open_toy.dist("first"))


@pytest.mark.parametrize(
    "keep", ["", "\nos.utime(file, ns=(0, stat.st_mtime_ns + 1))"], ids=["plainly", "at an old time"]
)
def test_without_the_cut_a_pass_that_writes_to_its_input_is_noticed_and_the_damage_repaired(open_toy, keep):
    run = f"""import os
file = src / "model.json"
stat = file.stat()
(out / "x").write_bytes(file.read_bytes())
os.chmod(file, 0o644)
file.write_text("[9, 9, 9, 9]"){keep}"""
    name = attempt(open_toy, run, reads='("model.json",)', before=[("begin", {"width": 5 + len(keep)})])
    printed = open_toy.fail(f"build:{name}")
    assert "changed while it ran" in printed and "inputs.model.json" in printed
    assert not open_toy.dist(name).exists()
    (open_toy.root / "passes" / f"{name.replace('x', 'try')}.py").write_text(
        (open_toy.root / "passes" / f"{name.replace('x', 'try')}.py")
        .read_text()
        .replace("[9, 9, 9, 9]", "")
        .split("    os.chmod")[0]
    )
    made = verbs(open_toy.run(f"build:{name}"))
    assert made[name.replace("x", "try")] == "ran" and made.get("begin", "ran") == "ran"
    assert json.loads((open_toy.dist(name) / "x").read_text()) == [n * 3 for n in range(5 + len(keep))]
    open_toy.run("cache", "verify")


@pytest.mark.parametrize("off", [pytest.param(False, marks=cut_off), True], ids=["cut off", "open"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_build_that_is_ended_takes_its_step_along(toy, request, mark, off, number):
    if off:
        request.getfixturevalue("open_toy")
    name = attempt(toy, f'import subprocess\nsubprocess.run(["sleep", "{mark}"])')
    process = start(toy, f"build:{name}")
    try:
        assert within(60, lambda: running(mark) or process.poll() is not None) and process.poll() is None
        steps = descendants(process.pid)
        assert set(running(mark)) <= set(steps)
        process.send_signal(number)
        process.wait(60)
        assert process.returncode != 0
        assert within(20, lambda: not any(alive(pid) for pid in steps)), running(mark)
    finally:
        process.kill()
        process.wait()
        for pid in running(mark):
            os.kill(pid, signal.SIGKILL)
    toy.run("build:first")
    assert leftovers(toy) == [] and not toy.dist(name).exists()


@pytest.fixture
def script():
    """The sandbox and a script that enters it, in a folder that every user can read and write."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    (folder / "sandbox.py").write_bytes(Path(sandbox.__file__).read_bytes())
    (folder / "script.py").write_text(SCRIPT)
    (folder / "secret").write_text("secret")
    for name in ("src", "out", "tmp"):
        (folder / name).mkdir()
    (folder / "src" / "x").write_text("input")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def entered(script, user: int, what: str, port: int = 9) -> subprocess.CompletedProcess:
    """Run the script as `user`; skipped where this system lets that user make no namespaces."""
    change = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if os.getuid() != user else []
    if os.getuid() not in (0, user) or not PYTHON or (change and not shutil.which("setpriv")):
        pytest.skip("needs root, setpriv and the system's Python")
    kinds = "-mpn" if user == 0 else "-Umpn"
    if subprocess.run([*change, "unshare", kinds, "true"], capture_output=True).returncode:
        pytest.skip("this system lets the user make no namespaces")
    return subprocess.run(
        [*change, PYTHON, str(script / "script.py"), str(script), what, str(port)],
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("user", [0, 1000])
def test_root_and_others_are_cut_off_alike(script, user):
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = entered(script, user, "try", server.getsockname()[1])
    assert done.returncode == 0, done.stdout
    seen = json.loads(done.stdout)
    missing, read_only, unreachable = 2, 30, 101
    assert seen == {
        "user": user,
        "folder": str(script),
        "input": "input",
        "passwd": missing,
        "outside": missing,
        "to input": read_only,
        "beside input": read_only,
        "elsewhere": read_only,
        "network": unreachable,
        "temporary": 0,
    }
    assert (script / "out" / "y").read_text() == "made"
    assert (script / "tmp" / "z").exists() and not Path("/tmp/z").exists()
    assert (script / "out" / "y").stat().st_uid == user


@pytest.mark.parametrize("user", [0, 1000])
@pytest.mark.parametrize(("what", "code"), [("exit", 3), ("killed", -signal.SIGKILL)])
def test_the_process_outside_ends_as_the_step_does(script, user, what, code):
    assert entered(script, user, what).returncode == code


def test_bytecode_of_another_source_is_never_run(tmp_path):
    toy = Toy(tmp_path)
    module = toy.root / "onnxmake" / "model" / "extra.py"
    module.write_text("VALUE = 3\n")
    toy.write_pass("use", "from onnxmake.model import extra\n(out / 'model.json').write_text(str(extra.VALUE))", READS)
    toy.target("a", [("use", {})])
    for value in (3, 7):
        stat = module.stat()
        module.write_text(f"VALUE = {value}\n")
        os.utime(module, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        toy.run("build")
        assert (toy.dist("a") / "model.json").read_text() == str(value)
        py_compile.compile(str(module))  # what Python would take for the next one's


def test_where_the_system_refuses_namespaces_a_build_says_so_once_and_goes_on(tmp_path):
    toy = Toy(tmp_path)
    toy.write_pass(
        "children",
        "import subprocess\nfor n in range(3):\n    subprocess.run(['true'], check=True)\n(out / 'model.json').write_text('[1]')",
        READS,
    )
    toy.target("a", [("children", {}), ("scale", {}), ("finish", {})])
    toy.run("cache")
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all "$@"'
    process = toy.start("build", within=("unshare", "--user", "--map-root-user", "sh", "-c", script, "sh"))
    printed, _ = process.communicate()
    if printed.startswith("unshare: "):
        pytest.skip(f"this system makes no user namespace: {printed}")
    assert process.returncode == 0, printed
    assert printed.count("steps are not cut off from files and network here: ") == 1
    assert (toy.dist("a") / "model.json").read_text() == "[2]"
