"""Every error that onnxmake raises on purpose.

A fact, its likely cause, what to do next. Caught in one place: where it is printed.
"""


class OnnxmakeError(Exception):
    """A failure that a person can act on."""

    def __init__(self, fact: str, cause: str = "", action: str = ""):
        super().__init__(fact)
        self.fact, self.cause, self.action = fact, cause, action

    def __str__(self) -> str:
        return "\n".join(
            [
                self.fact,
                *(
                    f"  {label}: {text}"
                    for label, text in (("Likely cause", self.cause), ("Next", self.action))
                    if text
                ),
            ]
        )


class TargetError(OnnxmakeError):
    """A target file, or a pass it names, is not what the schema says."""


class SourceError(OnnxmakeError):
    """The checkpoint's files cannot be had: missing folder, hub, network, checksum."""


class CheckpointError(OnnxmakeError):
    """The checkpoint's files are there and wrong: header, shape, number, format."""


class UnsupportedError(OnnxmakeError):
    """onnxmake cannot do this, and says so before it would do it wrongly."""


class PassError(OnnxmakeError):
    """A pass broke its contract: it changed nothing, or left an invalid graph."""


class StoreError(OnnxmakeError):
    """The store or the output folder cannot be read or written."""


class ObjectLost(StoreError):
    """A file that was in the store is gone from it, or is not what it was; its step can make it again."""


class PublishError(OnnxmakeError):
    """A release does not come to where it is to go: refused, not reached, cut off."""


class EnvironmentMissing(OnnxmakeError):
    """A locked environment cannot be made."""


class StepFailed(OnnxmakeError):
    """A step's process ended without a result."""


class Refused(StepFailed):
    """A step said itself why it gives no result."""


class EngineError(EnvironmentMissing):
    """The container engine is missing, refuses, or failed."""


class CheckFailed(OnnxmakeError):
    """A model was built and does not compute what it should."""
