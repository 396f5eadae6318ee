"""Twins: small models of an architecture, from any config.json.

Few layers that show every kind of layer, small widths that keep ratios and constraints, windows and rope boundaries
short enough for a prompt of some dozen tokens to cross them.
"""

from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING

from onnxmake.model.capture.config import load_config
from onnxmake.model.names import (
    ATTENTION_HEADS,
    BOUNDARY,
    CAPS,
    DEPTHS,
    DERIVED,
    HEAD,
    HEAD_WIDTHS,
    HEADS,
    KEY_VALUE_HEADS,
    LIMITS,
    SPECIAL,
    WIDTHS,
)


def _layers(table: Mapping[str, Any], depth: int) -> list[int]:
    """Layers to keep: two of each kind, as the config's lists tell them apart."""
    lists = [v for v in table.values() if isinstance(v, (list, tuple)) and len(v) == depth]
    own = _own_settings(table)
    kinds = [repr([own.get(i), *(values[i] for values in lists)]) for i in range(depth)]
    kept = [i for i, kind in enumerate(kinds) if kinds[:i].count(kind) < 2]
    return kept if len(set(kinds)) > 1 else list(range(min(2, depth)))


def _own_settings(table: Mapping[str, Any]) -> dict[int, Mapping[str, int]]:
    """Settings that single layers have instead of the model's, by layer."""
    return {int(layer): settings for layer, settings in (table.get("per_layer_config") or {}).items()}


def _rope(rope: Any, width: int) -> Any:
    """Rope parameters, of one kind of layers or of each: boundaries and factor lists as short as the twin's."""
    if not isinstance(rope, Mapping):
        return rope
    if any(isinstance(v, Mapping) for v in rope.values()):
        return {key: _rope(value, width) for key, value in rope.items()}
    out = dict(rope)
    if out.get("original_max_position_embeddings"):
        out["original_max_position_embeddings"] = BOUNDARY
    factors = {key: list(out[key])[: width // 2] for key in ("short_factor", "long_factor") if key in out}
    return out | factors


def _widths(table: Mapping[str, Any], heads: int | None, hidden: int | None) -> dict[str, Any]:
    """Heads and widths by name: ratios between them are kept as far as 1, 2 and 4 can say."""
    rope = table.get("rope_parameters")
    partial = table.get("partial_rotary_factor") or (rope or {}).get("partial_rotary_factor") or 1.0
    head = min(4 * HEAD, round(HEAD / partial)) if isinstance(partial, float) else HEAD
    width, explicit = HEADS * head, next((table[k] for k in HEAD_WIDTHS if isinstance(table.get(k), int)), None)
    if explicit and heads and hidden and explicit * heads > hidden:
        head *= 2
    out: dict[str, Any] = {}
    for key, value in table.items():
        if key in HEAD_WIDTHS:
            out[key] = head
        elif not isinstance(value, int) or isinstance(value, bool):
            continue
        elif key in ATTENTION_HEADS:
            out[key] = HEADS
        elif key in KEY_VALUE_HEADS:
            out[key] = 1 if value == 1 else HEADS if value == heads else HEADS // 2
        elif key in WIDTHS:
            out[key] = width
    if "qk_rope_head_dim" in table:  # what such configs call head_dim follows from it
        out["head_dim"] = head = LIMITS["qk_rope_head_dim"]
    if isinstance(rope, Mapping):
        out["rope_parameters"] = _rope(rope, round(head * partial))
    if isinstance(inner := table.get("mamba_expand", table.get("expand")), int):  # heads times width is the inner width
        heads_of = [k for k in ("mamba_n_heads", "mamba_num_heads", "num_heads") if k in table]
        width_of = [k for k in ("mamba_d_head", "mamba_head_dim", "head_dim") if k in table]
        if heads_of and width_of:
            out |= {heads_of[0]: HEADS, width_of[0]: inner * width // HEADS}
        if table.get("mamba_d_ssm"):
            out["mamba_d_ssm"] = inner * width
    return out


def _at_most(value: Any, limit: int) -> Any:
    """A number, or each number of a list."""
    if isinstance(value, (list, tuple)):
        return [_at_most(item, limit) for item in value]
    return min(value, limit) if isinstance(value, int) else value


def twin(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a twin of the model that config.json `architecture` describes."""
    config = load_config(architecture)
    table = {k: v for k, v in config.to_dict().items() if k not in DERIVED}

    def get(name: str) -> Any:
        return table.get(config.attribute_map.get(name, name))

    limits = {
        key: limit for key, limit in LIMITS.items() if key != "image_size" or "depths" not in table
    }  # halved on and on
    small: dict[str, Any] = {
        key: _at_most(value, limits[key])
        for key, value in table.items()
        if key in limits and value is not None and not isinstance(value, bool)
    }
    small |= _widths(table, get("num_attention_heads"), get("hidden_size"))
    small |= {key: value for key, value in SPECIAL.items() if key in table}
    small |= {key: cap for key, cap in CAPS.items() if table.get(key)}
    depth = get("num_hidden_layers")
    if isinstance(depth, int):
        kept = _layers(table, depth)
        small |= {
            key: [value[i] for i in kept]
            for key, value in table.items()
            if isinstance(value, (list, tuple)) and len(value) == depth
        }
        small |= {key: len(kept) for key in DEPTHS if isinstance(table.get(key), int)}
        if own := _own_settings(table):
            small["per_layer_config"] = {
                str(i): {key: value * small.get(key, table[key]) // table[key] for key, value in own[layer].items()}
                for i, layer in enumerate(kept)
                if layer in own
            }
    parts = [key for key in config.sub_configs if (table.get(key) or {}).get("model_type") in CONFIG_MAPPING]
    return table | small | {key: twin(table[key]) for key in parts}
