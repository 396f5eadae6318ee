"""What a target may be called: its name becomes a file, folders and words of a command line."""

import re

from onnxmake.errors import TargetError

TAKEN = {"releases", "bundles"}  # folders in dist/ beside those of targets
NAME = re.compile(r"[^\s.:=/\\*?\[\]-][^:=/\\*?\[\]\x00-\x1f]*")
SUFFIX = ".release"  # NAME.release.toml names targets to release together


def check_name(name: str, where: str = "") -> str:
    """The name. Raises TargetError, prefixed by `where`, for one that a folder or a command line cannot have."""
    if name in TAKEN:
        cause = f"dist/{name} holds what is made of targets."
    elif not NAME.fullmatch(name) or name.endswith(SUFFIX):
        cause = (
            "A name becomes a file, a folder and a word of a command line: no : = / * ? [ ], no dot or dash in front."
        )
    else:
        return name
    raise TargetError(f"{where}{name!r} cannot be the name of a target.", cause, "Choose another.")
