"""`doit import`: a workflow as a target file to edit, at the commits that the branches of its checkpoint and data sets are at now."""

import dataclasses
import functools
import tomllib
from collections.abc import Callable
from pathlib import Path

from onnxmake.build import fetch, job, new, paths, runner
from onnxmake.build.commands import Command
from onnxmake.build.files import digest_text, write_atomically
from onnxmake.build.naming import check_name
from onnxmake.build.report import say
from onnxmake.build.target import COMMIT, read_target
from onnxmake.errors import TargetError
from onnxmake.olive import hub, written
from onnxmake.olive.model import is_local, source
from onnxmake.olive.reading import described
from onnxmake.olive.translate import Translated, translate


def pinned(found: Translated) -> Translated:
    """With a commit in place of a branch: the hub is asked. Raises SourceError."""
    if is_local(found.workflow.file, found.name) or COMMIT.fullmatch(found.revision or ""):
        return found
    work = job.module("onnxmake.model.peek", "cpu", **fetch.hub_access())
    asked = {"repo": found.name, "revision": found.revision or "main", "names": ["config.json"]}
    log = paths.BUILD / "logs" / f"peek-{digest_text(found.name)[:10]}.log"
    return dataclasses.replace(found, revision=runner.run(work, asked, log, f"look at {found.name}")["revision"])


def imported(file: Path, out: Path, write: Callable[[Path, str], None] = write_atomically) -> str:
    """Write the target file; what it says. Raises TargetError, SourceError, StoreError."""
    found = translate(file)
    source(file, found.name, found.revision or "0" * 40)  # is it a folder, or could it be a repository?
    found = pinned(found)
    table = hub.settled(found.table, functools.cache(hub.ask(found.told)))
    table |= {"source": source(file, found.name, found.revision)}
    text = written.toml(described(found), found.told.notes, written.moved(table, file.parent, out.parent))
    read_target(out, {}, lambda _: (text, tomllib.loads(text)))  # before anything is written
    write(out, text)
    return text


class Import(Command):
    """Translate a workflow of Olive into a target file."""

    doc_purpose = "write an Olive workflow as a target"
    doc_usage = "-c CONFIG.json -o TARGET.toml"
    cmd_options = (
        {"name": "config", "short": "c", "long": "config", "default": "", "help": "the workflow"},
        {"name": "output", "short": "o", "long": "output", "default": "", "help": "the target file to write"},
        {"name": "force", "long": "force", "type": bool, "default": False, "help": "replace a target of that name"},
    )

    def work(self, plan, params, arguments):
        file, out = Path(params["config"]).resolve(), Path(params["output"]).resolve()
        if arguments or not params["config"] or out.suffix != ".toml":
            raise TargetError(
                "doit import takes a workflow and the name of a .toml file.",
                "One of them is missing, or something else is there, too.",
                "doit import -c olive_config.json -o targets/NAME.toml",
            )
        if not file.is_file():
            raise TargetError(f"{params['config']} is no file.", "A typing error.", "Correct -c.")
        check_name(out.stem, f"{params['output']}: ")

        def write(to: Path, text: str) -> None:
            say("\n".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")))
            new.write(to, text, params["force"], plan.releases, "Give -o another name")

        imported(file, out, write)
