"""[check] of a target: what its built model is evaluated on, and the limits that it must keep. A gate limits the metric in its name."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from onnxmake.build.dataset import HUB, MADE, misnamed

METRICS = {  # in the order of the table -> what a person reads, and how a value is written
    "perplexity": ("perplexity", "{:.3f}"),
    "perplexity_unquantised": ("perplexity, unquantised", "{:.3f}"),
    "perplexity_rise": ("perplexity rise", "{:.2%}"),
    "kl": ("KL divergence, mean nats", "{:#.3g}"),
    "kl_p99": ("KL divergence, 99th percentile", "{:#.3g}"),
    "top1": ("top-1 agreement", "{:.2%}"),
    "cosine": ("cosine, least", "{:.6f}"),
    "cosine_mean": ("cosine, mean", "{:.6f}"),
    "size_mb": ("size MB", "{:.2f}"),
    "decode": ("decode, times that of {than}", "{:.2f}"),
}


@dataclass(frozen=True)
class Check:
    """What `doit check` evaluates, and gates: fractions, nats, megabytes of 10^6 bytes."""

    # a file, relative to the target's, hf://datasets/OWNER/NAME@COMMIT/FILE, or script://FILE of a script; without it, the embedded
    # model's held-out text
    text: str | None = None
    text_template: str = ""  # of rows: "{question} {answer}"; "": the column text
    window: int = 512  # tokens that the model sees at once
    stride: int | None = (
        None  # tokens from one window to the next, of which the last of each count; without it, a window
    )
    max_tokens: int = 8192
    max_perplexity_rise: float | None = None  # against the unquantised model
    max_kl: float | None = None
    max_kl_p99: float | None = None
    min_top1: float | None = None  # likeliest token, or an encoder's label, the same as the unquantised model's
    min_cosine: float | None = None  # of any output for any line of the text
    max_size_mb: float | None = None
    min_decode: float | None = None  # as a multiple of the target `than`, both as `doit bench` measured them
    than: str | None = None
    limits: dict[str, float] = field(default_factory=dict)  # of figures of [[metric]]: { min_NAME = 0.8, max_NAME = 2 }

    def __post_init__(self):
        if "://" in (self.text or "") and not (self.on_hub or self.made):
            raise ValueError(f"text = {self.text!r} {misnamed(self.text or '')}")
        if self.text_template and self.text is None:
            raise ValueError("text_template goes with text, a file with rows")
        if not 1 <= self.step <= self.window or self.window < 2:
            raise ValueError("window must be at least 2, and stride from 1 to window")
        if self.max_tokens < self.window:
            raise ValueError(f"max_tokens = {self.max_tokens} is less than one window of {self.window}")
        if wrong := [name for name in self.limits if name[:4] not in ("max_", "min_") or name[4:] in ("", *METRICS)]:
            raise ValueError(f"limits: {wrong[0]} is not min_NAME or max_NAME of a figure of [[metric]]")
        if low := [name for name, limit in self.gates.items() if not limit >= 0 and name not in self.limits]:
            raise ValueError(f"{low[0]} must not be negative")
        if high := [name for name in ("min_top1", "min_cosine") if self.gates.get(name, 0) > 1]:
            raise ValueError(f"{high[0]} is a fraction, at most 1")
        if (self.min_decode is None) != (self.than is None):
            raise ValueError('min_decode and than = "target" go together')

    @property
    def on_hub(self) -> bool:
        """Whether the text is a dataset's."""
        return HUB.fullmatch(self.text or "") is not None

    @property
    def made(self) -> str:
        """The file of a script's that is the text; "" where it is no script's."""
        return self.text.removeprefix(MADE) if (self.text or "").startswith(MADE) and self.text != MADE else ""

    @property
    def step(self) -> int:
        """Tokens from one window to the next."""
        return self.window if self.stride is None else self.stride

    @property
    def gates(self) -> dict[str, float]:
        """Gate -> limit, of those that are set."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name[:4] in ("max_", "min_")}
        own = {name: limit for name, limit in values.items() if limit is not None and name != "max_tokens"}
        return own | self.limits

    @property
    def settings(self) -> dict[str, Any]:
        """What shapes a figure beside text and model."""
        rows = {"text_template": self.text_template} if self.text_template else {}
        return {"window": self.window, "stride": self.step, "max_tokens": self.max_tokens} | rows


def metric_of(gate: str) -> str:
    return gate[len("max_") :]


def is_met(gate: str, value: float, limit: float) -> bool:
    return value <= limit if gate.startswith("max_") else value >= limit


def missed(check: Check, metrics: Mapping[str, float]) -> list[str]:
    """Gates that a computed metric does not keep."""
    known = {gate: limit for gate, limit in check.gates.items() if metric_of(gate) in metrics}
    return [gate for gate, limit in known.items() if not is_met(gate, metrics[metric_of(gate)], limit)]


def absent(check: Check, metrics: Mapping[str, float]) -> list[str]:
    """Gates on what was not computed."""
    return [gate for gate in check.gates if metric_of(gate) not in metrics]


def rows(check: Check, metrics: Mapping[str, float]) -> list[list[str]]:
    """Metric and value, and where it is limited the limit, and by how much it is met or missed."""
    limits, out = {metric_of(gate): gate for gate in check.gates}, []
    own = {name: (name, "{:.6g}") for name in (*metrics, *limits) if name not in METRICS}
    for name, (label, form) in (METRICS | own).items():
        gate = limits.get(name)
        if gate is None and name not in metrics:
            continue
        row = [label.format(than=check.than), form.format(metrics[name]) if name in metrics else "not computed"]
        if gate is not None:
            limit = check.gates[gate]
            row.append(f"{'at most' if gate.startswith('max_') else 'at least'} {form.format(limit)}")
        if gate is not None and name in metrics:
            word = "met" if is_met(gate, metrics[name], limit) else "MISSED"
            row.append(f"{word} by {form.format(abs(metrics[name] - limit))}")
        out.append(row)
    return out


def table(check: Check, metrics: Mapping[str, float]) -> str:
    """The rows, for the screen."""
    from tabulate import tabulate

    align = ("left", "right", "right", "left")
    return tabulate(rows(check, metrics), ["metric", "value", "limit", ""], disable_numparse=True, colalign=align)
