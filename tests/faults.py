"""The fault harness: break a build in every way that can be thought of, then build again and compare with a clean build.

`python tests/faults.py` runs all classes and prints the table of docs/reliability.md.
"""

import functools
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from builder import Builder
from toy import Toy, leftovers, tree

INJECT = Path(__file__).with_name("inject.py")
Injection = tuple[str, Callable[[Path], str]]  # what is done, and the doing: in a fresh folder; returns what was lost


def start_injected(toy: Builder, at: int, number: int, *arguments: str) -> subprocess.Popen:
    return toy.start(*arguments, program=(str(INJECT), str(at), str(int(number))))


def processes(toy: Builder) -> list[int]:
    """Processes that know the toy's cache: its builds and steps."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (
                str(toy.cache).encode() in (folder / "environ").read_bytes()
                and "Z (" not in (folder / "status").read_text()
            ):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def dists(toy: Builder) -> dict[str, dict[str, bytes]]:
    return {p.name: tree(p) for p in sorted((toy.output / "dist").iterdir()) if not p.name.startswith(".")}


def settle(toy: Builder, clean: dict[str, dict[str, bytes]], arguments: tuple[str, ...] = ("build",)) -> str:
    """The promise: the next plain run ends with a clean build's bytes, and nothing is left. Returns what is broken, or nothing."""
    until = time.monotonic() + 20
    while processes(toy) and time.monotonic() < until:
        time.sleep(0.02)
    if left := processes(toy):
        return f"processes go on: {left}"
    process = toy.start(*arguments)
    printed, _ = process.communicate()
    if process.returncode:
        return f"the next run failed: {printed}"
    if dists(toy) != clean:
        return "the next run gave other bytes"
    if left := leftovers(toy) + processes(toy):
        return f"left over: {left}"
    again = toy.run(*arguments)
    return "" if all(line.endswith(": up to date") for line in again.splitlines()) else f"and again: {again}"


class Bench:
    """Fresh toys, and what a clean build of them gives."""

    def __init__(self, folder: Path):
        self.folder = folder
        first = self.toy(folder / "clean")
        first.run("build")
        self.clean = dists(first)
        both = self.pair(folder / "both")
        both.run("build")
        self.two = dists(both)

    def toy(self, folder: Path, **options) -> Toy:
        toy = Toy(folder, **options)
        toy.target("a", (("begin", {}), ("finish", {})))
        return toy

    def pair(self, folder: Path) -> Toy:
        """A toy with two targets that begin alike."""
        toy = self.toy(folder)
        toy.target("b", (("begin", {}), ("scale", {"factor": 5}), ("finish", {})))
        return toy

    @functools.cached_property
    def points(self) -> int:
        """How many changes a build makes to cache and output."""
        process = start_injected(self.toy(self.folder / "count"), 0, 0, "build")
        printed, _ = process.communicate()
        return int(printed.rsplit("changes ", 1)[1])


def signals(bench: Bench, number: signal.Signals) -> Iterator[Injection]:
    """A signal before every change that a build makes to cache or output."""

    def run(at: int, folder: Path) -> str:
        toy = bench.toy(folder)
        start_injected(toy, at, number, "build").communicate()
        return settle(toy, bench.clean)

    for at in range(1, bench.points + 1):
        yield f"{number.name} before change {at}", lambda folder, at=at: run(at, folder)


def _built_files(toy: Toy) -> list[Path]:
    """Everything that a build leaves in cache and output, but environments and what no build reads."""
    skip = ("envs", "numba", "logs", "home", "locks")
    found = [p for root in (toy.cache, toy.output) for p in root.rglob("*") if p.is_file() and not {*p.parts} & {*skip}]
    return sorted(
        found, key=lambda p: (len(p.parts), p.parent.name if len(p.parent.name) > 2 else "", p.stat().st_size, p.name)
    )


def flip(path: Path, where: int) -> None:
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[where % len(content)] ^= 1 << (where % 8)
    path.write_bytes(content)


def damages(bench: Bench, damage: Callable[[Path, int], None], each: int = 1) -> Iterator[Injection]:
    """Every file that a build left, damaged; then the same with dist gone, so that the store has to give it again."""

    def run(index: int, where: int, rebuilt: bool, folder: Path) -> str:
        toy = bench.toy(folder)
        toy.run("build")
        damage(_built_files(toy)[index], where)
        if rebuilt:
            shutil.rmtree(toy.output)
            toy.output.mkdir()
        return settle(toy, bench.clean)

    reference = bench.toy(bench.folder / "files")
    reference.run("build")
    numbers = random.Random(7)
    for index, name in enumerate(_built_files(reference)):
        inside = name.is_relative_to(reference.cache)
        for _, rebuilt in itertools.product(range(each), (False, True) if inside else (False,)):
            where = numbers.randrange(1 << 16)
            label = f"{name.relative_to(bench.folder / 'files')}{' and output removed' if rebuilt else ''}"
            yield label, lambda f, i=index, w=where, r=rebuilt: run(i, w, r, f)


def rot(path: Path, where: int) -> None:
    """A flipped bit that leaves size and time as they were."""
    stat = path.stat()
    flip(path, where)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def rotten(bench: Bench) -> Iterator[Injection]:
    """Every object of the store, once its digest is remembered, and its output is asked for again or a step reads it."""

    def run(index: int, then: str, folder: Path) -> str:
        toy = bench.pair(folder)
        toy.run("build:a")
        toy.run("why", "build:a")
        objects = sorted(p for p in (toy.cache / "store" / "objects").rglob("*") if p.is_file())
        rot(objects[index], 8 * index)
        if then == "restore":
            shutil.rmtree(toy.output)
            toy.output.mkdir()
        return settle(toy, bench.two)

    for index, then in itertools.product(range(3), ("restore", "read")):
        yield f"object {index}, then {then}", lambda f, i=index, t=then: run(i, t, f)


def mounted(toy: Toy, script: str) -> subprocess.CompletedProcess:
    """Run a shell script in the toy's checkout, in a mount namespace of its own."""
    user = () if os.getuid() == 0 else ("--map-root-user",)
    command = ["unshare", "--mount", *user, "sh", "-c", script]
    return subprocess.run(command, cwd=toy.root, env=toy.environ, capture_output=True, text=True)


def full_disk(bench: Bench) -> Iterator[Injection]:
    """A disk of every size up to what a build needs; then there is room again."""

    def run(which: str, kilobytes: int, folder: Path) -> str:
        toy = bench.toy(folder)
        disk = toy.cache if which == "cache" else toy.output
        links = (
            "".join(f"ln -s {(toy.cache / n).resolve()} {disk / n} && " for n in ("envs", "numba"))
            if which == "cache"
            else ""
        )
        doit = f"{sys.executable} -m doit build"
        script = (
            f"mount -t tmpfs -o size={kilobytes}k tmpfs {disk} && {links}{{ {doit}; mount -o remount,size=64m {disk}; {doit} && {doit}"
            f" && find {disk} -name '.tmp*' && cp -r {toy.output}/dist {folder}/dist; }}"
        )
        done = mounted(toy, script)
        if done.returncode or "Traceback" in done.stdout + done.stderr or ".tmp" in done.stdout:
            return f"{done.stdout}{done.stderr}"
        return "" if {"a": tree(folder / "dist" / "a")} == bench.clean else "other bytes"

    for which in ("cache", "output"):
        for kilobytes in (*range(4, 80, 8), *range(80, 340, 24)):
            yield f"{which} of {kilobytes} kB", lambda f, w=which, k=kilobytes: run(w, k, f)


def read_only(bench: Bench) -> Iterator[Injection]:
    """Cache or output cannot be written, before and after a first build; then they can."""

    def run(which: str, built: bool, folder: Path) -> str:
        toy = bench.toy(folder)
        if built:
            toy.run("build")
            shutil.rmtree(toy.output / "dist")
        disk = toy.cache if which == "cache" else toy.output
        script = f"mount --bind {disk} {disk} && mount -o remount,bind,ro {disk} && ! {sys.executable} -m doit build"
        done = mounted(toy, script)
        if done.returncode or "Next:" not in done.stdout + done.stderr:
            return f"no clear error: {done.stdout}{done.stderr}"
        return settle(toy, bench.clean)

    for which, built in itertools.product(("cache", "output"), (False, True)):
        yield f"{which} read-only{' after a build' if built else ''}", lambda f, w=which, b=built: run(w, b, f)


def clocks(bench: Bench) -> Iterator[Injection]:
    """The clock was ahead while a build ran, and is set back; then an input changes."""

    def run(days: int, folder: Path) -> str:
        toy = bench.toy(folder)
        toy.run("build")
        for path in (
            p for root in (toy.cache, toy.output) for p in root.rglob("*") if p.is_file() and "envs" not in p.parts
        ):
            os.utime(path, (time.time() + days * 86400,) * 2)
        if wrong := settle(toy, bench.clean):
            return wrong
        weights = toy.root / "targets" / "checkpoint" / "model.safetensors"
        kept = weights.read_bytes()
        flip(weights, len(kept) * 8 - 8)
        os.utime(weights, (time.time() - days * 86400,) * 2)
        toy.run("build")
        if dists(toy) == bench.clean:
            return "a changed input was not noticed"
        weights.write_bytes(kept)
        os.utime(weights, (time.time() + days * 86400,) * 2)
        return settle(toy, bench.clean)

    for days in (-400, -1, 1, 400):
        yield f"files from {days} days away", lambda f, d=days: run(d, f)


def swaps(bench: Bench) -> Iterator[Injection]:
    """A file is swapped for another of equal size and time, and back; every build must follow."""

    def run(name: str, old: bytes, new: bytes, folder: Path) -> str:
        toy = bench.toy(folder)
        toy.run("build")
        path = toy.root / name
        stat, content = path.stat(), path.read_bytes()
        assert old in content and len(old) == len(new)
        for text in (content.replace(old, new), content):
            (folder / "other").write_bytes(text)
            os.utime(folder / "other", ns=(stat.st_atime_ns, stat.st_mtime_ns))
            os.replace(folder / "other", path)
            toy.run("build")
            if (dists(toy) == bench.clean) != (text == content):
                return f"{name} is not what was built from"
        return settle(toy, bench.clean)

    table = {
        "targets/checkpoint/config.json": (b"3", b"7"),
        "targets/checkpoint/model.safetensors": (b"\1\2\3", b"\3\2\1"),
        "passes/begin.py": (b"n * size", b"n - size"),
    }
    for name, (old, new) in table.items():
        yield name, lambda f, n=name, o=old, w=new: run(n, o, w, f)


def concurrent(bench: Bench) -> Iterator[Injection]:
    """Builds of overlapping targets at once, with one store, and one output folder or several."""

    def run(count: int, shared: bool, folder: Path) -> str:
        first = bench.pair(folder)
        toys = [first if shared else bench.toy(folder, output=folder / f"out{n}") for n in range(count)]
        names = itertools.cycle([("build:a",), ("build:b",), ("build",), ("build:b", "build:a")])
        running = [toy.start("-n", "2", *next(names)) for toy in toys]
        printed = [process.communicate()[0] for process in running]
        if any(process.returncode for process in running):
            return "\n".join(printed)
        ran = sum(text.count(" ran ") for text in printed)
        if ran != 4:
            return f"{ran} steps ran, not 4"
        return next(filter(None, (settle(toy, bench.two) for toy in {id(t): t for t in toys}.values())), "")

    for count, shared in itertools.product((2, 4, 8), (True, False)):
        yield (
            f"{count} builds, {'one output' if shared else 'an output each'}",
            lambda f, c=count, s=shared: run(c, s, f),
        )


CHILDREN = """
import os, subprocess, sys
from pathlib import Path
code = "import time, sys\\nend = time.time() + 60\\nwhile time.time() < end:\\n    open(sys.argv[1], 'ab').write(b'x')\\n    time.sleep(0.01)"
for away in (False, True):
    subprocess.Popen([sys.executable, "-c", code, str(out / "late.txt")], start_new_session=away)
(out / "late.txt").write_bytes(b"done")
(out / "model.json").write_bytes((src / "model.json").read_bytes())
(out / "late.txt").unlink()
""".strip()


def children(bench: Bench) -> Iterator[Injection]:
    """A step leaves children that hold its output open and go on writing, in its session and in their own."""

    def run(folder: Path) -> str:
        toy = bench.toy(folder)
        toy.write_pass("leave", CHILDREN)
        toy.target("a", (("begin", {}), ("leave", {}), ("finish", {})))
        toy.run("build")
        if left := processes(toy):
            return f"processes go on: {left}"
        return settle(toy, dists(toy))

    for n in range(3):
        yield f"children left, {n}", run


def edits(bench: Bench) -> Iterator[Injection]:
    """Code or an input is edited while a step that read it runs."""

    def run(name: str, folder: Path) -> str:
        toy = bench.toy(folder)
        toy.write_pass(
            "wait",
            "import time\ntime.sleep(2)\n" + "(out / 'model.json').write_bytes((src / 'model.json').read_bytes())",
        )
        toy.target("a", (("begin", {}), ("wait", {}), ("finish", {})))
        process = toy.start("build")
        while not list((toy.output / "build" / "logs").glob("wait-*.log")):
            time.sleep(0.01)
        time.sleep(0.3)
        path = toy.root / name
        content = path.read_bytes()
        path.write_bytes(content + b"\n# edited\n")
        printed, _ = process.communicate()
        if process.returncode == 0 or "changed while it ran" not in printed:
            return f"not noticed: {printed}"
        path.write_bytes(content)
        toy.run("build")
        return settle(toy, dists(toy))

    for name in ("passes/wait.py", "onnxmake/model/step.py", "containers/cpu/requirements.lock"):
        yield name, lambda f, n=name: run(n, f)


def emptied(bench: Bench) -> Iterator[Injection]:
    """Somebody removes the store, or build/, between steps."""

    def run(victim: str, step: str, folder: Path) -> str:
        toy = bench.pair(folder)
        process = toy.start("build")
        while process.poll() is None and not list((toy.output / "build" / "logs").glob(f"{step}-*.log")):
            time.sleep(0.002)
        shutil.rmtree(folder / victim, ignore_errors=True)
        printed, _ = process.communicate()
        if "Traceback" in printed:
            return printed
        return settle(toy, bench.two)

    for victim, step in itertools.product(
        ("cache/store", "out/build/steps", "out/build/sources"), ("begin", "scale", "finish")
    ):
        yield f"{victim} gone while {step} runs", lambda f, v=victim, s=step: run(v, s, f)


def _delete(path: Path, where: int) -> None:
    path.unlink()


def _cut(path: Path, where: int) -> None:
    path.chmod(0o644)
    os.truncate(path, where % max(path.stat().st_size, 1))


CLASSES: dict[str, Callable[[Bench], Iterator[Injection]]] = {
    "SIGKILL at every change to cache or output": lambda b: signals(b, signal.SIGKILL),
    "SIGTERM at every change": lambda b: signals(b, signal.SIGTERM),
    "Ctrl-C at every change": lambda b: signals(b, signal.SIGINT),
    "full disk, of every size": full_disk,
    "read-only cache or output": read_only,
    "flipped bit in any file of store, manifests, dist": lambda b: damages(b, flip, 2),
    "flipped bit in an object, its time set back": rotten,
    "any of these files deleted": lambda b: damages(b, _delete),
    "any of these files cut short, as by a power cut": lambda b: damages(b, _cut),
    "clock set back or ahead": clocks,
    "input swapped for one of equal size and time": swaps,
    "2, 4, 8 builds of overlapping targets at once": concurrent,
    "step leaves children that write on after its success": children,
    "code or lock edited while a step runs": edits,
    "store or manifests removed while a build runs": emptied,
}


def run_class(bench: Bench, name: str, workers: int = 2, every: int = 1) -> list[tuple[str, str]]:
    """(injection, what was lost) of a class's injections, or one in `every`, several at a time."""

    def one(injection: Injection) -> tuple[str, str]:
        label, act = injection
        folder = Path(tempfile.mkdtemp(dir=bench.folder))
        lost = act(folder)
        if not lost:
            shutil.rmtree(folder, ignore_errors=True)
        return label, lost

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, itertools.islice(CLASSES[name](bench), 0, None, every)))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        print("| fault | injections | losses |\n|---|---|---|")
        for name in CLASSES:
            results = run_class(bench, name)
            lost = [f"{label}: {text}" for label, text in results if text]
            print(f"| {name} | {len(results)} | {len(lost)} |", flush=True)
            print(*lost, sep="\n", file=sys.stderr)


if __name__ == "__main__":
    main()
