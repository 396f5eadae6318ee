"""`doit cache`: how large the store is, whether it is whole, what may go, and entries from and to other machines."""

import getopt
import re
from pathlib import Path

from onnxmake.build import archive, execute, garbage, key, paths, store
from onnxmake.build.commands import Command
from onnxmake.build.files import read_record
from onnxmake.build.plan import Plan, named
from onnxmake.build.report import bar, say
from onnxmake.build.schema import nearest
from onnxmake.errors import StoreError, TargetError

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
SPANS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def _number(text: str, units: dict[str, int], what: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([a-z]?)b?", text.strip().lower())
    if not match or match[2] not in units:
        raise TargetError(
            f"{text!r} is no {what}.", f"It is a number with one of {', '.join(filter(None, units))} behind it.", ""
        )
    return float(match[1]) * units[match[2]]


def _sizes(records: list[dict | None]) -> dict[str, int]:
    return {sha: size for record in records if record for sha, size in record["files"].values()}


def status(plan: Plan) -> None:
    """Sizes by target: all that its steps made, and what of it no other target shares."""
    from tabulate import tabulate

    objects = {name: _sizes([read_record(s.manifest) for s in steps]) for name, (_, steps) in plan.targets.items()}
    rows = []
    for name, own in objects.items():
        others = {sha for other, shas in objects.items() if other != name for sha in shas}
        alone = sum(size for sha, size in own.items() if sha not in others)
        rows.append([name, f"{sum(own.values()) / 1e6:,.1f}", f"{alone / 1e6:,.1f}"])
    say(tabulate(rows, ["target", "MB", "not shared"], disable_numparse=True, colalign=["left", "right", "right"]))
    free = garbage.find(plan.steps, 0, None)
    say(
        f"store {store.local()}: {len(garbage.entries())} entries, {(free.left + free.size) / 1e6:,.1f} MB,"
        f" {free.size / 1e6:,.1f} MB of it not from the last build of any output folder, nor pinned"
    )
    for layer in store.layers()[1:]:
        say(f"read-only {paths.shown(layer)}: {len(list((layer / 'entries').glob('*.json')))} entries")


def verify() -> None:
    """Raises StoreError if anything was damaged; it is gone from the store then."""
    with bar("verify") as draw:
        damaged = garbage.verify(draw)
    if damaged:
        raise StoreError(
            "\n".join(["The store was damaged:", *damaged]),
            "The disk, or something that writes to the store from outside.",
            "Build again: what was damaged is gone, and made anew.",
        )
    say(f"{len(list(garbage.objects()))} objects and {len(garbage.entries())} entries are whole")


def collect(plan: Plan, grace: str, max_size: str, dry_run: bool) -> None:
    """Remove what `garbage.find` finds, or only say what it is."""
    budget = int(_number(max_size, UNITS, "size")) if max_size else None
    found = garbage.find(plan.steps, _number(grace, SPANS, "time"), budget)
    for path in found.entries:
        record = read_record(path)
        say(f"  {record['key']['pass'] if record else 'damaged':<16} {path.stem[:12]}")
    for folder in (*found.folders, *found.images):
        say(f"  {folder.parent.name}/{folder.name}")
    if not dry_run:
        garbage.remove(found)
    verb = "would remove" if dry_run else "removed"
    say(
        f"{verb} {len(found.entries)} entries, {len(found.objects)} objects ({found.size / 1e6:,.1f} MB) and"
        f" {len(found.folders)} folders of other versions, {len(found.images)} images; {found.left / 1e6:,.1f} MB of objects stay"
    )


def _entries(plan: Plan, names: list[str]) -> list[store.Entry]:
    """The entries of the named targets' steps. Raises StoreError where one is not built."""
    found = {}
    for name in names:
        for step in plan.targets[name][1]:
            record = read_record(step.manifest)
            entry = store.find(record["key"]) if record else None
            if entry is None and record and execute.is_current(step):  # forgotten, though all of it is there
                cost = record["seconds"], store.local(), record.get("memory")
                entry = store.enter(record["key"], key.explain(step), record["files"], *cost)
            if entry is None:
                raise StoreError(f"{step.name} of {name} is not in the store.", "", f"Run doit build:{name} first.")
            found[entry.key] = entry
    return list(found.values())


def pack(plan: Plan, file: str, names: list[str]) -> None:
    everything = [entry for key in garbage.entries() if (entry := store.find(key))]
    entries = _entries(plan, named(plan, names)) if names else everything
    size = archive.pack(entries, Path(file))
    say(f"{file}: {len(entries)} entries, {size / 1e6:,.1f} MB")


def pin(plan: Plan, names: list[str]) -> None:
    for name in named(plan, names):
        garbage.pin(name, [entry.key for entry in _entries(plan, [name])])
        say(f"build:{name} is pinned as it is now")


def unpin(names: list[str]) -> None:
    for name in names:
        known = garbage.unpin(name.removeprefix("build:"))
        say(f"{name} is {'not pinned any more' if known else 'not pinned'}")


class Cache(Command):
    """Look after the store."""

    doc_purpose = "size, check, clean and carry the store"
    doc_usage = "[status | verify | gc | pack FILE [build:NAME ...] | unpack FILE | pin build:NAME | unpin build:NAME]"
    doc_description = """status: sizes by target.
verify: read every object again; what is damaged is dropped, and made again by the next build.
gc: forget what is neither pinned nor from the last build of an output folder on this machine.
pack, unpack: entries as one file, from one machine to another; checked on the way in.
pin, unpin: keep a target's present result whatever is built later."""
    cmd_options = (
        {
            "name": "grace",
            "long": "grace",
            "default": "7d",
            "help": "gc: keep what was used within this time (30m, 12h, 7d)",
        },
        {
            "name": "max_size",
            "long": "max-size",
            "default": "",
            "help": "gc: stop when the objects are within this size (500M, 20G)",
        },
        {"name": "dry_run", "long": "dry-run", "type": bool, "default": False, "help": "gc: only say what would go"},
    )

    def parse_execute(self, in_args):
        """doit reads options up to the first word; here they may follow it."""
        try:
            options, words = getopt.gnu_getopt(in_args, "", ["grace=", "max-size=", "dry-run"])
        except getopt.GetoptError:
            return super().parse_execute(in_args)
        return super().parse_execute([part for option in options for part in option if part] + words)

    def work(self, plan, params, arguments):
        what, *rest = arguments or ["status"]
        for word in rest:
            if word.startswith("-"):
                raise TargetError(f"doit cache knows no {word!r}.", "", "See doit help cache.")
        jobs = {
            "status": lambda: status(plan),
            "verify": verify,
            "gc": lambda: collect(plan, params["grace"], params["max_size"], params["dry_run"]),
            "pack": lambda: pack(plan, _one(rest, "pack"), rest[1:]),
            "unpack": lambda: say(f"{archive.unpack(Path(_one(rest, 'unpack')))} entries are in the store"),
            "pin": lambda: pin(plan, rest),
            "unpin": lambda: unpin(rest),
        }
        if what not in jobs:
            raise TargetError(f"doit cache knows no {what!r}.", "", nearest(what, jobs))
        jobs[what]()


def _one(arguments: list[str], what: str) -> str:
    if not arguments:
        raise TargetError(f"doit cache {what} needs a file.", "", f"Write doit cache {what} FILE.")
    return arguments[0]
