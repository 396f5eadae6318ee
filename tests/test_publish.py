"""Publishing a release: where to, which version, and to a folder."""

import shutil
import sys
from collections import Counter

import pytest
from publishing import verified
from releasing import NAME, WEIGHTS, content, make_release

from onnxmake.build.misnamed import misnamed_by
from onnxmake.build.plan import Plan
from onnxmake.errors import CheckFailed, EnvironmentMissing, OnnxmakeError, StoreError, TargetError
from onnxmake.release import sums
from onnxmake.release.found import releases

pytestmark = pytest.mark.usefixtures("alone")


def test_without_oras_it_says_how_to_get_it(release, go, monkeypatch):
    monkeypatch.setitem(sys.modules, "oras.provider", None)
    with pytest.raises(EnvironmentMissing) as caught:
        go("oci://localhost/a")
    assert "'.[publish]'" in caught.value.action


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("", "Where to?"),
        ("here", "is no destination"),
        ("ftp://x/y", "leads nowhere"),
        ("oci://host", "is no repository"),
        ("oci://host/Big", "is no repository"),
        ("oci://host/a:b c", "is no repository"),
        ("oci://user:password@host/a", "is no repository"),
        ("hf://one", "is no model on the hub"),
        ("hf://a/b/c", "is no model on the hub"),
        ("dir://", "names no folder"),
    ],
)
def test_what_is_no_destination_is_refused(release, go, to, says):
    with pytest.raises(TargetError, match=says) as caught:
        go(to)
    assert "://" in caught.value.action or caught.value.action


def test_the_newest_is_published_unless_a_version_is_said(output, go, tmp_path):
    with pytest.raises(StoreError, match="There is no release of") as caught:
        go(f"dir://{tmp_path}/to")
    assert caught.value.action == f"doit release:{NAME} version=1.0.0"
    make_release("1.0.0-rc.1")
    make_release("1.0.0")
    make_release("3", name="tiny")  # its folder's name begins as theirs do
    assert [r.version for r in releases()] == ["1.0.0-rc.1", "1.0.0", "3"]
    go(f"dir://{tmp_path}/to")
    go(f"dir://{tmp_path}/to", version="1.0.0-rc.1")
    assert sorted(p.name for p in (tmp_path / "to").glob(f"{NAME}*") if p.suffix != ".oci") == [
        f"{NAME}-1.0.0",
        f"{NAME}-1.0.0-rc.1",
    ]
    with pytest.raises(StoreError, match="no release 1.0.1 of"):
        go(f"dir://{tmp_path}/to", version="1.0.1")


def test_a_folder_gets_all_or_nothing_and_only_once(release, go, tmp_path, monkeypatch):
    to, final = f"dir://{tmp_path}/a/to", tmp_path / "a" / "to" / release.folder.name
    assert "to be sent" in go(to, "no") and not final.parent.exists()
    go(to)
    assert content(final) == content(release.folder) and verified(final, monkeypatch) == 0
    assert content(final.with_name(release.layout.name)) == content(release.layout)
    assert {p.name for p in final.parent.iterdir()} == {final.name, release.layout.name}
    assert "is there already, the same" in go(to) and "Nothing is left to send." in go(to, "no")
    shutil.rmtree(final.with_name(release.layout.name))
    go(to)
    assert content(final.with_name(release.layout.name)) == content(release.layout)
    (final / WEIGHTS).write_bytes(b"damaged")
    with pytest.raises(CheckFailed, match="is not what SHA256SUMS says"):
        go(to)
    sums.write(final)
    with pytest.raises(StoreError, match="is there already, and it is another one"):
        go(to)


def test_a_copy_that_is_stopped_leaves_nothing(release, go, tmp_path, monkeypatch):
    from onnxmake.release.destinations import dir as folder

    calls = Counter()

    def stops(path):
        calls["sync"] += 1
        if calls["sync"] == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(folder, "sync", stops)
    with pytest.raises(KeyboardInterrupt):
        go(f"dir://{tmp_path}/to")
    assert list((tmp_path / "to").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(release, go, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Could not publish to .*file"):
        go(f"dir://{tmp_path}/file/to")


def test_names_of_releases_are_known_beside_those_of_targets(output):
    make_release(name="of-several")
    plan, names = Plan({}, {}), [one.name for one in releases()]
    assert misnamed_by(plan, "publish:of-several", names) is None
    assert "of-several" in str(misnamed_by(plan, "publish:of-severl", names))
    error = misnamed_by(plan, "publish")
    assert isinstance(error, OnnxmakeError) and "is of one target" in error.fact
