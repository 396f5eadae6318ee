"""Widths of single weights by glob: what they claim, and what is refused."""

import onnx_ir as ir
import pytest
from graphs import load_pass, node, value, weight
from graphs import model as graph_of
from hypothesis import given
from hypothesis import strategies as st

from onnxmake.errors import TargetError, UnsupportedError
from onnxmake.model.graph import attribute, nodes
from onnxmake.model.widths import claims

PASS = load_pass("quantize_kquant")


def layers(width: int = 64) -> ir.Model:
    """ids -> tied embedding -> two layers of packed q, k, v and a down product -> logits."""
    ids, table = (
        value("input_ids", ["batch", "sequence"], ir.DataType.INT64),
        weight("model.embed_tokens.weight", 48, width),
    )
    x = node("Gather", [table.outputs[0], ids], ["batch", "sequence", width], domain="")
    made, reads = [x], [table]
    for layer in range(2):
        parts = [f"model.layers.{layer}.self_attn.{name}.weight" for name in ("q_proj", "k_proj", "v_proj")]
        packed = node("Weight", [], [3 * width, width], parts=parts)
        down = weight(f"model.layers.{layer}.mlp.down_proj.weight", width, 3 * width)
        both = node("Linear", [made[-1].outputs[0], packed.outputs[0]], ["batch", "sequence", 3 * width])
        made += [both, node("Linear", [both.outputs[0], down.outputs[0]], ["batch", "sequence", width])]
        reads += [packed, down]
    logits = node("Linear", [made[-1].outputs[0], table.outputs[0]], ["batch", "sequence", 48])
    return graph_of([ids], [logits.outputs[0]], *reads, *made, logits)


def widths(**options) -> dict[str, set[int]]:
    """First name that an op reads -> its bits; 0: it stays."""
    built = layers()
    PASS.rewrite(built, PASS.Options(**options))
    found: dict[str, set[int]] = {}
    for reference in nodes(built.graph, "QuantizedWeight", "Weight"):
        name = attribute(reference, "parts")[0].removesuffix(".weight").removeprefix("model.")
        found.setdefault(name, set()).add(attribute(reference, "bits", 0))
    return found


def test_without_lists_every_weight_has_the_pass_s_bits():
    assert set().union(*widths().values()) == {4}


def test_lists_win_over_bits_head_and_embeddings_and_keep_what_they_say():
    found = widths(
        bits=2, lm_head="int4", int8=("model.embed_*", "model.layers.0.*.down_proj"), keep=("*.1.self_attn.*",)
    )
    assert found == {
        "embed_tokens": {8},
        "layers.0.self_attn.q_proj": {2},
        "layers.0.mlp.down_proj": {8},
        "layers.1.self_attn.q_proj": {0},
        "layers.1.mlp.down_proj": {2},
    }


def test_a_list_may_hold_several_globs_that_match_the_same_weight():
    assert widths(int8=("*.down_proj", "model.layers.0.*"))["layers.0.mlp.down_proj"] == {8}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"int8": ("*.donw_proj",)}, ("int8 = '*.donw_proj' matches no weight", "model.layers.*.mlp.down_proj")),
        ({"keep": ("lm_head",)}, ("keep = 'lm_head' matches no weight", "tied to its embedding")),
        ({"keep": ("model.norm",)}, ("matches no weight that is quantised", "model.embed_tokens")),
        (
            {"int8": ("*.down_proj",), "int2": ("model.layers.1.*",)},
            ("model.layers.1.mlp.down_proj is claimed by int2 = 'model.layers.1.*' and by int8 = '*.down_proj'",),
        ),
        (
            {"int8": ("*.v_proj",)},
            ("int8 = '*.v_proj' claims a part of model.layers.0.self_attn.q_proj", "one product"),
        ),
        ({"int8": ("*.v_proj",), "int4": ("*.[qk]_proj",)}, ("claims a part of", "Claim all of them by one list")),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_glob_and_what_is_near(options, said):
    with pytest.raises(TargetError) as error:
        widths(**options)
    assert all(text in str(error.value) for text in said), error.value


def look_up(width: int) -> ir.Model:
    """A table of positions, which may stay, and a product."""
    ids = value("position_ids", ["batch", "sequence"], ir.DataType.INT64)
    table, product = weight("positions.weight", 16, width), weight("head.weight", 48, width)
    looked = node("Gather", [table.outputs[0], ids], ["batch", "sequence", width], domain="")
    logits = node("Linear", [looked.outputs[0], product.outputs[0]], ["batch", "sequence", 48])
    return graph_of([ids], [logits.outputs[0]], table, product, looked, logits)


def test_a_claimed_weight_that_cannot_be_quantised_is_refused_where_it_would_stay_otherwise():
    assert PASS.rewrite(look_up(40), PASS.Options()) == 1
    assert PASS.rewrite(look_up(64), PASS.Options(int8=("positions",))) == 2
    with pytest.raises(UnsupportedError, match="positions, in int8, cannot be quantised"):
        PASS.rewrite(look_up(40), PASS.Options(int8=("positions",)))


NAMES = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3, unique=True)


@given(st.lists(NAMES, max_size=5), st.dictionaries(st.sampled_from(["int2", "int8"]), NAMES, max_size=2))
def test_every_op_has_the_list_that_holds_all_of_its_names_or_none_does(ops, lists):
    try:
        found = claims(ops, lists)
    except TargetError:
        return
    for op, label in zip(ops, found):
        holds = {name: [known for known, globs in lists.items() if name in globs] for name in op}
        assert all(known == ([label] if label else []) for known in holds.values())
