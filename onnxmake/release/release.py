"""`doit release:NAME`: what is in dist/ and passed its check, with its papers, in dist/releases/NAME-VERSION."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from onnxmake.build import locks, paths, store
from onnxmake.build.files import canonical_json, place, storage_errors
from onnxmake.build.plan import Step
from onnxmake.build.releases import ReleaseFile
from onnxmake.build.report import say
from onnxmake.build.settings import choice, setting
from onnxmake.build.target import Target
from onnxmake.errors import StoreError
from onnxmake.release import archive, bom, card, facts, oci, provenance, received, signature, sums
from onnxmake.release.facts import Facts


def folder_of(told: Facts) -> Path:
    return paths.DIST / "releases" / f"{told.name}-{told.version}"


def _write(told: Facts, licences: Sequence[Path], out: Path) -> None:
    for name, file in told.files.items():
        file.write(out / name)
    for text in licences:
        place(text, out / text.name, link=False)
    (out / sums.CARD).write_text(card.card(told), "utf-8", newline="\n")
    (out / sums.BOM).write_text(canonical_json(bom.bom(told)), "utf-8", newline="\n")
    (out / sums.PROVENANCE).write_text(canonical_json(provenance.statement(told)), "utf-8", newline="\n")
    sums.write(out)


def _commit(told: Facts, work: Path, final: Path) -> None:
    """Put the release, and its layout beside it, in their places. Raises StoreError where another one has the version."""
    with store.locked(f"release-{final.name}"):
        if final.exists():
            if (final / sums.FILE).read_bytes() == (work / sums.FILE).read_bytes():
                say(f"release:{told.name}: {paths.shown(final)} is there already, the same")
                return
            raise StoreError(
                f"{paths.shown(final)} is there already, and it is another one.",
                "A version is of one content for ever.",
                "Choose another version: doit release:NAME version=1.0.1.",
            )
        final.parent.mkdir(parents=True, exist_ok=True)
        layout = final.with_name(f"{final.name}.oci")
        shutil.rmtree(layout, ignore_errors=True)  # of a release that was not finished: without its folder it is none
        oci.lay_out(told, work, work.parent / "oci")
        os.replace(work.parent / "oci", layout)
        os.replace(work, final)
    size = sum(file.stat().st_size for file in final.rglob("*") if file.is_file())
    signed = "signed" if (final / sums.SIGNATURE).exists() else "not signed: key=FILE.pem signs it"
    say(f"release:{told.name}: {paths.shown(final)} ({size / 1e6:,.1f} MB), {signed}")
    say(f"  as an OCI image layout: {paths.shown(layout)}; python -m onnxmake verify {paths.shown(final)}")


def release(targets: Sequence[tuple[Target, Sequence[Step]]], file: ReleaseFile | None = None) -> None:
    """Of one target with its steps, or of those that a release file names; they are built and checked. Raises CheckFailed,
    EnvironmentMissing, SourceError, StoreError, TargetError."""
    told, key, wanted = facts.gathered(targets, file), setting("key"), choice("archive", ("no", "yes")) == "yes"
    if wanted:
        archive.compressor()  # before anything is there
    source = Path(targets[0][1][0].checkpoint.record["folder"])
    licences = sorted(text for pattern in ("LICENSE*", "NOTICE*") for text in source.glob(pattern) if text.is_file())
    with storage_errors("make the release"):
        work = Path(tempfile.mkdtemp(dir=locks.scratch(paths.DIST)))
        try:
            (work / "new").mkdir()
            _write(told, licences, work / "new")
            if key:
                signature.sign(work / "new", Path(key))
            received.verify(work / "new")  # what goes out is what its receiver will take
            _commit(told, work / "new", folder_of(told))
            if wanted:
                archive.pack(folder_of(told), work / "archive")
        finally:
            shutil.rmtree(work, ignore_errors=True)
