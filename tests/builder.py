"""Run doit as a person does.

A process in the checkout, with its own output folder, and a store of its own where a test damages one.
"""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from onnxmake.build import paths

STEPS = ("export", "optimize", "quantize_rtn", "package_genai")


@dataclass
class Builder:
    """doit with build/ and dist/ under `output`.

    Environments and kernels are shared, the store only where `cache` is the user's own.
    """

    output: Path
    cache: Path = paths.CACHE
    settings: dict[str, str] = field(default_factory=dict)
    root = paths.ROOT

    def __post_init__(self):
        self.output.mkdir(parents=True, exist_ok=True)
        if self.cache != paths.CACHE:
            self.cache.mkdir(parents=True, exist_ok=True)
            for shared in ("envs", "numba"):
                (paths.CACHE / shared).mkdir(parents=True, exist_ok=True)
                if not (self.cache / shared).exists():
                    os.symlink(paths.CACHE / shared, self.cache / shared)

    @property
    def environ(self) -> dict[str, str]:
        return (
            os.environ
            | {"ONNXMAKE_OUTPUT": str(self.output), "ONNXMAKE_CACHE": str(self.cache), "PYTHONUNBUFFERED": "1"}
            | {"ONNXMAKE_RUNNER": "venv"}
            | self.settings
        )

    def start(
        self, *arguments: str, within: tuple[str, ...] = (), program: tuple[str, ...] = ("-m", "doit")
    ) -> subprocess.Popen:
        """Start doit, or another Python program, by way of the command `within` where one is given."""
        return subprocess.Popen(
            [*within, sys.executable, *program, *arguments],
            cwd=self.root,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run doit to its end; returns what it printed. The exit code must be `code`."""
        process = self.start(*arguments)
        printed, _ = process.communicate()
        assert process.returncode == code, printed
        return printed

    def fail(self, *arguments: str, within: tuple[str, ...] = ()) -> str:
        """Run doit, which must end with an error that says fact, cause and next action, and no trace."""
        process = self.start(*arguments, within=within)
        printed, _ = process.communicate()
        assert process.returncode != 0, printed
        assert (
            "ERROR" in printed and "Likely cause:" in printed and "Next:" in printed and "Traceback" not in printed
        ), printed
        return printed

    def fail_on_disk(self, disk: Path, options: str, *arguments: str) -> str:
        """As fail, in a mount namespace of its own where `disk`, the output or the cache, is an empty tmpfs with these
        options."""
        shared = ("envs", "numba") if disk == self.cache else ()
        links = [f"ln -s {paths.CACHE / name} {disk / name}" for name in shared]
        script = " && ".join([f"mount -t tmpfs -o {options} tmpfs {disk}", *links, 'exec "$@"'])
        user = () if os.getuid() == 0 else ("--map-root-user",)
        return self.fail(*arguments, within=("unshare", "--mount", *user, "sh", "-c", script, "sh"))

    def dist(self, target: str) -> Path:
        return self.output / "dist" / target

    def target(self, name: str, source: Path, text: str) -> str:
        """Add a target file with the passes in `text`; returns build:<name>."""
        folder = self.output / "targets"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.toml").write_text(f'# A test target.\ndevice = "cpu"\n[source]\npath = "{source}"\n{text}')
        self.settings["ONNXMAKE_TARGETS"] = str(folder)
        return f"build:{name}"


def passes(*names: str, **options) -> str:
    """TOML of passes; options go to quantize_rtn."""
    lines = "".join(f"{k} = {str(v).lower() if isinstance(v, bool) else repr(v)}\n" for k, v in options.items())
    return "".join(f'[[pass]]\nuse = "{n}"\n' + (lines if n == "quantize_rtn" else "") for n in names)


def verbs(printed: str) -> dict[str, str]:
    """Step -> ran | restored, from what a build printed."""
    words = [line.split() for line in printed.splitlines() if line.startswith("  ")]
    return {w[0]: w[1] for w in words if len(w) > 2 and w[1] in ("ran", "restored")}
