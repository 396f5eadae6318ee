"""Blobs of a registry: sent in chunks, each begun where the last one ended, after a broken connection or in another run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from onnxmake.build import paths
from onnxmake.build.files import digest_text, storage_errors, write_atomically
from onnxmake.release.oci import Blob
from onnxmake.release.registry import Lost, Registry

CHUNK = 4 << 20  # bytes: there is a registry that takes no more in one request
BINARY = "application/octet-stream"


def has(registry: Registry, digest: str) -> bool:
    """Raises PublishError."""
    answer = registry.request("HEAD", f"blobs/sha256:{digest}")
    if answer.status_code not in (200, 404):
        registry.refused(answer, "say what it holds")
    return answer.status_code == 200


def _place(answer: Any, at: int) -> tuple[str, int]:
    """Where an upload goes on and from which byte, as the answer says, or else `at`. 0-0 is how registries say that nothing is there."""
    end = int(answer.headers.get("Range", f"0-{at - 1}").rpartition("-")[2] or 0)
    return urljoin(answer.url, answer.headers.get("Location", "")), end + 1 if end > 0 else 0


def _begun(registry: Registry) -> tuple[str, int]:
    answer = registry.request("POST", "blobs/uploads/")
    if answer.status_code != 202 or "Location" not in answer.headers:
        registry.refused(answer, "take a file")
    return urljoin(answer.url, answer.headers["Location"]), 0


def _asked(registry: Registry, url: str) -> tuple[str, int] | None:
    """Where a broken upload goes on; None where it is gone."""
    answer = registry.request("GET", url)
    return _place(answer, 0) if answer.status_code == 204 else None


def _note_of(registry: Registry, blob: Blob) -> Path:
    """The file with the address of a blob's upload, for the next run. An address may hold a key: the folder is its owner's alone."""
    folder = paths.BUILD / "publish"
    with storage_errors("make the folder of uploads"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / f"{digest_text(registry.url)[:16]}-{blob.digest[:32]}"


def _chunk(registry: Registry, blob: Blob, url: str, at: int, chunk: bytes) -> Any:
    """Send it; the last one closes the upload. Raises Lost, PublishError."""
    headers = {"Content_Type": BINARY}
    if chunk and len(chunk) < blob.size:
        headers["Content_Range"] = f"{at}-{at + len(chunk) - 1}"
    if at + len(chunk) < blob.size:
        return registry.once("PATCH", url, chunk, **headers)
    return registry.once("PUT", f"{url}{'&' if '?' in url else '?'}digest=sha256:{blob.digest}", chunk, **headers)


def send(registry: Registry, blob: Blob, through: Callable[[int], None]) -> None:
    """`through` is told how many of its bytes have arrived. Raises PublishError."""
    note, failures, furthest = _note_of(registry, blob), 0, 0
    place = _asked(registry, note.read_text("utf-8")) if note.exists() else None
    with open(blob.file, "rb") as content:
        while True:
            url, at = place or _begun(registry)
            content.seek(at)
            chunk = content.read(CHUNK)
            try:
                answer = _chunk(registry, blob, url, at, chunk)
                if answer.status_code not in (201, 202, 404, 416):
                    note.unlink(missing_ok=True)
                    registry.refused(answer, f"take {blob.name}")
                if answer.status_code in (404, 416):  # it has lost the upload, or has more or less of it than it said
                    raise Lost(f"{answer.status_code} {answer.reason}")
                place = _place(answer, at + len(chunk))
                if answer.status_code == 202 and place[1] <= at:
                    raise Lost(f"it keeps nothing of {blob.name}")
            except Lost as error:
                registry.wait(failures, error)
                failures += 1
                if has(registry, blob.digest):  # only the answer was lost
                    break
                place = _asked(registry, url)
                continue
            if answer.status_code == 201:
                break
            if place[1] > furthest:  # what begins anew again and again fails in the end
                furthest, failures = place[1], 0
            write_atomically(note, place[0])
            through(place[1])
    note.unlink(missing_ok=True)
    through(blob.size)
