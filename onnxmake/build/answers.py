"""What the Python API answers with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxmake.build.verdict import UP_TO_DATE, Verdict


@dataclass(frozen=True)
class File:
    """`size` in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class BuiltStep:
    """`verb`: ran, restored (from the store) or up to date; `reasons`: why its last run or restoration was needed; `seconds` and `memory`, its process's largest in bytes, are of the run
    that made its files, now or earlier."""

    name: str
    verb: str
    reasons: tuple[str, ...]
    key: str
    seconds: float
    memory: int | None

    @classmethod
    def of(cls, name: str, record: Mapping[str, Any], made: bool) -> "BuiltStep":
        """From the step's manifest; `made`: by this very build."""
        return cls(
            name,
            record["verb"] if made else UP_TO_DATE,
            tuple(record["because"]),
            record["key"],
            record["seconds"],
            record.get("memory"),
        )


@dataclass(frozen=True)
class Built:
    """`files`: those of the model in `folder`, by name; manifest.json is beside them."""

    target: str
    folder: Path
    files: dict[str, File]
    steps: tuple[BuiltStep, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())


@dataclass(frozen=True)
class Planned:
    """`steps`: from the source by the passes to dist, each with verdict, reasons and the seconds that it took last time."""

    target: str
    steps: tuple[Verdict, ...]

    @property
    def up_to_date(self) -> bool:
        return all(step.verdict == UP_TO_DATE for step in self.steps)


@dataclass(frozen=True)
class Checked:
    """`metrics`: as gates call them, such as kl (nats) and size_mb; `gates`: the limits, which all are kept."""

    target: str
    metrics: dict[str, float]
    gates: dict[str, float]


@dataclass(frozen=True)
class Spread:
    """Median, and what nine of ten runs reach."""

    p50: float
    p90: float


@dataclass(frozen=True)
class Run:
    """For a prompt of so many tokens: seconds to the first token, tokens a second of the prompt, and of what follows, if text does."""

    prompt_tokens: int
    first_token_s: Spread
    prefill: Spread
    decode: Spread | None


@dataclass(frozen=True)
class Measured:
    """`machine`: as it describes itself; `load_s` seconds; `peak_bytes` of the process that ran the model."""

    target: str
    machine: dict[str, Any]
    load_s: float
    peak_bytes: int
    runs: tuple[Run, ...]

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> "Measured":
        """From a result as `results` keeps it."""
        runs = [
            Run(
                run["prompt_tokens"],
                Spread(**run["first_token_s"]),
                Spread(**run["prefill"]),
                Spread(**run["decode"]) if run["decode"] else None,
            )
            for run in result["runs"]
        ]
        return cls(result["target"], result["machine"], result["load_s"], result["peak_bytes"], tuple(runs))
