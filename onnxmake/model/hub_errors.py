"""What the hub's client raises, as errors that a person can act on."""

import contextlib
from collections.abc import Iterator

from onnxmake.errors import SourceError

NAMED = {"model": "source.repo, or in --model", "dataset": "the name of a dataset"}  # where a repository is named
INSTEAD = {
    "model": "Or fetch it elsewhere and give doit source=FOLDER, or doit new -m FOLDER.",
    "dataset": "Or save its rows or text as .jsonl or .txt beside the target, and name that file.",
}


@contextlib.contextmanager
def hub_errors(repo: str, revision: str, kind: str = "model") -> Iterator[None]:
    """Of requests about a repository at a revision. Raises SourceError."""
    from huggingface_hub import errors

    where = f"{repo} at {revision[:12]}"
    try:
        yield
    except errors.HFValidationError as error:
        raise SourceError(
            f"{repo} is no name of a hub repository.",
            f"A typing error in {NAMED[kind]}.",
            f"Write owner/name, as in the address of the {kind}'s page.",
        ) from error
    except errors.GatedRepoError as error:
        raise SourceError(
            f"{repo} is gated.",
            "Its owners ask for consent first.",
            f"Accept the terms on the {kind}'s page and set HF_TOKEN.",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise SourceError(
            f"The hub has no {kind} {repo}, or hides it.",
            f"A typing error in {NAMED[kind]}, or a private {kind}.",
            "Correct it, or set HF_TOKEN after asking for access.",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise SourceError(
            f"{repo} has no revision {revision}.",
            "It is of another repository, was deleted, or there is a typing error.",
            f"Copy the commit from the {kind}'s history.",
        ) from error
    except (errors.HTTPError, OSError, ValueError) as error:
        if getattr(error, "errno", None):
            raise
        if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
            raise SourceError(
                f"The hub refuses to serve {where}.",
                f"The token is wrong, expired, or may not read this {kind}.",
                "Set HF_TOKEN to a token that may, or unset it.",
            ) from error
        raise SourceError(
            f"{where} could not be fetched: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            "No network, or the hub does not answer.",
            f"Try again: what has arrived is kept. {INSTEAD[kind]}",
        ) from error
