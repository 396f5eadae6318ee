"""A release as a model on the Hugging Face hub, by the hub's own client, which lives in the environment cpu: the commit bears the version as tag."""

import re

from onnxmake.build import fetch, job, paths, runner
from onnxmake.build.report import say
from onnxmake.errors import TargetError
from onnxmake.release import sums
from onnxmake.release.found import Released
from onnxmake.release.publish import Item, Seen

FORM = "hf://OWNER/NAME[@BRANCH]"
WHERE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<branch>[\w./-]+))?", re.ASCII)


def _asked(release: Released, where: str, go: bool) -> tuple[list[Item], dict]:
    """The release's files, and what the hub's side says. Raises TargetError, and what the job raises."""
    match = WHERE.fullmatch(where)
    if not match:
        raise TargetError(f"hf://{where} is no model on the hub.", "", f"Write {FORM}.")
    names = [*sums.listed(release.folder), *(n for n in (sums.FILE, sums.SIGNATURE) if (release.folder / n).exists())]
    items = [Item(n, (release.folder / n).stat().st_size, sums.digest(release.folder / n)) for n in names]
    access = fetch.hub_access()
    access["read"].append(str(release.folder.absolute()))
    action = {
        "repo": match["repo"],
        "branch": match["branch"] or "main",
        "title": f"{release.name} {release.version}",
        "version": release.version,
        "folder": str(release.folder.absolute()),
        "files": {item.name: [item.digest, item.size] for item in items},
        "go": go,
    }
    work = job.module("onnxmake.model.upload", "cpu", **access)
    log = paths.BUILD / "logs" / f"publish-{release.folder.name}.log"
    return items, runner.run(work, action, log, f"publish {release.name}")


def look(release: Released, where: str) -> Seen:
    items, told = _asked(release, where, go=False)
    if told["there"] is None:
        return Seen(items, "What is there is not known: there is no such model, or it is private.")
    note = f"Of the branch, these files go: {', '.join(told['others'])}." if told["others"] else ""
    tag = Item(f"tag {release.version}", 0, "", told["same"])
    return Seen([*(item._replace(there=item.name in told["there"]) for item in items), tag], note)


def send(release: Released, where: str) -> None:
    items, told = _asked(release, where, go=True)
    if told["same"]:
        say(f"publish:{release.name}: {where} {release.version} is there already, the same")
        return
    sent = sum(item.size for item in items if item.name not in told["there"])
    kept = sum(item.name in told["there"] for item in items)
    say(
        f"publish:{release.name}: {where} {release.version} is commit {told['commit'][:12]} ({sent / 1e6:,.1f} MB, {kept} files there before)"
    )
