"""Fetch a checkpoint, or files of a dataset, from the hub, into the cache that huggingface_hub keeps for all its users. The one job with a
network."""

import os
import time
from pathlib import Path
from typing import Any

from onnxmake.build import dataset, job, paths, runner, source, store
from onnxmake.build.files import storage_errors
from onnxmake.build.report import say
from onnxmake.build.source import Checkpoint
from onnxmake.build.target import Use
from onnxmake.model import rows

CERTIFICATES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


def fetch(checkpoint: Checkpoint) -> Path:
    """The folder with the checkpoint's files. Raises SourceError."""
    wanted, started = checkpoint.source, time.monotonic()
    work = job.module("onnxmake.model.hub", "cpu", **hub_access())
    folder = runner.run(
        work,
        {"repo": wanted.repo, "revision": wanted.revision, "patterns": [*source.FILES, *source.PAPERS]},
        paths.BUILD / "logs" / f"fetch-{checkpoint.id}.log",
        f"fetch {wanted.repo}",
    )
    say(f"{wanted.repo} at {wanted.revision[:12]}: {folder} ({time.monotonic() - started:.1f} s)")
    return Path(folder)


def fetch_data(name: str, template: str = "") -> Path:
    """The rows or the text of a dataset's files, fetched once; `name` is as a target has it. Raises SourceError, and TargetError where
    the first row is none for the template: before anything else runs."""
    file = dataset.place(name)
    with store.locked(f"data-{file.stem}"):
        if not dataset.is_here(name):
            _fetch_data(name, file)
    next(rows.texts(file, template, name), None)
    return file


def _fetch_data(name: str, file: Path) -> None:
    started, asked = time.monotonic(), dataset.HUB.fullmatch(name).groupdict()
    with storage_errors("make the folder of data"):
        file.parent.mkdir(parents=True, exist_ok=True)
    work = job.module("onnxmake.model.dataset", "data", **hub_access(str(file.parent)))
    log = paths.BUILD / "logs" / f"fetch-{file.stem}.log"
    runner.run(work, asked | {"out": str(file)}, log, f"fetch {asked['repo']}")
    dataset.note(name)
    say(f"{name}: {file.stat().st_size / 1e6:,.1f} MB ({time.monotonic() - started:.1f} s)")


def data_of(use: Use) -> None:
    """Fetch what a pass reads of datasets. Raises SourceError, TargetError."""
    for name in use.hub.values():
        fetch_data(name, getattr(use.options, "text_template", ""))


def hub_home() -> Path:
    """Where huggingface_hub keeps token and files, by its own rules."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("HF_HOME") or cache / "huggingface").absolute()


def hub_access(*folders: str) -> dict[str, Any]:
    """What a job that talks to the hub may see and use: certificates, the network, the hub's home, and these folders."""
    kept = [str(hub_home()), *filter(None, [os.environ.get("HF_HUB_CACHE")])]
    with storage_errors("make the hub's cache"):
        for folder in kept:
            os.makedirs(folder, exist_ok=True)
    read = [os.environ[name] for name in CERTIFICATES if os.path.exists(os.environ.get(name, ""))]
    return {"read": read, "write": (*kept, *folders), "network": True}
