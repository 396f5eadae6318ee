"""Run an environment's Dockerfile on a base, and normalise what it gives."""

import os
import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxmake.build import locks, normalise, paths
from onnxmake.build.digest import digest_file
from onnxmake.build.engine import engine_errors
from onnxmake.build.files import open_log, storage_errors
from onnxmake.build.process import EPOCH
from onnxmake.build.report import bar, say
from onnxmake.build.settings import setting
from onnxmake.errors import EnvironmentMissing

if TYPE_CHECKING:
    from docker import DockerClient

INSTALL = "install.sh"
COLOURS = re.compile("\x1b\\[[0-9;]*m")
STAGE = "onnxmake.stage=build"  # label of what the build stages leave in the engine
INDEXES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")  # of the caller, for the build stage


def build(client: "DockerClient", env: str, tag: str, base_name: str, base: Any, fresh: bool) -> dict[str, Any]:
    """The record of the image that is now in the engine as onnxmake-`tag`. Raises what the engine does, EnvironmentMissing."""
    started, name = time.monotonic(), f"onnxmake-{tag}"
    say(f"image {env}: building containers/{env}/Dockerfile on {base_name} (once) ...")
    folder = Path(tempfile.mkdtemp(dir=locks.scratch(paths.CACHE)))
    try:
        with storage_errors("write the build's context"):
            _pack(env, folder / "context.tar")
        built = _run(client, env, base_name, folder / "context.tar", fresh)
        with (
            storage_errors("write the image's archive"),
            open(folder / "saved.tar", "wb") as file,
            engine_errors(f"save the image {env}"),  # within: what it turns is an OSError, too
        ):
            for chunk in client.images.get(built).save(chunk_size=1 << 20):
                file.write(chunk)
        with storage_errors("rewrite the image's archive"):
            archive, identity = normalise.normalise(folder / "saved.tar", name, len(base.attrs["RootFS"]["Layers"]))
        with open(archive, "rb") as file:
            client.images.load(file)
        loaded = client.images.get(name)
        client.images.remove(built)
        client.images.prune({"dangling": True, "label": STAGE})
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds, size = time.monotonic() - started, loaded.attrs["Size"]
    say(f"image {env}: {name}, {size / 1e6:,.0f} MB ({seconds:.0f} s)")
    return {
        "environment": env,
        "tag": name,
        "id": loaded.id,
        "config": identity.config,
        "manifest": identity.manifest,
        "base": base_name,
        "size": size,
        "seconds": round(seconds, 1),
    }


def _pack(env: str, path: Path) -> None:
    """The context: what COPY names, and nothing else. Equal bytes for equal content: the engine's cache goes by them."""
    with tarfile.open(path, "w") as context:
        for name, file in _content(env):
            with open(file, "rb") as data:
                entry = tarfile.TarInfo(name)
                entry.size, entry.mtime = os.path.getsize(file), EPOCH
                context.addfile(entry, data)


def _content(env: str) -> Iterator[tuple[str, Path]]:
    """Name in the context -> file: of the checkout, the certificate that a person names, and wheels that lie ready here."""
    for name in (INSTALL, f"{env}/Dockerfile", f"{env}/requirements.lock"):
        yield name, paths.CONTAINERS / name
    if certificate := setting("ca"):
        if not Path(certificate).is_file():
            raise EnvironmentMissing(
                f"ca={certificate} is no file.", "A typing error.", "Name a file of certificates in PEM form."
            )
        yield "extra-ca.crt", Path(certificate)
    locked = set(re.findall("sha256:([0-9a-f]{64})", (paths.CONTAINERS / env / "requirements.lock").read_text()))
    for folder in os.environ.get("PIP_FIND_LINKS", "").split():
        for wheel in sorted(Path(folder).glob("*.whl")):
            if digest_file(wheel) in locked:
                yield f"wheels/{wheel.name}", wheel


def _run(client: "DockerClient", env: str, base: str, context: Path, fresh: bool) -> str:
    """Build; returns the image's id."""
    log, identity = paths.BUILD / "logs" / f"image-{env}.log", ""
    count = (paths.CONTAINERS / env / "requirements.lock").read_text().count("==")
    arguments = {"BASE_IMAGE": base} | {k: v for k, v in os.environ.items() if k in INDEXES}
    with open_log(log) as file, bar(f"image {env}", "packages") as draw, open(context, "rb") as data:
        found = 0
        for message in client.api.build(
            fileobj=data,
            custom_context=True,
            dockerfile=f"{env}/Dockerfile",
            buildargs=arguments,
            network_mode=setting("network") or None,
            nocache=fresh,
            rm=True,
            forcerm=True,
            decode=True,
        ):
            text = COLOURS.sub("", message.get("stream") or message.get("error") or "")
            file.write(text)
            found += text.count("Collecting ")
            draw(found, count)
            identity = message.get("aux", {}).get("ID", identity)
            if "error" in message:
                file.flush()
                raise _failed(env, message["error"], log)
    return identity


def _failed(env: str, error: str, log: Path) -> Exception:
    if "no space left" in error:
        from docker.errors import DockerException

        return DockerException(error)
    tail = "\n".join(log.read_text("utf-8").splitlines()[-6:])
    return EnvironmentMissing(
        f"The image {env} could not be built:\n{tail}",
        "No network inside the build, or a proxy whose certificate is not known there.",
        f"Read {paths.shown(log)}; network=host lends the host's network, ca=FILE adds certificates for the build.",
    )
