"""Bring a folder to the Hugging Face hub as one commit with a tag: the files as they are and no others.

{"repo", "branch", "title", "version", "folder", "files": name -> [sha256, bytes], "go"} -> {"there": names that the branch has as they are,
"others": names that it has beside, "commit", "same"}. Files that arrived before a break are not sent again: the hub keeps them by digest.
"""

from pathlib import Path
from typing import Any

from onnxmake.errors import CheckFailed, PublishError, StoreError
from onnxmake.model.hub import digest_of
from onnxmake.model.progress import progress
from onnxmake.model.serve import serve

OWN = (".gitattributes",)  # of the hub's own making


def _at(api: Any, repo: str, revision: str) -> Any | None:
    """What the hub has there, with digests; None where it has nothing."""
    from huggingface_hub import errors

    try:
        return api.repo_info(repo, revision=revision, files_metadata=True)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        return None


def _compared(info: Any | None, folder: Path, files: dict) -> tuple[list[str], list[str]]:
    """Names that are there as they are here, and other names that are there."""
    there = {s.rfilename: s for s in info.siblings} if info else {}
    same = []
    for name in files:
        if (s := there.get(name)) is not None:
            stated = files[name][0] if s.lfs else digest_of(folder / name, lfs=False)
            if stated == (s.lfs.sha256 if s.lfs else s.blob_id):
                same.append(name)
    return same, sorted(there.keys() - files.keys() - set(OWN))


def _sent(api: Any, asked: dict, head: Any, same: list[str], others: list[str]) -> str:
    """The new commit."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    folder, files, repo, branch = Path(asked["folder"]), asked["files"], asked["repo"], asked["branch"]
    adds = [CommitOperationAdd(name, str(folder / name)) for name in files if name not in same]
    total, done = sum(files[add.path_in_repo][1] for add in adds), 0
    for add in adds:  # one after the other: a break loses one at most
        api.preupload_lfs_files(repo, [add], revision=branch, free_memory=False)
        done += files[add.path_in_repo][1]
        progress(done, total)
    gone = [CommitOperationDelete(name, is_folder=False) for name in others]
    made = api.create_commit(
        repo, [*adds, *gone], commit_message=asked["title"], revision=branch, parent_commit=head.sha if head else None
    )
    return made.oid


def upload(asked: dict) -> dict[str, Any]:
    """Raises StoreError where the version is there with another content, PublishError, CheckFailed."""
    from huggingface_hub import HfApi, errors

    repo, branch, version, go = asked["repo"], asked["branch"], asked["version"], asked["go"]
    folder, files = Path(asked["folder"]), asked["files"]
    api = HfApi(token=None if go else False)
    try:
        tagged = _at(api, repo, version)
        same, others = _compared(tagged, folder, files)
        if tagged and (len(same) < len(files) or others):
            raise StoreError(
                f"{repo} has {version} already, and it is another one.",
                "A version is of one content for ever.",
                "Release it under another version.",
            )
        if tagged:
            return {"there": same, "others": [], "commit": tagged.sha, "same": True}
        head = _at(api, repo, branch)
        if not go:
            same, others = _compared(head, folder, files)
            return {"there": same if head else None, "others": others, "commit": None, "same": False}
        if head is None:
            api.create_repo(repo, exist_ok=True)
            if branch != "main":
                api.create_branch(repo, branch=branch, exist_ok=True)
            head = _at(api, repo, branch)
        same, others = _compared(head, folder, files)
        whole = len(same) == len(files) and not others
        commit = head.sha if whole else _sent(api, asked, head, same, others)
        arrived, more = _compared(_at(api, repo, commit), folder, files)
        if len(arrived) < len(files) or more:
            wrong = sorted({*files} - {*arrived}) + more
            fact = f"{repo} has other files at {commit[:12]} than were sent, {wrong[0]} for one; it was not tagged."
            raise CheckFailed(fact, "Somebody else changed them, or the hub did.", "Publish again.")
        api.create_tag(repo, tag=version, revision=commit)
    except errors.HFValidationError as error:
        raise PublishError(f"{repo} is no name of a model.", "A typing error.", "Write owner/name.") from error
    except (errors.HTTPError, RuntimeError, OSError, ValueError) as error:
        raise _failure(error, repo) from error
    return {"there": same, "others": others, "commit": commit, "same": False}


def _failure(error: Exception, repo: str) -> Exception:
    """In three parts; what is no failure of the hub's comes back as it is."""
    from huggingface_hub import errors

    if isinstance(error, RuntimeError) and error.__cause__:  # the client's own, around what went wrong with a file
        error = error.__cause__  # type: ignore[assignment]
    if getattr(error, "errno", None):
        return error
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if status in (401, 403, 404):
        cause = "No token, a wrong one, or one that may not write there."
        return PublishError(
            f"The hub refuses to take {repo}: {status}.", cause, "Set HF_TOKEN to one that may write to it."
        )
    if status in (409, 412):
        cause = "Somebody else wrote to it meanwhile."
        return PublishError(
            f"{repo} changed while it was published.", cause, "Publish again: what has arrived is kept."
        )
    said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    cause = "No network, or the hub does not answer, or has a failure of its own."
    return PublishError(f"{repo} could not be published: {said}", cause, "Publish again: what has arrived is kept.")


if __name__ == "__main__":
    serve(upload)
