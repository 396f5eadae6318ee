"""How many bits the weights of each op get: by the kind of op, or by the list of globs that claims them."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import onnx_ir as ir

from onnxmake.errors import TargetError
from onnxmake.model.graph import DOMAIN, attribute, nodes, produced_by
from onnxmake.model.head import find_head
from onnxmake.model.options import LISTS, BlockOptions

ALLOCATED = "allocated"  # attribute of a Weight: how many bits the quantiser that follows is to give it


def references(node: ir.Node) -> list[ir.Node]:
    """The Weight nodes whose values the op reads as they are stored."""
    values = {"Linear": node.inputs[1:2], "Experts": node.inputs[3:5], "Gather": node.inputs[:1]}[node.op_type]
    return [weight for value in values if (weight := produced_by(value, "Weight", DOMAIN))]


def _by_kind(graph: ir.Graph, o: BlockOptions) -> list[tuple[ir.Node, int]]:
    """Every op that reads a weight as it is stored, and its bits: those that were allocated to the weight, or by the kind of op."""
    bits, head = {"same": o.bits, **LISTS}, find_head(graph)
    found = [(n, _allocated(n, bits[o.lm_head] if n is head else o.bits)) for n in nodes(graph, "Linear")]
    tied = dict(found).get(head, 0)
    found += [(n, bits[o.experts]) for n in nodes(graph, "Experts")]
    for node in nodes(graph, "Gather"):
        shared = head is not None and node.inputs[0] is head.inputs[1]
        same = _allocated(node, tied if shared else o.bits)
        found.append((node, {"same": same, **LISTS}[o.embeddings]))
    return [(node, number) for node, number in found if references(node)]


def _allocated(node: ir.Node, default: int) -> int:
    """Bits that allocate_bits chose for the weight that the op reads, if it did."""
    return next((attribute(weight, ALLOCATED, default) for weight in references(node)), default)


def widths(graph: ir.Graph, o: BlockOptions) -> list[tuple[ir.Node, int, str]]:
    """Every op that reads a weight as it is stored, its bits (0: it stays), and who claims what of it, or "".

    A tied embedding without bits of its own has its head's. Raises TargetError as `claims` does.
    """
    found = _by_kind(graph, o)
    names = [[part.removesuffix(".weight") for w in references(n) for part in attribute(w, "parts")] for n, _ in found]
    labels = claims(names, {label: getattr(o, label) for label in LISTS})
    return [
        (node, bits, "") if label is None else (node, LISTS[label], f"{read[0]}, in {label},")
        for (node, bits), read, label in zip(found, names, labels)
    ]


def claims(ops: Sequence[Sequence[str]], lists: Mapping[str, Iterable[str]]) -> list[str | None]:
    """For each op, given the modules whose weights it reads, the list that claims them, or None.

    Raises TargetError where a glob matches no module, two lists claim one, or a list claims only some of an op's.
    """
    names = sorted({name for op in ops for name in op})
    owners: dict[str, tuple[str, str]] = {}
    for label, globs in lists.items():
        for glob in globs:
            found = [name for name in names if fnmatchcase(name, glob)]
            if not found:
                raise _unmatched(label, glob, names)
            for name in found:
                other, theirs = owners.setdefault(name, (label, glob))
                if other != label:
                    raise TargetError(
                        f"{name} is claimed by {other} = {theirs!r} and by {label} = {glob!r}.",
                        "Both globs match it, and a weight has one width.",
                        "Make one of them more specific.",
                    )
    return [_agreed(op, owners) for op in ops]


def _agreed(op: Sequence[str], owners: Mapping[str, tuple[str, str]]) -> str | None:
    found = {owners[name][0] if name in owners else None for name in op}
    if len(found) > 1:
        label, glob = next(owners[name] for name in op if name in owners)
        raise TargetError(
            f"{label} = {glob!r} claims a part of {', '.join(op[:4])}{' ...' if len(op) > 4 else ''}.",
            "They are one product on this device, with one width.",
            "Claim all of them by one list, or none.",
        )
    return next(iter(found), None)


def _unmatched(label: str, glob: str, names: Iterable[str]) -> TargetError:
    """With the most similar names, their numbers left out."""
    text = glob.strip("*.")
    forms = {re.sub(r"\b\d+\b", "*", name) for name in names}

    def likeness(form: str) -> float:
        ends = form[: len(text)], form[-len(text) :]
        return max(difflib.SequenceMatcher(None, text, end).ratio() for end in ends)

    near = sorted(sorted(forms), key=likeness, reverse=True)[:3]
    return TargetError(
        f"{label} = {glob!r} matches no weight that is quantised.",
        "A typing error; or a head that is tied to its embedding, and bears the embedding's name.",
        f"Nearest: {', '.join(near) or 'none'}.",
    )
