"""A release in an OCI registry: its layout's blobs and manifest as they are, so that digests there are digests here."""

import hashlib
import re

from onnxmake.build.report import bar, say
from onnxmake.errors import CheckFailed, PublishError, StoreError, TargetError
from onnxmake.release import blobs, oci
from onnxmake.release.found import Released
from onnxmake.release.oci import Layout
from onnxmake.release.publish import Item, Seen
from onnxmake.release.registry import Registry

FORM = "oci://HOST[:PORT]/REPOSITORY[:TAG]"
WHERE = re.compile(
    r"(?P<host>[^/@\s]+)/(?P<repository>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)(?::(?P<tag>\w[\w.-]{0,127}))?", re.ASCII
)


def _parsed(release: Released, where: str) -> tuple[str, str, str]:
    """Host, repository and tag, which is the version unless it is given: with _ for +, which no tag may hold. Raises TargetError."""
    match = WHERE.fullmatch(where)
    if not match:
        raise TargetError(f"oci://{where} is no repository.", "Names are in small letters.", f"Write {FORM}.")
    return match["host"], match["repository"], match["tag"] or release.version.replace("+", "_")


def _same(registry: Registry, tag: str, layout: Layout) -> bool:
    """Whether the manifest is under the tag. Raises StoreError where another one is, PublishError."""
    answer = registry.request("GET", f"manifests/{tag}", Accept=oci.MANIFEST)
    if answer.status_code not in (200, 404):
        registry.refused(answer, f"say what {tag} is")
    there = answer.status_code == 200 and hashlib.sha256(answer.content).hexdigest()
    if there and there != layout.digest:
        raise StoreError(
            f"{tag} is there already, and it is another one: sha256:{there}.",
            "A version is of one content for ever.",
            "Release it under another version, or publish it to another tag.",
        )
    return bool(there)


def look(release: Released, where: str) -> Seen:
    host, repository, tag = _parsed(release, where)
    layout = oci.read(release.layout, release.folder)
    registry, note, there = Registry(host, repository, known=False), "", {}
    try:
        tagged = _same(registry, tag, layout)
        there = {digest: blobs.has(registry, digest) for digest in {b.digest for b in layout.blobs}}
        there[layout.digest] = tagged
    except PublishError as error:
        note = f"What is there is not known: {error.fact}"
    items = [Item(b.name, b.size, b.digest, there.get(b.digest)) for b in layout.blobs]
    return Seen([*items, Item("manifest", len(layout.manifest), layout.digest, there.get(layout.digest))], note)


def send(release: Released, where: str) -> None:
    """Raises StoreError, PublishError, CheckFailed, EnvironmentMissing."""
    host, repository, tag = _parsed(release, where)
    layout, registry = oci.read(release.layout, release.folder), Registry(host, repository, known=True)
    name = f"{host}/{repository}:{tag}"
    if _same(registry, tag, layout):
        say(f"publish:{release.name}: {name} is there already, the same")
        return
    parts = {b.digest: b for b in layout.blobs}.values()  # files of one content are one blob
    missing = [b for b in parts if not blobs.has(registry, b.digest)]
    total, done = sum(b.size for b in missing), 0
    with bar(f"publish {release.name}") as draw:
        for blob in missing:
            blobs.send(registry, blob, lambda sent, done=done: draw(done + sent, total))  # type: ignore[misc]
            done += blob.size
    answer = registry.request("PUT", f"manifests/{tag}", layout.manifest, Content_Type=oci.MANIFEST)
    if answer.status_code != 201:
        registry.refused(answer, f"take the manifest of {tag}")
    if not _same(registry, tag, layout):
        fact = f"{name} is not there after it was sent."
        raise CheckFailed(fact, "The registry lost it, or somebody removed it.", "Publish again.")
    kept = len(parts) - len(missing)
    say(
        f"publish:{release.name}: {name}@sha256:{layout.digest} ({total / 1e6:,.1f} MB sent, {kept} files there before)"
    )
