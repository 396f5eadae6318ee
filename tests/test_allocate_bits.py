"""More bits for what loses most: measured on a text, kept within an average, heeded by quantisers."""

import onnx_ir as ir
import pytest
from graphs import load_pass
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmake.build import paths
from onnxmake.errors import PassError
from onnxmake.model import canonical
from onnxmake.model.graph import attribute, nodes
from onnxmake.model.optimize import optimize
from onnxmake.model.sensitivity import Product, allocate

PRODUCTS = st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 1)), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(PRODUCTS, st.floats(4, 9))
def test_the_average_is_kept_and_what_is_left_out_loses_less_or_does_not_fit(sizes, average):
    products = {(str(i),): Product(size, loss) for i, (size, loss) in enumerate(sizes)}
    chosen, total = allocate(products, 4, 8, average), sum(size for size, _ in sizes)
    spent = sum(products[key].size for key in chosen) * 4
    assert spent <= total * (average - 4)
    for key in {*products} - chosen:
        better = [k for k in chosen if products[k].loss / products[k].size >= products[key].loss / products[key].size]
        assert (sum(products[k].size for k in better) + products[key].size) * 4 > total * (average - 4)


def test_all_get_the_high_bits_where_there_is_room_and_too_little_room_is_refused():
    products = {("a",): Product(10, 0.1), ("b",): Product(30, 0.2)}
    assert allocate(products, 4, 8, 8) == {*products} and allocate(products, 4, 8, 4) == set()
    assert allocate(products, 4, 8, 5) == {("a",)}  # the other does not fit
    with pytest.raises(PassError, match="average of 3.5 bits cannot be reached: the smallest is 4"):
        allocate(products, 4, 8, 3.5)


@pytest.fixture(scope="module")
def allocated(captured, tmp_path_factory) -> ir.Model:
    src, out = (tmp_path_factory.mktemp(name) for name in ("src", "out"))
    graph, used = ir.load(captured), load_pass("allocate_bits")
    optimize(graph, "cpu")
    canonical.save(graph, src / "model.onnx")
    (src / "checkpoint").symlink_to(paths.TARGETS / "tiny")
    (src / "calibration.txt").symlink_to(paths.TEXTS / "calibration.txt")
    used.run(src, out, used.Options(average_bits=5.5, calibration="calibration.txt", samples=2))
    return ir.load(out / "model.onnx")


def test_every_product_is_told_its_bits(allocated):
    told = [attribute(node, "bits") for node in nodes(allocated.graph, "Linear")]
    assert {*told} == {4, 8} and len(told) == 31  # qkv, o, gate, up, down of six layers, and the head


@pytest.mark.parametrize("name", ["quantize_rtn"])
def test_quantisers_heed_it(allocated, name):
    used, wanted = load_pass(name), [attribute(node, "bits") for node in nodes(allocated.graph, "Linear")]
    graph = ir.from_proto(ir.to_proto(allocated))
    assert used.rewrite(graph, used.Options()) == 32
    assert [attribute(node, "bits") for node in nodes(graph.graph, "MatMulNBits")] == wanted
    look = nodes(graph.graph, "GatherBlockQuantized")[0]
    assert attribute(look, "bits") == wanted[-1]  # as the head that it is tied to
