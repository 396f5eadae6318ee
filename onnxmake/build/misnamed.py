"""Words of a command line that name no task."""

from collections.abc import Collection

from onnxmake.build import paths
from onnxmake.build.plan import Plan
from onnxmake.build.schema import nearest
from onnxmake.errors import TargetError

OF_ONE = (
    "build",
    "show",
    "try",
    "bench",
    "bundle",
    "check",
    "search",
    "release",
    "verify",
    "publish",
)  # groups of targets
TOLD = ("build", "show", "release")  # have tasks of their own for what is broken


def misnamed_by(plan: Plan, word: str, released: Collection[str] = ()) -> TargetError | None:
    """Why the word of a command line names nothing. `released`: names that have a release."""
    group, colon, name = word.partition(":")
    known = {*plan.targets, *plan.broken, *(plan.releases if group in ("release", "show", "publish") else ())}
    if group == "try" and not colon:
        return TargetError("doit try is of one target.", "It builds it first.", "doit try:NAME -p TEXT")
    if group in ("search", "release", "publish") and not colon:
        return TargetError(f"doit {group} is of one target.", "It takes long, or is for ever.", f"doit {group}:NAME")
    if group not in OF_ONE or not colon or {*name} & {*"*?["}:
        return None
    if group == "publish":  # a release may be there whose target is not
        known |= {*released}
    if name not in known and name in plan.releases:
        cause = "It names targets that are released together."
        return TargetError(f"{name} is a release, not a target.", cause, f"doit release:{name}, or doit show:{name}.")
    if name not in known:
        cause = "A typing error, or its file is neither in targets/ nor in a folder of ONNXMAKE_TARGETS."
        return TargetError(f"No target is named {name!r}.", cause, nearest(name, known))
    if name in plan.broken and group not in TOLD:
        return plan.broken[name]  # type: ignore[return-value]
    if group == "search" and name in plan.targets and not plan.targets[name][0].search:
        file = plan.targets[name][0].file
        if file.suffix == ".json":
            cause = "Its workflow has no search_strategy, or its passes leave nothing open that a search here varies."
            why = f"doit import -c {paths.shown(file)} -o NAME.toml says why; add [search.PASS] there."
            return TargetError(f"{name} has nothing to search.", cause, why)
        cause = "[search] says which options are tried; `like` does not take it over."
        return TargetError(f"{name} has no [search].", cause, "Add [search.PASS] with option = [value, ...].")
    return None
