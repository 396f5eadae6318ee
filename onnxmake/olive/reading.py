"""A workflow in the place of a target file."""

from pathlib import Path
from typing import Any

from onnxmake.build import paths
from onnxmake.olive import hub
from onnxmake.olive.model import source
from onnxmake.olive.translate import Translated, translate


def described(found: Translated) -> str:
    return f"{found.name.split('/')[-1]} for {found.table['device']}, by the Olive workflow {found.workflow.file.name}."


def read(file: Path) -> tuple[str, dict[str, Any]]:
    """As of a TOML file: a text whose first comment says what it is, and the table. Raises TargetError."""
    found = translate(file)
    where = source(file, found.name, found.revision)
    table = hub.settled(found.table, hub.refuse(paths.shown(file), file))
    differ = len(found.told.notes)
    more = f" {differ} {'note' if differ == 1 else 'notes'}: doit import." if differ else ""
    return f"# {described(found)}{more}", {"device": found.table["device"], "source": where} | table
