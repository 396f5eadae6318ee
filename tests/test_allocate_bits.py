"""More bits for what loses most: measured on a text, kept within an average or a size, heeded by quantisers."""

import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from graphs import bind, load_pass, model, node, value, weight, write_safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmake.build import paths
from onnxmake.errors import PassError, TargetError
from onnxmake.model import canonical
from onnxmake.model.allocation import allocate, within_average, within_size
from onnxmake.model.footprint import choices, file_size, free, sizes, tell
from onnxmake.model.graph import attribute, nodes
from onnxmake.model.optimize import optimize
from onnxmake.model.options import BlockOptions
from onnxmake.model.quantisers.fitting import nearest
from onnxmake.model.sensitivity import Loss, measure
from onnxmake.model.stored import dequantized
from onnxmake.model.widths import ALLOCATED

PRODUCTS = st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 1)), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(PRODUCTS, st.floats(4, 9))
def test_the_average_is_kept_and_what_is_left_out_loses_less_or_does_not_fit(sizes, average):
    products = {(str(i),): Loss(size, loss) for i, (size, loss) in enumerate(sizes)}
    chosen, total = allocate(products, within_average(products, 4, 8, average)), sum(size for size, _ in sizes)
    spent = sum(products[key].size for key in chosen) * 4
    assert spent <= total * (average - 4)
    for key in {*products} - chosen:
        better = [k for k in chosen if products[k].share / products[k].size >= products[key].share / products[key].size]
        assert (sum(products[k].size for k in better) + products[key].size) * 4 > total * (average - 4)


def test_all_get_the_high_bits_where_there_is_room_and_too_little_room_is_refused():
    products = {("a",): Loss(10, 0.1), ("b",): Loss(30, 0.2)}
    chosen = {average: allocate(products, within_average(products, 4, 8, average)) for average in (8, 4, 5)}
    assert chosen == {8: {*products}, 4: set(), 5: {("a",)}}  # the other does not fit
    with pytest.raises(PassError, match="average of 3.5 bits cannot be reached: the smallest is 4"):
        within_average(products, 4, 8, 3.5)


@st.composite
def layouts(draw):
    """Arrays of a file in two sizes each; of some, no product reads them, and they have one."""
    pairs = [
        sorted(draw(st.lists(st.integers(1, 20_000), min_size=2, max_size=2))) for _ in range(draw(st.integers(1, 6)))
    ]
    keys = [(str(draw(st.integers(0, 3))),) for _ in pairs]
    return tuple([(key, ((n, i), [pair[i], 64])) for n, (key, pair) in enumerate(zip(keys, pairs))] for i in range(2))


@settings(max_examples=100, deadline=None)
@given(layouts(), st.floats(0, 1), st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_a_size_is_kept_and_nothing_more_fits_in(layout, share, losses):
    low, high = layout
    products = {(str(i),): Loss(100, loss) for i, loss in enumerate(losses)}
    smallest, largest = file_size(low, high, ()), file_size(low, high, products)
    budget = (smallest + share * (largest - smallest)) / 1e6
    assert smallest <= largest and largest == file_size(high, high, ())
    if budget * 1e6 < smallest:  # by alignment
        return
    chosen = allocate(products, within_size(low, high, budget))
    assert file_size(low, high, chosen) <= budget * 1e6
    for key in {*products} - chosen:
        better = {k for k in chosen if products[k].share >= products[key].share}
        assert file_size(low, high, better | {key}) > budget * 1e6


@pytest.fixture(scope="module")
def optimized(captured) -> ir.Model:
    graph = ir.load(captured)
    optimize(graph, "cpu")
    return graph


@pytest.fixture(scope="module")
def allocating(optimized, tmp_path_factory):
    """The pass on the embedded model, with two samples of a text; what is lost is measured once."""
    used, src = load_pass("allocate_bits"), tmp_path_factory.mktemp("src")
    canonical.save(optimized, src / "model.onnx")
    (src / "checkpoint").symlink_to(paths.TARGETS / "tiny")
    (src / "calibration.txt").write_text((paths.TEXTS / "calibration.txt").read_text()[:20_000])
    measured, measure = [], used.measure
    used.measure = lambda *arguments: measured[0] if measured else measured.append(measure(*arguments)) or measured[0]

    def run(**options) -> ir.Model:
        out = tmp_path_factory.mktemp("out")
        used.run(src, out, used.Options(calibration="calibration.txt", samples=2, tokens=64, **options))
        return ir.load(out / "model.onnx")

    return run


def bits_of(allocated: ir.Model) -> list[int]:
    """Of every product, in the graph's order."""
    return [attribute(node.inputs[1].producer(), ALLOCATED) for node in nodes(allocated.graph, "Linear")]


@pytest.fixture(scope="module")
def allocated(allocating) -> ir.Model:
    return allocating(average_bits=5.5)


def test_every_product_is_told_its_bits(allocated):
    told = bits_of(allocated)
    assert {*told} == {4, 8} and len(told) == 31  # qkv, o, gate, up, down of six layers, and the head


@pytest.mark.parametrize("name", ["quantize_rtn"])
def test_quantisers_heed_it(allocated, name):
    used, wanted = load_pass(name), bits_of(allocated)
    graph = ir.from_proto(ir.to_proto(allocated))
    assert used.rewrite(graph, used.Options()) == 32
    assert [attribute(node, "bits") for node in nodes(graph.graph, "MatMulNBits")] == wanted
    look = nodes(graph.graph, "GatherBlockQuantized")[0]
    assert attribute(look, "bits") == wanted[-1]  # as the head that it is tied to


def written(allocated: ir.Model, folder: Path, **options) -> int:
    """Bytes of the weights' file when quantize_rtn has heeded it."""
    used, graph = load_pass("quantize_rtn"), ir.from_proto(ir.to_proto(allocated))
    used.rewrite(graph, used.Options(**options))
    return bind(graph, paths.TARGETS / "tiny", folder).with_name("model.onnx.data").stat().st_size


@pytest.mark.parametrize(("symmetric", "budget"), [(True, 5.3), (False, 5.5)])
def test_the_file_is_within_the_size_and_one_more_product_would_not_be(
    allocating, optimized, tmp_path, symmetric, budget
):
    options = {"block_size": 16, "symmetric": symmetric}
    allocated = allocating(max_size_mb=budget, **options)
    told = {key: attribute(n, ALLOCATED) for key, n in choices(allocated.graph, BlockOptions(**options)).items()}
    low, high = (sizes(optimized, bits, BlockOptions(**options)) for bits in (4, 8))
    chosen = {key for key, bits in told.items() if bits == 8}
    size = written(allocated, tmp_path, **options)
    assert size == file_size(low, high, chosen) <= budget * 1e6 and {*told.values()} == {4, 8}
    assert all(file_size(low, high, chosen | {key}) > budget * 1e6 for key in {*told} - chosen)


def test_a_size_that_cannot_be_reached_is_refused_with_the_smallest_which_can(allocating, tmp_path):
    with pytest.raises(PassError, match=r"(?s)size of 1 MB cannot be reached: .*Write max_size_mb = ") as caught:
        allocating(max_size_mb=1)
    smallest = float(re.search(r"the smallest is ([0-9.]+) MB", caught.value.fact)[1])
    size = written(allocating(max_size_mb=smallest), tmp_path)
    assert smallest * 1e6 - 1e4 < size <= smallest * 1e6


@pytest.mark.parametrize(
    ("given", "said"), [({}, "neither average_bits nor max"), ({"average_bits": 5, "max_size_mb": 4}, "both average")]
)
def test_there_is_one_budget(allocating, given, said):
    with pytest.raises(TargetError, match=f"(?s){said}.*average_bits = 5 or max_size_mb = 400"):
        allocating(**given)


SHAPES = {"embed": (50, 32), "head": (50, 32), "up": (40, 32), "down": (32, 40), "gain": (32,)}


def decoder(tied: bool) -> ir.Model:
    """A table, two products and a head, which may be the table."""
    names = ["embed", "embed" if tied else "head"]
    ids, refs = value("input_ids", ["batch", "seq"], ir.DataType.INT64), {n: weight(n, *s) for n, s in SHAPES.items()}
    first, last = (refs[name].outputs[0] for name in names)
    x = node("Gather", [first, ids], ["batch", "seq", 32], domain="", axis=0)
    scaled = node("Mul", [x.outputs[0], refs["gain"].outputs[0]], ["batch", "seq", 32], domain="")
    up = node("Linear", [scaled.outputs[0], refs["up"].outputs[0]], ["batch", "seq", 40])
    down = node("Linear", [up.outputs[0], refs["down"].outputs[0]], ["batch", "seq", 32])
    logits = node("Linear", [down.outputs[0], last], ["batch", "seq", 50])
    logits.outputs[0].name = "logits"
    used = [refs[n] for n in SHAPES if n != "head" or not tied]
    return model([ids], logits.outputs, *used, x, scaled, up, down, logits)


@pytest.mark.parametrize("embeddings", ["same", "int8", "keep"])
@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_and_what_stays_float_count_as_they_are_stored(tmp_path, tied, embeddings):
    rng, head = np.random.default_rng(0), "embed" if tied else "head"
    file = write_safetensors(tmp_path / "x", {n: rng.normal(size=s).astype(np.float32) for n, s in SHAPES.items()})
    o = BlockOptions(embeddings=embeddings)
    low, high = (sizes(decoder(tied), bits, o) for bits in (4, 8))
    keys = {key[0]: key for key, _ in low}
    assert free(low, high) == ({keys["('embed',)"]} if tied and embeddings == "int8" else set())  # one in place of two
    own = [["embed"], ["embed", "head"]] if embeddings == "same" and not tied else []
    for number, chosen in enumerate([[], ["up"], [head, "down"], ["up", "down", head], *own]):
        built, named = decoder(tied), {key for name, key in keys.items() if any(repr(c) in name for c in chosen)}
        assert len(named) == len(chosen) and tell(built.graph, dict.fromkeys(named, 8)) == len(chosen)
        used = load_pass("quantize_rtn")
        used.rewrite(built, used.Options(embeddings=embeddings))
        data = bind(built, file, tmp_path / f"{number}").with_name("model.onnx.data")
        assert data.stat().st_size == file_size(low, high, named)


@pytest.mark.parametrize("embeddings", ["same", "int8"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_table_of_its_own_is_a_choice_by_what_its_rows_that_are_read_lose(tmp_path, tied, embeddings):
    rng, o = np.random.default_rng(0), BlockOptions(embeddings=embeddings)
    tensors = {n: rng.normal(size=s).astype(np.float32) for n, s in SHAPES.items()}
    tensors["embed"] = np.where(rng.random(SHAPES["embed"]) < 0.5, 7, -7).astype(np.float32)  # without loss in 4 bits
    tensors["embed"][3:5] = rng.normal(size=(2, 32))
    tensors["embed"][7] = rng.normal(size=32)  # which no token reads
    write_safetensors(tmp_path / "model.safetensors", tensors)
    (tmp_path / "config.json").write_text("{}")
    rows = np.array([[3, 1, 3, 4, 2, 3]])
    losses = {key[0]: loss for key, loss in measure(decoder(tied), tmp_path, rows, o).items()}
    assert ("('embed',)" in losses) is (tied or embeddings == "same") and ("('head',)" in losses) is not tied
    assert {"('up',)", "('down',)"} < {*losses}
    if not tied and embeddings == "same":
        read, loss = tensors["embed"][rows[0]], losses["('embed',)"]
        rounded = dequantized(*nearest(np.ones(32), read, 4, 32, True), 32)
        share = ((rounded - read) ** 2).sum() / (read**2).sum()
        assert loss.size == 50 * 32 and loss.share == pytest.approx(share, rel=1e-5) and loss.share > 0


def test_what_was_allocated_is_no_part_of_what_is_stored():
    """Quantised weights are the same references as those of a model where all have these bits by options."""
    told, plain = decoder(False), decoder(False)
    tell(told.graph, dict.fromkeys(choices(told.graph, BlockOptions()), 8))
    used = load_pass("quantize_rtn")
    assert used.rewrite(told, used.Options()) == used.rewrite(plain, used.Options(bits=8)) == 4
    for one in (told, plain):
        canonical.canonicalize(one)
    assert ir.to_proto(told).SerializeToString(deterministic=True) == ir.to_proto(plain).SerializeToString(
        deterministic=True
    )
