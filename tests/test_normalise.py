"""The normaliser on archives made here, of both forms that engines write: equal content, equal bytes; all of it survives."""

import gzip
import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmake.build import normalise
from onnxmake.build.normalise import Identity
from onnxmake.build.process import EPOCH
from onnxmake.errors import EngineError

TAG = "onnxmake-toy:0123456789ab"
XATTR = "SCHILY.xattr."
few = settings(deadline=None, database=None, max_examples=30)


@dataclass(frozen=True)
class Entry:
    """One member of a layer."""

    name: str
    data: bytes = b""
    kind: bytes = tarfile.REGTYPE
    mode: int = 0o644
    user: int = 0
    group: int = 0
    link: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Image:
    """The first `kept` layers are the base's: tar bytes as they are."""

    layers: tuple[tuple[Entry, ...], ...]
    base: tuple[bytes, ...] = ()
    settings: dict[str, Any] = field(default_factory=lambda: {"Env": ["PATH=/bin"], "Cmd": ["python"]})


@dataclass(frozen=True)
class Circumstances:
    """When and where an image is built, and how it is written: nothing of this is content."""

    time: float = 1.0
    owner: str = ""
    format: int = tarfile.PAX_FORMAT
    more: tuple[tuple[str, str], ...] = ()  # pax headers
    host: str = "0123456789ab"
    newer: bool = False
    packed: bool = False


def pack(entries: tuple[Entry, ...], place: Circumstances = Circumstances()) -> bytes:
    """A layer as an engine writes it."""
    file = io.BytesIO()
    for_sure = tarfile.PAX_FORMAT if any(entry.xattrs for entry in entries) else place.format
    with tarfile.open(fileobj=file, mode="w", format=for_sure) as tar:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.type, info.mode, info.linkname, info.size = entry.kind, entry.mode, entry.link, len(entry.data)
            info.uid, info.gid, (info.devmajor, info.devminor) = entry.user, entry.group, entry.device
            info.mtime, info.uname, info.gname = place.time, place.owner, place.owner
            info.pax_headers = dict(place.more) | {XATTR + key: value for key, value in entry.xattrs}
            tar.addfile(info, io.BytesIO(entry.data) if entry.data else None)
    return file.getvalue()


def described(layers: list[bytes], image: Image, place: Circumstances) -> dict[str, Any]:
    """The configuration that a build leaves, with the many things that are no content."""
    return {
        "architecture": "amd64",
        "os": "linux",
        "created": f"2026-01-01T00:00:00.{int(place.time)}Z",
        "container": place.host,
        "docker_version": f"20.10.{len(place.host)}",
        "config": {"Hostname": place.host, "Image": f"sha256:{place.host}", "OnBuild": None} | image.settings,
        "container_config": {"Hostname": place.host, "Cmd": ["/bin/sh", "-c", "#(nop)"]},
        "history": [{"created": str(place.time), "created_by": f"/bin/sh on {place.host}"} for _ in layers],
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha(layer)}" for layer in layers]},
    }


def save(path: Path, image: Image, place: Circumstances = Circumstances()) -> Path:
    """Write the image as an engine saves it."""
    layers = [*image.base, *(pack(entries, place) for entries in image.layers)]
    config = json.dumps(described(layers, image, place)).encode()
    (_newer if place.newer else _older)(path, layers, config, place)
    return path


def _older(path: Path, layers: list[bytes], config: bytes, place: Circumstances) -> None:
    """As Docker 20.10 does: a folder for each layer, where one that was there before is a link to its first place."""
    first: dict[bytes, str] = {}
    names = [f"{sha(f'{place.host} {i}'.encode())}/layer.tar" for i in range(len(layers))]
    with tarfile.open(path, "w") as archive:
        for name, layer in zip(names, layers):
            add(archive, f"{os.path.dirname(name)}/VERSION", b"1.0")
            if layer in first:
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.SYMTYPE, f"../{first[layer]}"
                archive.addfile(link)
            else:
                add(archive, name, layer)
            first.setdefault(layer, name)
        add(archive, f"{sha(config)}.json", config)
        listed = [{"Config": f"{sha(config)}.json", "RepoTags": None, "Layers": names}]
        add(archive, "manifest.json", json.dumps(listed).encode())


def _newer(path: Path, layers: list[bytes], config: bytes, place: Circumstances) -> None:
    """As engines do that keep images as registries have them: blobs by digest, packed or not."""
    blobs = [gzip.compress(layer, mtime=int(place.time) % 2**32) if place.packed else layer for layer in layers]
    with tarfile.open(path, "w") as archive:
        for blob in {sha(blob): blob for blob in (config, *blobs)}.values():
            add(archive, f"blobs/sha256/{sha(blob)}", blob)
        add(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        names = [f"blobs/sha256/{sha(blob)}" for blob in blobs]
        listed = [{"Config": f"blobs/sha256/{sha(config)}", "RepoTags": [TAG], "Layers": names}]
        add(archive, "manifest.json", json.dumps(listed).encode())


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Normal:
    """What came out: the archive's bytes, and the layers and configuration in it."""

    identity: Identity
    archive: bytes

    @property
    def files(self) -> dict[str, bytes]:
        with tarfile.open(fileobj=io.BytesIO(self.archive)) as tar:
            assert len(set(tar.getnames())) == len(tar.getnames())
            return {member.name: tar.extractfile(member).read() for member in tar}

    @property
    def docker(self) -> dict[str, Any]:
        (only,) = json.loads(self.files["manifest.json"])
        return only

    @property
    def config(self) -> dict[str, Any]:
        return json.loads(self.files[self.docker["Config"]])

    @property
    def layers(self) -> list[bytes]:
        return [self.files[name] for name in self.docker["Layers"]]


def normal(image: Image, place: Circumstances = Circumstances()) -> Normal:
    with tempfile.TemporaryDirectory() as folder:
        saved = save(Path(folder) / "saved.tar", image, place)
        archive, identity = normalise.normalise(saved, TAG, len(image.base))
        assert os.listdir(folder) == [archive.name]
        return Normal(identity, archive.read_bytes())


def told(layer: bytes) -> list[tuple]:
    """All that a layer holds but dates and names of users."""
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        return [
            (
                *(m.name, m.type, m.mode, m.uid, m.gid, m.linkname, m.devmajor, m.devminor),
                {key: value for key, value in m.pax_headers.items() if key.startswith(XATTR)},
                tar.extractfile(m).read() if m.isreg() else b"",
            )
            for m in tar
        ]


NAMES = st.text("abcdé ./", min_size=1, max_size=130).map(lambda text: f"opt/{text.strip('/')}x")
MODES = st.integers(0, 0o7777)
USERS = st.sampled_from([0, 1, 1000, 2**21, 2**33])
XATTRS = st.dictionaries(st.sampled_from(["user.a", "security.capability"]), st.text(max_size=9)).map(
    lambda found: tuple(sorted(found.items()))
)
FILES = st.builds(
    Entry, NAMES, st.binary(max_size=2000), mode=MODES, user=USERS, group=USERS, xattrs=st.one_of(st.just(()), XATTRS)
)
OTHERS = st.one_of(
    st.builds(Entry, NAMES, kind=st.just(tarfile.DIRTYPE), mode=MODES, user=USERS, xattrs=XATTRS),
    st.builds(Entry, NAMES, kind=st.just(tarfile.SYMTYPE), mode=st.just(0o777), link=NAMES),
    st.builds(Entry, NAMES, kind=st.just(tarfile.LNKTYPE), mode=MODES, link=NAMES),
)
LAYERS = st.lists(st.one_of(FILES, OTHERS), max_size=4, unique_by=lambda entry: entry.name).map(tuple)
IMAGES = st.builds(
    Image,
    st.lists(LAYERS, min_size=1, max_size=3).map(tuple),
    st.lists(LAYERS.map(pack), max_size=2).map(tuple),
    st.fixed_dictionaries({"Env": st.lists(st.text(max_size=9), min_size=1), "User": st.sampled_from(["", "1:1"])}),
)
PLACES = st.builds(
    Circumstances,
    st.one_of(st.integers(0, 2**34), st.floats(0, 2**34)),
    st.sampled_from(["", "root", "somebody", "jörg"]),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.sampled_from([(), (("atime", "1.5"), ("ctime", "2.25")), (("LIBARCHIVE.creationtime", "3"),)]),
    st.text("0123456789abcdef", min_size=12, max_size=12),
    st.booleans(),
    st.booleans(),
)
FILE = Entry("opt/file", b"content", mode=0o755, user=1000)
ONE = Image(((FILE,),), (pack((Entry("etc/base", b"base"),)),))


@few
@given(IMAGES, PLACES, PLACES)
def test_what_differs_in_time_and_place_alone_becomes_the_same_bytes(image, here, there):
    assert normal(image, here) == normal(image, there)


@few
@given(IMAGES, PLACES)
def test_what_was_normalised_once_stays_as_it_is(image, place):
    first = normal(image, place)
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "saved.tar"
        saved.write_bytes(first.archive)
        archive, identity = normalise.normalise(saved, TAG, len(image.base))
        assert Normal(identity, archive.read_bytes()) == first


@few
@given(IMAGES, PLACES)
def test_all_entries_survive_in_their_order_with_one_date_and_no_names(image, place):
    layers = normal(image, place).layers
    assert [told(layer) for layer in layers] == [*map(told, image.base), *(told(pack(e)) for e in image.layers)]
    for layer in layers[len(image.base) :]:
        with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
            for member in tar:
                assert (member.mtime, member.uname, member.gname) == (EPOCH, "", "")
                assert {"mtime", "atime", "ctime", "uname", "gname"}.isdisjoint(member.pax_headers)


@few
@given(IMAGES, PLACES)
def test_the_base_s_layers_stay_byte_for_byte(image, place):
    assert tuple(normal(image, place).layers[: len(image.base)]) == image.base


@few
@given(IMAGES, PLACES)
def test_every_digest_and_size_is_true_for_docker_and_for_oci(image, place):
    made = normal(image, place)
    files = made.files

    def read(blob: dict[str, Any]) -> bytes:
        data = files[f"blobs/{blob['digest'].replace(':', '/')}"]
        assert (blob["digest"], blob["size"]) == (f"sha256:{sha(data)}", len(data))
        return data

    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (named,) = json.loads(files["index.json"])["manifests"]
    manifest = json.loads(read(named))
    layers = [read(layer) for layer in manifest["layers"]]
    assert json.loads(read(manifest["config"])) == made.config and layers == made.layers
    assert made.config["rootfs"]["diff_ids"] == [f"sha256:{sha(layer)}" for layer in layers]
    assert len(layers) == len(image.base) + len(image.layers) == len(made.config["history"])
    assert made.identity == Identity(manifest["config"]["digest"], named["digest"])
    assert made.docker["RepoTags"] == [TAG] and named["annotations"]["org.opencontainers.image.ref.name"] == TAG
    assert manifest["mediaType"] == named["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    named_files = {name for name in files if name.startswith("blobs/")}
    digests = [named, manifest["config"], *manifest["layers"]]
    assert named_files == {f"blobs/{blob['digest'].replace(':', '/')}" for blob in digests}


def _with(**values) -> Callable[[Image], Image]:
    """A change of the file."""
    return lambda image: replace(image, layers=((replace(FILE, **values),),))


@pytest.mark.parametrize(
    "change",
    [
        _with(data=b"other"),
        _with(data=b""),
        _with(name="opt/other"),
        _with(mode=0o4755),
        _with(user=0),
        _with(group=7),
        _with(xattrs=(("user.a", "b"),)),
        _with(kind=tarfile.SYMTYPE, data=b"", link="elsewhere"),
        lambda image: replace(image, layers=((FILE, Entry("opt/.wh.gone")),)),
        lambda image: replace(image, layers=((FILE,), ())),
        lambda image: replace(image, base=(pack((Entry("etc/base", b"base"),), Circumstances(2.0)),)),
        lambda image: replace(image, base=()),
        lambda image: replace(image, settings=image.settings | {"Env": ["PATH=/usr/bin"]}),
        lambda image: replace(image, settings=image.settings | {"User": "1:1"}),
        lambda image: replace(image, settings=image.settings | {"Labels": {"a": "b"}}),
    ],
)
def test_other_content_is_another_image(change):
    here = normal(ONE)
    there = normal(change(ONE))
    assert here.identity.config != there.identity.config and here.identity.manifest != there.identity.manifest


@pytest.mark.parametrize(
    "entry",
    [
        Entry("dev/null", kind=tarfile.CHRTYPE, device=(1, 3)),
        Entry("dev/disk", kind=tarfile.BLKTYPE, device=(8, 0), mode=0o660, group=6),
        Entry("run/pipe", kind=tarfile.FIFOTYPE),
        Entry("opt/" + "folder/" * 60 + "file", b"deep"),
        Entry("opt/link", kind=tarfile.SYMTYPE, link="../" * 60 + "far"),
        Entry("opt/.wh..wh..opq"),
        Entry(b"opt/caf\xe9".decode("utf-8", "surrogateescape"), b"latin"),
        Entry("bin/ping", b"x", xattrs=(("security.capability", "\x01\0\0\x02\udcff\n="),)),
        Entry("opt/large", bytes(3_000_000)),
    ],
    ids=lambda entry: ascii(entry.name[:20]),
)
@pytest.mark.parametrize("newer", [False, True])
def test_rare_entries_survive(entry, newer):
    image = Image(((FILE, entry, FILE),))
    assert told(normal(image, Circumstances(newer=newer)).layers[0]) == told(pack(image.layers[0]))


@pytest.mark.parametrize("newer", [False, True])
def test_a_layer_that_comes_again_above_another_is_there_again(newer):
    """A file is written, replaced, and written again as it was: the last word must stay the last."""
    image = Image(((FILE,), (replace(FILE, data=b"between"),), (FILE,)), (ONE.base[0], pack(()), pack(())))
    made = normal(image, Circumstances(newer=newer))
    assert [told(layer) for layer in made.layers[3:]] == [told(pack(entries)) for entries in image.layers]
    assert tuple(made.layers[:3]) == image.base
    assert made.config["rootfs"]["diff_ids"] == [f"sha256:{sha(layer)}" for layer in made.layers]


def test_of_the_configuration_only_what_a_container_needs_survives():
    wanted = {
        "Cmd": ["python"],
        "Entrypoint": ["/init"],
        "Env": ["A=b"],
        "ExposedPorts": {"80/tcp": {}},
        "Labels": {"a": "b"},
        "User": "1:1",
        "Volumes": {"/v": {}},
        "WorkingDir": "/w",
    }
    assert set(wanted) == normalise.KEPT
    noise = {"Tty": True, "StdinOnce": False, "ArgsEscaped": True, "Domainname": "d", "Image": "sha256:1"}
    made = normal(replace(ONE, settings=wanted | noise)).config
    assert made["config"] == wanted
    assert set(made) == {"architecture", "os", "created", "config", "rootfs", "history"}
    assert made["history"] == [{"created": normalise.DATE}] * 2 and made["created"] == normalise.DATE


def test_empty_settings_are_as_good_as_none():
    empty = {"Env": ["A=b"], "Cmd": None, "Labels": {}, "Volumes": None, "User": "", "WorkingDir": ""}
    assert normal(replace(ONE, settings=empty)) == normal(replace(ONE, settings={"Env": ["A=b"]}))


def rewrite(saved: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Write the archive again, each file as `change` says, or without it."""
    with tarfile.open(saved) as archive:
        found = [(member, archive.extractfile(member).read() if member.isreg() else b"") for member in archive]
    with tarfile.open(saved, "w") as archive:
        for member, data in found:
            changed = change(member.name, data) if member.isreg() else data
            if changed is not None:
                member.size = len(changed)
                archive.addfile(member, io.BytesIO(changed))


def refusal(saved: Path, kept: int) -> EngineError:
    with pytest.raises(EngineError) as caught:
        normalise.normalise(saved, TAG, kept)
    assert caught.value.fact and caught.value.cause and caught.value.action
    return caught.value


@pytest.mark.parametrize("newer", [False, True])
@pytest.mark.parametrize("kept", [1, 0])
def test_a_layer_whose_content_is_not_what_the_engine_says_is_an_error(tmp_path, newer, kept):
    """A base's layer, and one that was built: its content would become the image's name."""
    saved = save(tmp_path / "saved.tar", ONE, Circumstances(newer=newer))
    old, new = (b"base", b"bass") if kept else (b"content", b"contend")
    rewrite(saved, lambda name, data: data.replace(old, new) if len(data) > 5000 else data)
    error = refusal(saved, kept)
    assert TAG in error.fact and f"layer {1 - kept}" in error.fact


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _zstd(data: bytes) -> bytes:
    return b"\x28\xb5\x2f\xfd" + data


def _flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def _empty(data: bytes) -> bytes:
    return b""


def _gone(data: bytes) -> None:
    return None


@pytest.mark.parametrize("place", [Circumstances(), Circumstances(newer=True), Circumstances(newer=True, packed=True)])
@pytest.mark.parametrize("kept", [0, 1, 2])
@pytest.mark.parametrize("change", [_cut, _flip, _zstd, _empty, _gone])
def test_a_damaged_layer_is_an_error_that_says_so(tmp_path, place, kept, change):
    saved = save(tmp_path / "saved.tar", ONE, place)
    with tarfile.open(saved) as archive:
        name = json.load(archive.extractfile("manifest.json"))[0]["Layers"][1]
    rewrite(saved, lambda found, data: change(data) if found == name else data)
    assert TAG in refusal(saved, kept).fact


@pytest.mark.parametrize("description", [True, False], ids=["description", "configuration"])
@pytest.mark.parametrize("change", [_gone, _empty, lambda data: data[:-1], lambda data: b"{}"])
def test_a_damaged_description_is_an_error_that_says_so(tmp_path, description, change):
    saved = save(tmp_path / "saved.tar", ONE)

    def damage(name: str, data: bytes) -> bytes | None:
        return change(data) if name.endswith(".json") and (name == "manifest.json") == description else data

    rewrite(saved, damage)
    assert TAG in refusal(saved, 1).fact


def test_a_description_that_counts_other_layers_than_there_are_is_an_error(tmp_path):
    saved = save(tmp_path / "saved.tar", ONE)

    def fewer(name: str, data: bytes) -> bytes:
        if name != "manifest.json":
            return data
        (only,) = json.loads(data)
        return json.dumps([only | {"Layers": only["Layers"][:1]}]).encode()

    rewrite(saved, fewer)
    assert TAG in refusal(saved, 1).fact


@pytest.mark.parametrize("left", [0, 100, 2000])
def test_an_archive_that_ends_too_early_is_an_error_that_says_so(tmp_path, left):
    saved = save(tmp_path / "saved.tar", ONE)
    saved.write_bytes(saved.read_bytes()[:left])
    assert TAG in refusal(saved, 1).fact
