"""Each pass on graphs of a few nodes: what it changes, that a second run changes nothing, and what it refuses."""

import numpy as np
import onnx_ir as ir
import pytest
from graphs import bind, load_pass, model, node, operations, run, value, weight, write_safetensors

from onnxmake.errors import PassError, UnsupportedError
from onnxmake.model import step
from onnxmake.model.emulate import values_of

RTN = load_pass("quantize_rtn")
QUANTISERS = {name: load_pass(f"quantize_{name}") for name in ("rtn", "kquant", "hqq")}
rng = np.random.default_rng(0)


def head(tied: bool = False, biased: bool = False, width: int = 64) -> ir.Model:
    """input_ids -> embedding -> one inner product -> logits of 48 tokens."""
    ids = value("input_ids", ["batch", "sequence"], ir.DataType.INT64)
    table, inner = weight("embed", 48, width), weight("inner", width, width)
    last = table if tied else weight("head", 48, width)
    looked = node("Gather", [table.outputs[0], ids], ["batch", "sequence", width], domain="")
    bias = [weight("bias", width)] if biased else []
    hidden = node(
        "Linear", [looked.outputs[0], inner.outputs[0], *(b.outputs[0] for b in bias)], ["batch", "sequence", width]
    )
    logits = node("Linear", [hidden.outputs[0], last.outputs[0]], ["batch", "sequence", 48])
    logits.outputs[0].name = "logits"
    return model([ids], [logits.outputs[0]], table, inner, *bias, *([] if tied else [last]), looked, hidden, logits)


def checkpoint(folder, width: int = 64) -> "object":
    tensors = {
        n: rng.standard_normal(s).astype(np.float32) * 0.3
        for n, s in {"embed": (48, width), "inner": (width, width), "head": (48, width), "bias": (width,)}.items()
    }
    return write_safetensors(folder / "m.safetensors", tensors), tensors


@pytest.mark.parametrize("method", QUANTISERS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("tied", [True, False])
def test_a_quantised_model_computes_with_the_dequantised_weights(tmp_path, tied, bits, symmetric, method):
    source, w = checkpoint(tmp_path)
    built, used = head(tied, biased=True), QUANTISERS[method]
    assert used.rewrite(built, used.Options(bits=bits, symmetric=symmetric, accuracy_level=1)) == 3
    ids = np.array([[1, 5, 47]])
    names = ("embed", "inner", "embed" if tied else "head")
    embed, inner, last = (values_of(w[name], method, bits, 32, symmetric) for name in names)
    expected = (embed[ids] @ inner.T + w["bias"]) @ last.T
    np.testing.assert_allclose(
        run(bind(built, source, tmp_path / "out"), input_ids=ids)[0], expected, atol=2e-4 * abs(expected).max()
    )


@pytest.mark.parametrize("level", [0, 1, 4])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block", [16, 32, 64, 128, 256])
def test_the_runtime_reads_2_bits_as_numpy_does(tmp_path, block, symmetric, level):
    """Look-up, product with a bias, product without: K of more and of less than a block."""
    width = 512 if block == 256 else 128
    source, w = checkpoint(tmp_path, width)
    options = RTN.Options(bits=2, block_size=block, symmetric=symmetric, accuracy_level=level)
    built, ids = head(biased=True, width=width), np.arange(48)[None]
    assert RTN.rewrite(built, options) == 3
    embed, inner, last = (values_of(w[name], "rtn", 2, block, symmetric) for name in ("embed", "inner", "head"))
    expected = (embed[ids] @ inner.T + w["bias"]) @ last.T
    error = run(bind(built, source, tmp_path / "out"), input_ids=ids)[0] - expected
    limit = 2e-4 if level == 1 else 0.02  # the others may round activations to 8 bits
    assert abs(error).max() < limit * abs(expected).max()


def test_methods_name_their_weights_apart(tmp_path):
    names = []
    for method, used in QUANTISERS.items():
        built = head()
        used.rewrite(built, used.Options(symmetric=True))
        file = bind(built, checkpoint(tmp_path)[0], tmp_path / method)
        names += [n for n in ir.load(file).graph.initializers if n.startswith("inner") and n.endswith("packed")]
    assert names == ["inner.int4.packed", "inner.int4.kquant.packed", "inner.int4.hqq.packed"]


def test_a_tied_embedding_is_stored_once(tmp_path):
    built = head(tied=True)
    RTN.rewrite(built, RTN.Options())
    tensors = ir.load(bind(built, checkpoint(tmp_path)[0], tmp_path / "out")).graph.initializers
    assert sorted(n for n in tensors if "embed" in n) == ["embed.int4.packed", "embed.int4.scales"]


def test_a_tied_embedding_follows_its_head(tmp_path):
    built = head(tied=True)
    RTN.rewrite(built, RTN.Options(lm_head="int8"))
    tensors = ir.load(bind(built, checkpoint(tmp_path)[0], tmp_path / "out")).graph.initializers
    assert sorted(n for n in tensors if "embed" in n) == ["embed.int8.packed", "embed.int8.scales"]


def test_a_tied_head_may_have_other_bits_than_its_embedding(tmp_path):
    built = head(tied=True)
    RTN.rewrite(built, RTN.Options(lm_head="int8", embeddings="int4"))
    tensors = ir.load(bind(built, checkpoint(tmp_path)[0], tmp_path / "out")).graph.initializers
    assert {"embed.int4.packed", "embed.int8.packed"} <= set(tensors)


def test_head_and_embeddings_can_be_kept(tmp_path):
    built = head()
    assert RTN.rewrite(built, RTN.Options(lm_head="keep", embeddings="keep")) == 1
    assert sorted(set(operations(built)) - {"Weight", "QuantizedWeight"}) == ["Gather", "Linear", "MatMulNBits"]
    assert run(bind(built, checkpoint(tmp_path)[0], tmp_path / "out"), input_ids=np.array([[3]]))[0].shape == (1, 1, 48)


def test_quantising_twice_changes_nothing_the_second_time():
    built = head()
    assert RTN.rewrite(built, RTN.Options()) == 3
    assert RTN.rewrite(built, RTN.Options()) == 0


def test_an_embedding_that_blocks_do_not_divide_is_refused():
    with pytest.raises(UnsupportedError, match="48 wide, which block_size 32"):
        RTN.rewrite(head(width=48), RTN.Options())


def test_a_rewrite_that_changes_nothing_is_an_error_unless_it_may_skip(tmp_path):
    from onnxmake.build import paths
    from onnxmake.model import canonical

    src = tmp_path / "src"
    src.mkdir()
    built = head()
    RTN.rewrite(built, RTN.Options())
    canonical.save(built, src / "model.onnx")
    options = dict(bits=4, block_size=32, symmetric=True, lm_head="same", embeddings="same", accuracy_level=4)
    for skip in (True, False):
        out = tmp_path / str(skip)
        out.mkdir()
        if skip:
            step.run_pass("quantize_rtn", paths.PASSES / "quantize_rtn.py", options, skip, src, out)
            assert (out / "model.onnx").read_bytes() == (src / "model.onnx").read_bytes()
        else:
            with pytest.raises(PassError, match="quantize_rtn changed nothing"):
                step.run_pass("quantize_rtn", paths.PASSES / "quantize_rtn.py", options, skip, src, out)


def test_cast_refuses_to_come_after_optimize():
    built, cast = head(), load_pass("cast")
    RTN.rewrite(built, RTN.Options())
    with pytest.raises(PassError, match="cast came after"):
        cast.rewrite(built, cast.Options("fp16"))


def test_cast_changes_constants_that_are_made_of_a_shape():
    """As blanks that a router's scores are put into; what the type cannot hold becomes its largest value."""
    size, lowest = value("size", [2], ir.DataType.INT64), ir.tensor(np.array([-np.inf], np.float32))
    blank = node("ConstantOfShape", [size], ["a", "b"], domain="", value=lowest)
    blank.outputs[0].type = None  # as it is traced
    table = weight("embed", 4, 4)
    total = node("Add", [blank.outputs[0], table.outputs[0]], ["a", "b"], domain="")
    built, cast = model([size], total.outputs, blank, table, total), load_pass("cast")
    assert cast.rewrite(built, cast.Options("fp16")) > 0
    held = blank.attributes["value"].value
    assert held.dtype == ir.DataType.FLOAT16 and held.numpy().tolist() == [-65504.0]
