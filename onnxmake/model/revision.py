"""The commit that a branch of a hub repository is at now. {"repo", "revision"} -> 40 hex digits."""

from onnxmake.model import hub
from onnxmake.model.serve import serve


def commit(repo: str, revision: str) -> str:
    """Raises SourceError."""
    from huggingface_hub import HfApi

    with hub.told(repo, revision, "model"):
        return HfApi().repo_info(repo, revision=revision).sha or ""


if __name__ == "__main__":
    serve(lambda a: commit(a["repo"], a["revision"]))
