"""Who may import whom, over the syntax of the whole checkout, and which files a step's key covers."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from onnxmake.build import closure, digest, paths, process

PASSES = sorted(paths.PASSES.glob("*.py"))
BUILD = sorted((paths.ROOT / "onnxmake" / "build").rglob("*.py"))
MODEL = sorted((paths.ROOT / "onnxmake" / "model").rglob("*.py"))
SHARED = tuple(
    f"onnxmake.model.{name}"
    for name in (
        "architecture",
        "options",
        "nearest",
        "rows",
        "safetensors",
        "schemes",
        "prequantized",
        "grouped",
        "groupings",
    )
)  # with the host side
LOWERING = "onnxmake/model/lowering/"
HEAVY = {"torch", "transformers", "onnx", "onnx_ir", "onnxruntime", "onnxruntime_genai", "onnxscript", "numpy", "numba"}
LOADED = """
print(json.dumps([m.__file__ for name, m in sys.modules.items() if name.split(".")[0] == "onnxmake"]))
"""
LOAD = f"""
import json, sys
from pathlib import Path
import onnxmake.model.boot
from onnxmake.model import sandbox
from onnxmake.model.step import load_pass
load_pass(Path(sys.argv[1]).stem, Path(sys.argv[1]))
if "onnxmake.model.lowering" in sys.modules:
    sys.modules["onnxmake.model.lowering"].table(sys.argv[2])
{LOADED}
"""
PREPARE = f"""
import json, sys
import onnxmake.model.boot
from onnxmake.model import sandbox, step
step._load_ahead(sys.argv[1:])
{LOADED}
"""


def shown(file: Path) -> str:
    return file.relative_to(paths.ROOT).as_posix()


def at_import(node: ast.AST):
    """The nodes that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from at_import(child)


def imported(file: Path, nodes=ast.walk) -> set[str]:
    """Names of what the file imports; `from a import b` is a.b, which may be a module or not."""
    found = set()
    for node in nodes(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{shown(file)}: a relative import, which closure.py does not follow"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def inside(name: str, *packages: str) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def own(names: set[str]) -> set[str]:
    return {name for name in names if inside(name, "onnxmake")}


def reached(name: str, device: str | None = None) -> set[str]:
    return {
        shown(file)
        for file in closure.modules(paths.PASSES / f"{name}.py", closure.chosen({"device": device} if device else {}))
    }


def python(*arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=paths.ROOT, env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_dodo_imports_only_the_host_side():
    names = imported(paths.ROOT / "dodo.py")
    assert names and all(inside(name, "onnxmake.build") for name in names), names


@pytest.mark.parametrize("file", PASSES, ids=shown)
def test_a_pass_imports_only_the_step_side_and_no_other_pass(file):
    names = imported(file)
    assert all(inside(name, "onnxmake.model", "onnxmake.errors") for name in own(names)), own(names)
    assert not any(inside(name, "passes", *(p.stem for p in PASSES)) for name in names), names


@pytest.mark.parametrize("file", MODEL, ids=shown)
def test_the_step_side_imports_neither_the_host_side_nor_a_pass(file):
    names = imported(file)
    assert all(inside(name, "onnxmake.model", "onnxmake.errors") for name in own(names)), own(names)
    assert not any(inside(name, "passes") for name in names), names


@pytest.mark.parametrize("file", BUILD, ids=shown)
def test_the_host_side_imports_nothing_heavy_and_no_pass(file):
    names = imported(file, at_import)
    assert not any(inside(name, "passes", *HEAVY) for name in names), names
    above = ["onnxmake.release"] if file.name == "runs.py" else []  # where tasks are named, all comes together
    assert all(inside(name, "onnxmake.build", "onnxmake.errors", *SHARED, *above) for name in own(names)), own(names)


EXTRAS = {"registry": {"oras", "requests"}, "archive": {"zstandard"}}  # of releases, asked for when they are needed


@pytest.mark.parametrize("file", sorted((paths.ROOT / "onnxmake" / "release").rglob("*.py")), ids=shown)
def test_releases_are_made_on_the_host_and_received_anywhere(file):
    names = imported(file)
    received = file.stem in ("received", "sums", "signature", "__init__")
    below = [] if received else ["onnxmake.build"]
    assert all(inside(name, "onnxmake.release", "onnxmake.errors", *below) for name in own(names)), own(names)
    extra = EXTRAS.get(file.stem, set())
    assert all(n.split(".")[0] in {*sys.stdlib_module_names, "onnxmake", "tabulate", *extra} for n in names)
    assert not imported(file, at_import) & extra


@pytest.mark.parametrize("file", sorted((paths.ROOT / "onnxmake" / "page").glob("*.py")), ids=shown)
def test_the_page_is_of_the_host_side_and_needs_no_package(file):
    names = imported(file)
    assert all(
        inside(name, *(f"onnxmake.{part}" for part in ("page", "build", "release", "errors"))) for name in own(names)
    )
    assert all(n.split(".")[0] in {*sys.stdlib_module_names, "onnxmake"} for n in names)


@pytest.mark.parametrize("file", sorted((paths.ROOT / "onnxmake" / "olive").glob("*.py")), ids=shown)
def test_workflows_are_read_on_the_host_and_need_no_package(file):
    names = imported(file)
    assert all(inside(name, "onnxmake.olive", "onnxmake.build", "onnxmake.errors") for name in own(names)), own(names)
    assert all(n.split(".")[0] in {*sys.stdlib_module_names, "onnxmake", "tabulate"} for n in names)


def test_the_api_is_of_the_host_side_and_what_steps_import_reaches_none_of_it():
    names = imported(paths.ROOT / "onnxmake" / "api.py")
    assert names and all(inside(name, "onnxmake.build", "onnxmake.errors") for name in own(names)), own(names)
    assert own(imported(paths.ROOT / "onnxmake" / "__init__.py")) == set()


def test_what_the_host_side_shares_with_steps_needs_the_standard_library_only():
    for shared in ("onnxmake.errors", *SHARED):
        for name in imported(paths.ROOT / f"{shared.replace('.', '/')}.py"):
            known = name.split(".")[0] in sys.stdlib_module_names or inside(name, "onnxmake.errors", *SHARED)
            assert known, (shared, name)


def test_loading_the_commands_loads_nothing_heavy():
    loaded = set(
        json.loads(
            python("-c", "import json, sys; import onnxmake.build.commands; print(json.dumps(list(sys.modules)))")
        )
    )
    assert "onnxmake.build.tasks" in loaded
    assert not loaded & HEAVY


def test_of_the_device_tables_only_those_that_the_device_needs_are_reached():
    tables = {file for file in reached("optimize", "cpu") if re.match(rf"{LOWERING}[^_]", file)}
    assert tables == {LOWERING + name for name in ("cpu.py", "portable.py")}  # and files of what tables share
    own = {LOWERING + name for name in ("_attention.py", "_projection.py", "_recurrent.py", "_rotation.py", "cpu.py")}
    assert reached("optimize", "portable") == reached("optimize", "cpu") - own


def test_export_reaches_neither_tables_nor_kernels():
    files = reached("export")
    assert "onnxmake/model/capture/attention.py" in files
    assert not any(file.startswith(LOWERING) for file in files)
    assert "onnxmake/model/kernels.py" not in files


def test_an_import_inside_a_function_is_followed():
    assert "onnxmake/model/kernels.py" in reached("package_genai", "cpu")


def test_no_step_reaches_the_host_side():
    assert not any(file.startswith("onnxmake/build/") for path in PASSES for file in reached(path.stem, "cpu"))


def test_code_digests_name_the_pass_and_every_module_it_reaches(output):
    digests = closure.code_digests(paths.PASSES / "optimize.py", closure.chosen({"device": "cpu"}))
    assert set(digests) == {"passes/optimize.py", *reached("optimize", "cpu")}
    assert digests == {file: digest.read_digest(paths.ROOT / file) for file in digests}


@pytest.mark.parametrize("file", PASSES, ids=shown)
def test_every_module_that_a_pass_really_loads_is_reached(file):
    loaded = {shown(Path(module)) for module in json.loads(python("-c", LOAD, str(file), "cpu").splitlines()[-1])}
    assert {"onnxmake/model/boot.py", "onnxmake/model/step.py", "onnxmake/model/sandbox.py"} <= loaded
    assert loaded <= reached(file.stem, "cpu")


def test_every_module_that_a_prepared_process_has_loaded_is_known_by_its_digest(output):
    loaded = {shown(Path(module)) for module in json.loads(python("-c", PREPARE, *process.AHEAD).splitlines()[-1])}
    assert {"onnxmake/model/canonical.py", "onnxmake/model/kernels.py"} <= loaded
    assert loaded <= set(closure.digests_of(process.AHEAD))


def test_digests_of_modules_are_those_of_their_files_and_of_what_they_reach(output):
    digests = closure.digests_of(["onnxmake.model.genai"])
    assert {"onnxmake/__init__.py", "onnxmake/model/boot.py", "onnxmake/model/genai.py"} <= set(digests)
    assert "onnxmake/model/kernels.py" not in digests
    assert digests == {file: digest.read_digest(paths.ROOT / file) for file in digests}


@pytest.mark.parametrize("file", PASSES, ids=shown)
def test_every_step_reaches_the_script_that_starts_it_and_what_cuts_it_off(file):
    assert {"onnxmake/model/boot.py", "onnxmake/model/sandbox.py", "onnxmake/model/serve.py"} <= reached(file.stem)


def test_of_the_surgeries_a_step_reaches_the_one_that_it_names():
    found = closure.modules(paths.PASSES / "surgery.py", closure.chosen({"name": "rms_norm_to_l2_norm"}))
    assert {p.stem for p in found if p.parent.name == "surgeries"} == {"__init__", "_rms_norm", "rms_norm_to_l2_norm"}
