"""Publishing as doit tasks: of every name that has a release, and of every target, which is then told that it has none."""

import sys
from collections.abc import Iterator

from onnxmake.build.plan import Plan
from onnxmake.build.tasks import Task, task
from onnxmake.release import publish
from onnxmake.release.found import releases


def publishes(plan: Plan) -> Iterator[Task]:
    """Each stands outside the group: what is published is for ever."""
    if any(word.split(":")[0] in ("publish", "list", "help", "info", "tabcompletion") for word in sys.argv[1:]):
        for name in sorted({*plan.targets, *(release.name for release in releases())}):
            made = task(name, "bring a release to where others get it", publish.publish, name)
            yield {k: v for k, v in made.items() if k != "name"} | {"basename": f"publish:{name}"}
