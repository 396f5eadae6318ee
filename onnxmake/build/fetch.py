"""Fetch a checkpoint, or a text of a dataset, from the hub, into the cache that huggingface_hub keeps for all its users. The one job with a
network."""

import os
import time
from pathlib import Path
from typing import Any

from onnxmake.build import job, paths, runner, source
from onnxmake.build.files import digest_text, storage_errors
from onnxmake.build.gates import HUB
from onnxmake.build.report import say
from onnxmake.build.source import Checkpoint

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


def fetch_text(name: str) -> Path:
    """The text of a dataset's file, by the name that [check] gives it, once. Raises SourceError."""
    text = paths.BUILD / "texts" / f"{digest_text(name)[:16]}.txt"
    if not text.exists():
        with storage_errors("make the folder of texts"):
            text.parent.mkdir(parents=True, exist_ok=True)
        asked = HUB.fullmatch(name).groupdict()
        work = job.module("onnxmake.model.dataset", "data", **hub_access(str(text.parent)))
        log = paths.BUILD / "logs" / f"fetch-{text.stem}.log"
        runner.run(work, asked | {"out": str(text)}, log, f"fetch {asked['repo']}")
        say(f"{name}: {text.stat().st_size / 1e6:,.1f} MB")
    return text


def hub_access(*folders: str) -> dict[str, Any]:
    """What a job that talks to the hub may see and use: certificates, the network, where huggingface_hub keeps token and files by its
    own rules, and these folders."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    kept = [str(home.absolute()), *filter(None, [os.environ.get("HF_HUB_CACHE")])]
    with storage_errors("make the hub's cache"):
        for folder in kept:
            os.makedirs(folder, exist_ok=True)
    read = [os.environ[name] for name in CERTIFICATES if os.path.exists(os.environ.get(name, ""))]
    return {"read": read, "write": (*kept, *folders), "network": True}
