"""How large what is built will be: an estimate from the shapes of a checkpoint's tensors. Nothing is exported, and no weight is read."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from onnxmake.build.decide import ASKED, Decision, decide, table
from onnxmake.build.origin import Origin
from onnxmake.errors import UnsupportedError

Facts = Mapping[str, Any]
Made = Mapping[str, Decision]
MB = 1e6
GRAPH = 1500  # bytes of model.onnx for each tensor, and a little more than measured: 1400 of 24 layers, 700 of 6
FLOATS = {"fp16": 2, "bf16": 2, "calibrated": 2}  # bytes of a value by what it is cast to; 4 of others
OUTSIDE = {"encoder": ("decoder.", "lm_head."), "text": ("vision",), "vision": ("text",)}  # names that a part has not
COPIED = ("tokenizer", "special_tokens_map.", "added_tokens.", "vocab.", "merges.", "chat_template.")


def _aligned(size: float) -> int:
    """As the file of weights is laid out: to a page, or a cache line where it is less."""
    alignment = 4096 if size >= 4096 else 64
    return math.ceil(size / alignment) * alignment


def _written(shape: Sequence[int], bits: int, block: int | None, symmetric: bool, value: int) -> int:
    """Bytes of a tensor: of its values where `bits` is 0, else of codes, scales and zero points, its last axis cut into blocks, or whole."""
    if not bits:
        return _aligned(math.prod(shape) * value)
    block = block or shape[-1]
    rows, blocks = math.prod(shape[:-1]), math.ceil(shape[-1] / block)
    zeros = 0 if symmetric else rows * math.ceil(blocks * bits / 8)
    return sum(map(_aligned, (rows * blocks * block * bits / 8, rows * blocks * value, zeros)))


def _copies(name: str, tables: Sequence[str], decoder: bool, bits: int, choice: Mapping[str, Any]) -> list[int]:
    """Bits of each copy of a matrix that is written: a table of tokens may be the embedding, the head or both."""
    head, look = 8 if choice.get("lm_head") == "int8" else bits, 0 if choice.get("embeddings") == "keep" else bits
    if name not in tables:
        return [bits]
    if not decoder:
        return [look]
    tied = len(tables) == 1
    return [head] if name == tables[0] and (look or not tied) else [head, 0] if tied else [look]


def weights(shapes: Mapping[str, Sequence[int]], facts: Facts, made: Made) -> int:
    """Bytes of the file of weights; of a mixed one, of the smallest that there can be."""
    choice = {name: decision.choice for name, decision in made.items()}
    value, dynamic = FLOATS.get(choice.get("cast", ""), 4), choice["method"] == "dynamic"
    bits, total = 8 if dynamic else choice.get("bits", 0), 0
    inside = {n: s for n, s in shapes.items() if not any(w in n for w in OUTSIDE.get(choice.get("part", ""), ()))}
    tables = [name for name, shape in inside.items() if len(shape) == 2 and shape[0] == facts["vocab"]]
    for name, shape in inside.items():
        expert = facts["mixture"] and (".experts." in name or len(shape) == 3 and shape[-1] >= 16)  # or a convolution
        if expert:
            copies = [0 if choice.get("experts") == "keep" else bits]
        elif bits and len(shape) == 2:
            copies = _copies(name, tables, facts["kind"] == "decoder", bits, choice)
        else:
            copies = [0]
        block, symmetric = (None, True) if dynamic else (choice.get("block_size"), choice.get("symmetric"))
        total += sum(_written(shape, number, block, expert or symmetric, value) for number in copies)
    return total


def _beside(found: Origin) -> int:
    """Bytes of all files but the weights'."""
    return GRAPH * len(found.shapes) + sum(size for name, size in found.files.items() if name.startswith(COPIED))


def estimate(found: Origin, facts: Facts, made: Made) -> float:
    """MB of 10^6 bytes of all files that come of a decision."""
    return (weights(found.shapes, facts, made) + _beside(found)) / MB


def _possible(found: Origin, facts: Facts, asked: Mapping[str, str], **answers: str) -> float | None:
    """The estimate with other answers; None where they are refused."""
    try:
        return estimate(found, facts, decide(facts, {**asked, **answers}))
    except UnsupportedError:
        return None


def budgeted(found: Origin, facts: Facts, asked: Mapping[str, str], budget: float) -> dict[str, Any]:
    """Facts about a budget of MB: what it leaves for weights, and mb_PRECISION, the estimate of each that is possible."""
    room = {"max_size_mb": budget, "weights_mb": math.floor(100 * (budget - _beside(found) / MB)) / 100}
    sizes = {p: _possible(found, {**facts, **room}, asked, precision=p) for p in table()[ASKED]["precision"]}
    return room | {f"mb_{precision}": size for precision, size in sizes.items()}


def check(found: Origin, facts: Facts, asked: Mapping[str, str], made: Made) -> Decision:
    """The estimate, for the list of decisions. Raises UnsupportedError where it is beyond the budget, with the smallest that can be had."""
    size, budget, precision = estimate(found, facts, made), facts["max_size_mb"], made["precision"].choice
    if size <= budget:
        shown = f"{size:.4g} MB" + f" to {budget:g} MB" * (precision == "mixed")
        return Decision("size", shown, "estimated from the shapes of its tensors")
    options = [
        (p, block) for p in table()[ASKED]["precision"] for block in ("", *map(str, table()[ASKED]["block_size"]))
    ]
    sizes = {o: _possible(found, facts, asked, precision=o[0], block_size=o[1]) for o in options}
    least, (best, block) = min((size, option) for option, size in sizes.items() if size is not None)
    with_block = f" --block-size {block}" if block else ""
    raise UnsupportedError(
        f"{facts['model']} in {precision} takes an estimated {size:.4g} MB on {facts['device']}, more than --max-size-mb {budget:g}.",
        "The estimate is of the shapes of its tensors: weights, scales, what stays float; and of tokenizer and graph.",
        f"The smallest that can be had is an estimated {least:.4g} MB: --precision {best}{with_block} --max-size-mb {math.ceil(least * 100) / 100:g}.",
    )
