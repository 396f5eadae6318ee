"""What a workflow's search varies here: what Olive's own would, as far as there are options for it."""

import pytest
from workflows import WORKFLOWS, a_pass, changed, notes_of, write

from onnxmake.build.target import read_target
from onnxmake.errors import TargetError


def test_what_a_search_leaves_open_is_searched(tmp_path):
    target = read_target(write(tmp_path, WORKFLOWS["alternatives with a search"][0]))
    axes = {axis.label: axis.values for axis in target.search.axes}
    assert axes == {"quantize_kquant.block_size": (32, 128), "quantize_kquant.symmetric": (False, True)}
    assert target.search.settings.trials == 5


def sought(*passes, **changes):
    """A workflow with a search over these passes."""
    named = {f"p{number}": one for number, one in enumerate(passes)}
    return (
        changed(passes=named, evaluator={"metrics": []}, search_strategy={"sampler": "tpe", "max_samples": 3}) | changes
    )


def axes_of(tmp_path, workflow):
    search = read_target(write(tmp_path, workflow)).search
    return search and {axis.label: axis.values for axis in search.axes}


BUILDER = {"type": "ModelBuilder", "precision": "int4"}
SIZES = {"olive_parameter_type": "SearchParameter", "type": "Categorical", "support": [16, 64]}
SOUGHT = [  # what Olive varies of a pass where the workflow leaves it open, and what the workflow lists
    ([BUILDER], {"quantize_rtn.block_size": (32, 64, 128), "quantize_rtn.symmetric": (True, False)}),
    (
        [BUILDER | {"int4_block_size": "SEARCHABLE_VALUES", "int4_is_symmetric": True}],
        {"quantize_rtn.block_size": (32, 64, 128)},
    ),
    (
        [BUILDER | {"int4_block_size": SIZES, "int4_is_symmetric": "DEFAULT_VALUE"}],
        {"quantize_rtn.block_size": (16, 64)},
    ),
    ([BUILDER | {"int4_block_size": [16, 64], "disable_search": True}], {"quantize_rtn.block_size": (16, 64)}),
    ([{"type": "OnnxDynamicQuantization"}], {"quantize_dynamic.bits": (8, 7)}),
    (
        [{"type": "OnnxStaticQuantization", "reduce_range": False}],
        {"quantize_static.method": ("minmax", "entropy", "percentile")},
    ),
    ([{"type": "Gptq"}, BUILDER], None),  # of a checkpoint that is rounded ModelBuilder rounds nothing
    ([{"type": "ModelBuilder", "precision": "fp32"}], None),
    ([{"type": "OnnxConversion", "target_opset": "SEARCHABLE_VALUES"}], None),  # there are none: the default counts
]


@pytest.mark.parametrize("passes, axes", SOUGHT)
def test_a_search_varies_what_olive_varies(tmp_path, passes, axes):
    assert axes_of(tmp_path, sought(*passes)) == axes


def test_a_search_without_pass_params_varies_what_is_listed(tmp_path):
    strategy = {"sampler": "sequential", "include_pass_params": False}
    workflow = sought(BUILDER | {"int4_block_size": [16, 64]}, search_strategy=strategy)
    target = read_target(write(tmp_path, workflow))
    assert [axis.label for axis in target.search.axes] == ["quantize_rtn.block_size"]
    assert target.search.settings.trials == 2  # all points, as in Olive


def test_what_a_search_cannot_vary_is_said(tmp_path):
    notes = notes_of(tmp_path, sought({"type": "OnnxDynamicQuantization"}))
    assert "Olive's search varies precision, per_channel, too: a search here leaves that as it is" in notes
    strategy = {"execution_order": "pass-by-pass", "sampler": "random", "max_samples": 2, "max_time": 60}
    notes = notes_of(tmp_path, sought(BUILDER, search_strategy=strategy))
    assert (
        "options of all passes are searched together" in notes and "all trials are made: max_time not heeded" in notes
    )
    with pytest.raises(TargetError, match="cannot be varied by a search"):
        read_target(write(tmp_path, sought(BUILDER | {"int4_algo_config": ["rtn", "k_quant"]})))


def test_values_to_search_without_a_search(tmp_path):
    with pytest.raises(TargetError, match="'SEARCHABLE_VALUES' without a search_strategy"):
        read_target(write(tmp_path, a_pass(int4_block_size="SEARCHABLE_VALUES")))
    assert read_target(write(tmp_path, a_pass(int4_block_size=SIZES))).passes[2].options.block_size == 16
    assert "of the values of int4_block_size, the first: there is no search_strategy" in notes_of(
        tmp_path, a_pass(int4_block_size=SIZES)
    )


def test_a_search_over_nothing_is_none_and_is_said(tmp_path):
    workflow = WORKFLOWS["tutorial: conversion and optimisation, latency, joint search"][0]
    assert axes_of(tmp_path, workflow) is None
    why = "Olive varies no option of OnnxConversion, OrtTransformersOptimization, and makes one model, too"
    assert f"there is nothing to search: {why}" in notes_of(tmp_path, workflow)
    (why,) = [n for n in notes_of(tmp_path, sought({"type": "Gptq"}, BUILDER)) if n.startswith("there is nothing")]
    assert "what Olive varies of ModelBuilder is fixed here" in why
