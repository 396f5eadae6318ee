"""Fetch a checkpoint from the hub, into the cache that huggingface_hub keeps for all its users. The one job with a network."""

import os
import time
from pathlib import Path

from onnxmake.build import job, paths, runner, source
from onnxmake.build.files import storage_errors
from onnxmake.build.report import say
from onnxmake.build.source import Checkpoint

CERTIFICATES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


def fetch(checkpoint: Checkpoint) -> Path:
    """The folder with the checkpoint's files. Raises SourceError."""
    wanted, started = checkpoint.source, time.monotonic()
    work = job.module(
        "onnxmake.model.hub",
        "cpu",
        read=[os.environ[name] for name in CERTIFICATES if os.path.exists(os.environ.get(name, ""))],
        write=_hub_folders(),
        network=True,
    )
    folder = runner.run(
        work,
        {"repo": wanted.repo, "revision": wanted.revision, "patterns": list(source.FILES)},
        paths.BUILD / "logs" / f"fetch-{checkpoint.id}.log",
        f"fetch {wanted.repo}",
    )
    say(f"{wanted.repo} at {wanted.revision[:12]}: {folder} ({time.monotonic() - started:.1f} s)")
    return Path(folder)


def _hub_folders() -> tuple[str, ...]:
    """Where huggingface_hub keeps token and files, by its own rules."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    folders = [str(home.absolute()), *filter(None, [os.environ.get("HF_HUB_CACHE")])]
    with storage_errors("make the hub's cache"):
        for folder in folders:
            os.makedirs(folder, exist_ok=True)
    return tuple(folders)
