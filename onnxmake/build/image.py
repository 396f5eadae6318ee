"""Environments as images: built from Dockerfile, lock and base, normalised, and made again only when one of them changes."""

import contextlib
import functools
import json
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxmake.build import dockerfile, engine, locks, normalise, paths
from onnxmake.build.device import device, devices
from onnxmake.build.digest import digest_file
from onnxmake.build.engine import engine_errors
from onnxmake.build.files import (
    canonical_json,
    digest_text,
    read_record,
    storage_errors,
    write_atomically,
    write_record,
)
from onnxmake.build.report import say
from onnxmake.build.settings import setting
from onnxmake.errors import EngineError, EnvironmentMissing

if TYPE_CHECKING:
    from docker import DockerClient


@functools.cache
def base() -> dict[str, str]:
    """containers/base.toml: the pinned base, its Python, and the name of one built from packages."""
    return tomllib.loads((paths.CONTAINERS / "base.toml").read_text("utf-8"))


def names() -> list[str]:
    """The environments that have a Dockerfile for Linux."""
    found = sorted(p.parent.name for p in paths.CONTAINERS.glob("*/Dockerfile"))
    return [name for name in found if name not in devices() or not device(name).system]


def _present(client: "DockerClient") -> tuple[str, Any] | None:
    """The base by name and as the engine has it."""
    from docker.errors import ImageNotFound

    asked = setting("base")
    for name in [asked] if asked else [base()["image"], base()["built"]]:
        with contextlib.suppress(ImageNotFound):
            return name, client.images.get(name)
    return None


def _base(client: "DockerClient") -> tuple[str, Any]:
    """The same, pulled where it must be. Raises EngineError."""
    from docker.errors import DockerException

    if found := _present(client):
        return found
    wanted = setting("base") or base()["image"]
    say(f"pulling {wanted} ...")
    try:
        return wanted, client.images.pull(wanted)
    except DockerException as error:
        raise EngineError(
            f"The base image {wanted} could not be pulled: {getattr(error, 'explanation', None) or error}",
            "No registry answers, or it has no such image.",
            "Make one from Debian packages with containers/base/build, or name another with base=REF.",
        ) from error


def _recipe(env: str, found: Any) -> dict[str, Any]:
    """All that decides an image's bytes, as digests. `found`: the base; its layers are its content."""
    if env not in names():
        raise EnvironmentMissing(
            f"There is no image {env!r} for Linux.",
            f"containers/{env} has no Dockerfile, or one for Windows.",
            f"Use one of: {', '.join(names())}; on a Windows host see containers/directml.",
        )
    files = (f"{env}/Dockerfile", f"{env}/requirements.lock", dockerfile.INSTALL)
    return {
        "files": {name: digest_file(paths.CONTAINERS / name) for name in files},
        "normaliser": digest_file(Path(normalise.__file__)),
        "base": found.attrs["RootFS"]["Layers"],
        "variables": found.attrs["Config"].get("Env"),
        "python": base()["python"],
    }


def _kept(env: str, recipe: dict[str, Any]) -> Path:
    """Where this machine notes the image of a recipe: an engine serves all checkouts."""
    return paths.CACHE / "images" / f"{env}-{digest_text(canonical_json(recipe))[:12]}.json"


def recorded(env: str) -> list[Path]:
    """Records of images of the environment that were ever made here; "*" for all. Asks no engine."""
    return sorted((paths.CACHE / "images").glob(f"{env}-*.json"))


def find(env: str) -> dict[str, Any] | None:
    """The record of today's image, if the engine has it. Raises EngineError."""
    client = engine.client()
    with engine_errors(f"look for the image {env}"):
        found = _present(client)
        return _found(client, _kept(env, _recipe(env, found[1]))) if found else None


def _found(client: "DockerClient", kept: Path) -> dict[str, Any] | None:
    from docker.errors import ImageNotFound

    record = read_record(kept)
    with contextlib.suppress(ImageNotFound):
        if record and client.images.get(record["id"]):
            return record
    return None


def ensure(env: str, fresh: bool = False) -> dict[str, Any]:
    """The environment's image, built first where it must be, or anyway and without the engine's cache if `fresh`.

    Returns its record. Raises EngineError, EnvironmentMissing.
    """
    client = engine.client()
    with engine_errors(f"build the image {env}"):
        name, found = _base(client)
        recipe = _recipe(env, found)
        kept = _kept(env, recipe)
        if fresh or not (record := _found(client, kept)):
            with storage_errors("lock the images"):
                kept.parent.mkdir(parents=True, exist_ok=True)
            with locks.held(kept.parent / ".lock"):  # one at a time: each takes all there is
                if fresh or not (record := _found(client, kept)):
                    record = dockerfile.build(client, env, kept.stem.replace("-", ":"), name, found, fresh)
                    write_record(kept, record)
    with contextlib.suppress(OSError):  # `doit cache gc` asks when it was used last
        os.utime(kept)
    write_atomically(paths.BUILD / "images" / f"{env}.json", json.dumps(record, indent=1))
    return record


def forget(kept: Path) -> None:
    """Remove an image by its record. Raises EngineError."""
    from docker.errors import ImageNotFound

    client, record = engine.client(), read_record(kept)
    with engine_errors(f"remove the image {kept.stem}"), contextlib.suppress(ImageNotFound):
        if record:
            client.images.remove(record["tag"])
    kept.unlink(missing_ok=True)


def make(env: str, no_cache: bool) -> None:
    """What `doit image:NAME` does."""
    record = ensure(env, no_cache)
    say(f"image:{env}: {record['tag']}, {record['size'] / 1e6:,.0f} MB, {record['id']}")
