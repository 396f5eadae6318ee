"""What runs on Windows, as far as another system can tell: scripts that parse, and locks whose wheels are there and go together."""

import functools
import re
import subprocess
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path

import pytest
import tree_sitter_powershell
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from tree_sitter import Language, Node, Parser

from onnxmake.build import paths

FOLDER = paths.CONTAINERS / "directml"
LOCKS = sorted(file.stem for file in FOLDER.glob("*.lock"))
PARSER = Parser(Language(tree_sitter_powershell.language()))
MACHINE = {
    "extra": "",
    "os_name": "nt",
    "platform_machine": "AMD64",
    "platform_system": "Windows",
    "python_full_version": "3.11.9",
    "python_version": "3.11",
    "sys_platform": "win32",
}


@functools.cache
def scripts() -> tuple[str, ...]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.ps1"]
    return tuple(subprocess.check_output(command, cwd=paths.ROOT, text=True).split("\0")[:-1])


def walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from walk(child)


def parsed(text: bytes) -> Node:
    return PARSER.parse(text).root_node


@pytest.mark.parametrize("script", scripts())
def test_a_script_parses_as_what_powershell_5_takes(script):
    text = (paths.ROOT / script).read_bytes()
    assert text.isascii()  # 5 reads a file without a mark in the machine's code page
    assert not parsed(text).has_error
    assert "pipeline_chain_tail" not in {node.type for node in walk(parsed(text))}  # && and || came with 7


@pytest.mark.parametrize("script", scripts())
def test_the_parser_sees_each_bracket_that_is_missing(script):
    text = (paths.ROOT / script).read_bytes()
    marks = [node for node in walk(parsed(text)) if node.type in set("(){}[]")]
    assert marks
    for mark in marks:
        assert parsed(text[: mark.start_byte] + text[mark.end_byte :]).has_error, mark.start_point


def test_the_bundle_s_script_calls_the_installer_with_parameters_that_it_has():
    install, run = (FOLDER / name for name in ("install.ps1", "bundle/run.ps1"))
    assert {str(file.relative_to(paths.ROOT)) for file in (install, run)} <= set(scripts())
    block = next(node for node in walk(parsed(install.read_bytes())) if node.type == "param_block")
    known = {node.text.decode().lstrip("$") for node in walk(block) if node.type == "variable"} - {"PSScriptRoot"}
    call = next(
        node for node in walk(parsed(run.read_bytes())) if node.type == "command" and b"install.ps1" in node.text
    )
    given = {node.text.decode().lstrip("-") for node in walk(call) if node.type == "command_parameter"}
    assert given == known == {"Venv", "Lock"}


def locked(lock: str) -> dict[str, str]:
    """Package -> version."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (FOLDER / f"{lock}.lock").read_text(), re.MULTILINE))


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Lock -> the wheels that pip takes for it on 64-bit Windows, checked against the lock's hashes. Package -> file."""

    @functools.cache
    def download(lock: str) -> dict[str, Path]:
        folder = tmp_path_factory.mktemp(lock)
        where = ["--platform", "win_amd64", "--python-version", "3.11", "--implementation", "cp"]
        which = ["--no-deps", "--require-hashes", "--only-binary=:all:", "-r", str(FOLDER / f"{lock}.lock")]
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "-q"]
        done = subprocess.run([*pip, *where, *which, "-d", str(folder)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return {parse_wheel_filename(file.name)[0]: file for file in folder.iterdir()}

    return download


@pytest.mark.slow
@pytest.mark.parametrize("lock", LOCKS)
def test_each_package_has_a_wheel_for_windows_with_a_locked_hash(wheels, lock):
    found = {name: str(parse_wheel_filename(file.name)[1]) for name, file in wheels(lock).items()}
    assert found == locked(lock)


@pytest.mark.slow
@pytest.mark.parametrize("lock", LOCKS)
def test_what_a_package_needs_is_locked_at_a_version_that_it_takes(wheels, lock):
    for name, file in wheels(lock).items():
        with zipfile.ZipFile(file) as wheel:
            inside = next(n for n in wheel.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
            metadata = HeaderParser().parsestr(wheel.read(inside).decode())
        for need in map(Requirement, metadata.get_all("Requires-Dist") or ()):
            if need.marker is None or need.marker.evaluate(MACHINE):
                version = locked(lock).get(canonicalize_name(need.name))
                assert version and need.specifier.contains(version), f"{name} needs {need}"


@pytest.mark.slow
@pytest.mark.parametrize("lock", LOCKS)
def test_no_two_packages_write_the_same_file_and_one_each_is_the_runtime(wheels, lock):
    owners = defaultdict(set)
    for name, file in wheels(lock).items():
        with zipfile.ZipFile(file) as wheel:
            for path in wheel.namelist():
                owners[path.lower()].add(name)  # as Windows compares
    assert {path: names for path, names in owners.items() if len(names) > 1} == {}
    for package in ("onnxruntime", "onnxruntime_genai"):
        assert len({name for path, names in owners.items() if path.startswith(f"{package}/") for name in names}) == 1
