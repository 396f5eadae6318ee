"""`doit report`: built targets and releases as build/report/index.html."""

from onnxmake.build import paths
from onnxmake.build.commands import Command
from onnxmake.build.files import write_atomically
from onnxmake.build.plan import Plan
from onnxmake.build.report import say
from onnxmake.errors import TargetError
from onnxmake.page.document import document
from onnxmake.page.facts import gathered


def report(plan: Plan) -> None:
    """Write the page, and say what was left out of it. Raises StoreError."""
    site = gathered(plan)
    file = paths.BUILD / "report" / "index.html"
    write_atomically(file, document(site))
    for one in site.damaged:
        say(f"left out: {one}")
    say(f"{paths.shown(file)}: built targets {len(site.built)}, releases {len(site.releases)}")


class Report(Command):
    """All that is known of what is built, as a page for a browser."""

    doc_purpose = "write a page over all that is built and released"
    doc_usage = ""

    def work(self, plan, params, arguments):
        if arguments:
            raise TargetError(
                f"{arguments[0]!r} is not asked for.", "The page is over all that is built.", "doit report"
            )
        report(plan)
