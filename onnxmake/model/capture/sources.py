"""Where each parameter's values are in the checkpoint, as Transformers' own loading rules say: renamed, split, stacked.

The rules run on tensors of row numbers instead of values, so that any of them becomes a list of rows to read.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)


@dataclass(frozen=True)
class Source:
    """Rows [start, end) of a tensor seen as [rows, last dimension], or columns where `transposed`."""

    name: str
    start: int
    end: int
    whole: bool


def _numbered(names: Sequence[str], tensors: Mapping[str, list[int]], axis: int) -> tuple[list[Tensor], Tensor]:
    """For each tensor its rows' numbers (axis -1) or its columns' (-2), counted over all of `names`; and where each starts."""
    out, starts, end = [], [], 0
    for name in names:
        shape = list(tensors[name])
        shape[axis] = 1
        count = torch.Size(shape).numel()
        out.append(torch.arange(end, end + count).reshape(shape))
        starts.append(end)
        end += count
    return out, torch.tensor([*starts, end])


def _sources(numbers: Tensor, names: Sequence[str], starts: Tensor) -> list[Source]:
    """Runs of consecutive numbers, cut where one tensor ends."""
    flat = numbers.reshape(-1)
    owner = torch.searchsorted(starts, flat, right=True) - 1
    cut = torch.ones_like(flat, dtype=torch.bool)
    cut[1:] = (flat[1:] != flat[:-1] + 1) | (owner[1:] != owner[:-1])
    begin = cut.nonzero()[:, 0].tolist()
    out = []
    for i, j in zip(begin, [*begin[1:], len(flat)]):
        tensor = int(owner[i])
        first, size = int(flat[i] - starts[tensor]), int(starts[tensor + 1] - starts[tensor])
        out.append(Source(names[tensor], first, first + j - i, j - i == size))
    return out


def _convert(
    rule: WeightConverter, target: str, collected: list[tuple[str, str]], tensors: Mapping, model: PreTrainedModel
) -> dict[str, tuple[list[Source], bool, list[int]]]:
    """Parameter -> its sources, whether they are columns, and its shape."""
    names = [name for name, _ in collected]
    for axis in (-1, -2):
        numbered, starts = _numbered(names, tensors, axis)
        attempt = copy.deepcopy(rule)
        for (name, pattern), tensor in zip(collected, numbered):
            attempt.add_tensor(target, name, pattern, tensor)
        result = attempt.convert(target, model=model, config=model.config)
        single = {k: v[0] if isinstance(v, list) else v for k, v in result.items()}
        if all(v.shape[-1] == 1 for v in single.values()):
            return {k: (_sources(v, names, starts), axis == -2, list(v.shape[:-1])) for k, v in single.items()}
    raise NotImplementedError(target)


def sources(
    model: PreTrainedModel, tensors: Mapping[str, list[int]]
) -> dict[str, tuple[list[Source], bool, list[int]]]:
    """Parameter or buffer -> where its values are, whether transposed, and its shape without the last dimension."""
    rules = get_model_conversion_mapping(model)
    renamings = [r for r in rules if isinstance(r, WeightRenaming)]
    converters = [r for r in rules if isinstance(r, WeightConverter)]
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    wanted = model.state_dict()
    out: dict[str, tuple[list[Source], bool, list[int]]] = {}
    collected: dict[str, tuple[WeightConverter, list[tuple[str, str]]]] = {}
    for name in sorted(tensors, key=dot_natural_key):
        renamed, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, wanted)
        if renamed not in wanted and name in wanted:
            renamed, pattern = rename_source_key(name, [], [], model.base_model_prefix, wanted)
        if renamed not in wanted:
            continue
        if pattern is None:
            shape = list(tensors[name])
            rows = torch.Size(shape[:-1]).numel()
            out[renamed] = [Source(name, 0, rows, True)], False, shape[:-1]
        else:
            collected.setdefault(renamed, (by_pattern[pattern], []))[1].append((name, pattern))
    for target, (rule, members) in collected.items():
        out |= _convert(rule, target, members, tensors, model)
    return out
