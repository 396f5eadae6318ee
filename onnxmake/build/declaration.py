"""What a pass says of itself, read from its source without running its imports.

The host has none of the packages it needs.
"""

import ast
import dataclasses
import functools
from pathlib import Path
from typing import Literal

from onnxmake.build import paths
from onnxmake.build.device import tables
from onnxmake.build.schema import nearest
from onnxmake.errors import TargetError

DECLARED = {"ENVIRONMENT", "READS", "MEMORY_MB", "GPUS", "TIMEOUT_S", "MACHINE", "TUNES", "RESUMES", "UNIT", "STAGE"}
LIGHT = {"dataclasses", "typing", "onnxmake.model.options"}


@dataclasses.dataclass(frozen=True)
class Declaration:
    """A pass file: its environment, the files it reads, the dataclass of its options, and what
    it needs of the machine."""

    name: str
    path: Path
    doc: str
    environment: str
    reads: tuple[str, ...]
    options: type
    memory_mb: int
    gpus: int
    timeout_s: int
    machine: bool = False  # its result is measured: another machine, or another time, may give another
    tunes: bool = False  # later passes see its files as the checkpoint's
    resumes: bool = False  # goes on from what a run that was stopped has left
    unit: str = "B"  # of its progress: bytes
    stages: tuple[str, ...] = ("graph",)  # where in a target it may be: of stages.STAGES


def pass_names() -> list[str]:
    return sorted(p.stem for p in paths.PASSES.glob("*.py"))


def surgeries() -> list[str]:
    return sorted(p.stem for p in (paths.ROOT / "onnxmake" / "model" / "surgeries").glob("[!_]*.py"))


def declaration(name: str, where: str = "") -> Declaration:
    """The declaration of passes/<name>.py.

    Raises TargetError, prefixed by `where`, if there is none or it declares no options or entry.
    """
    try:
        return read_declaration(name)
    except FileNotFoundError:
        raise TargetError(
            f"{where}no pass is named {name!r}.",
            "passes/ holds one file per pass, and none of that name.",
            nearest(name, pass_names()),
        ) from None


def read_declaration(name: str) -> Declaration:
    """What the file of the pass declares. Raises TargetError, FileNotFoundError."""
    path = paths.PASSES / f"{name}.py"
    return _declared(name, path, path.read_text("utf-8"))


@functools.cache  # by content: who builds from Python may edit a pass meanwhile
def _declared(name: str, path: Path, text: str) -> Declaration:
    tree = ast.parse(text, path.name)
    light = [n for n in tree.body if isinstance(n, ast.ImportFrom) and n.module in LIGHT]
    own = [
        n
        for n in tree.body
        if isinstance(n, ast.Assign) and any(isinstance(t, ast.Name) and t.id in DECLARED for t in n.targets)
    ]
    options = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Options"]
    entries = [n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in {"rewrite", "run"}]
    # what Device and Surgery, which the file imports from onnxmake.model, stand for: the names that there are
    offered: dict = {"Device": Literal[tuple(tables())], "Surgery": Literal[tuple(surgeries())]}  # type: ignore[misc]
    namespace: dict = {"__name__": f"passes.{name}", **offered}
    exec(compile(ast.Module([*light, *own, *options], []), str(path), "exec"), namespace)  # noqa: S102  the checkout's own code
    if "Options" not in namespace or not isinstance(namespace.get("ENVIRONMENT"), str) or len(entries) != 1:
        raise TargetError(
            f"passes/{path.name} is no pass.",
            "It needs ENVIRONMENT, a dataclass Options and one of rewrite and run.",
            "See docs/architecture.md.",
        )
    return Declaration(
        name,
        path,
        ast.get_docstring(tree) or "",
        namespace["ENVIRONMENT"],
        tuple(namespace.get("READS", ("*",))),
        namespace["Options"],
        namespace.get("MEMORY_MB", 512),
        namespace.get("GPUS", 0),
        namespace.get("TIMEOUT_S", 4 * 3600),
        namespace.get("MACHINE", False),
        namespace.get("TUNES", False),
        namespace.get("RESUMES", False),
        namespace.get("UNIT", "B"),
        tuple(namespace.get("STAGE", "checkpoint" if namespace.get("TUNES") else "graph").split()),
    )
