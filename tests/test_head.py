"""The head of what generates: of the last token alone, and of all of them again."""

import json

import numpy as np
import pytest
from graphs import bind, load_pass, operations
from twins import make_twin

from onnxmake.model import canonical
from onnxmake.model.capture import capture
from onnxmake.model.head import every_token, find_head, last_token_only
from onnxmake.model.optimize import optimize
from onnxmake.model.safetensors import read_checkpoint
from onnxmake.model.session import open_scoring, open_session


@pytest.fixture(scope="module", params=["gemma2", "qwen2"])  # with a soft cap behind the head, and without
def decoder(request, tmp_path_factory):
    """A twin's checkpoint, and its graph for the CPU."""
    folder = make_twin(request.param, tmp_path_factory.mktemp(request.param))
    shapes = {name: list(tensor.shape) for name, tensor in read_checkpoint(folder).items()}
    model = capture(json.loads((folder / "config.json").read_text()), shapes)
    optimize(model, "cpu")
    return folder, model


def logits(session, tokens: int = 9) -> np.ndarray:
    shapes = {i.name: i.shape for i in session.get_inputs()}
    sizes = {"batch": 2, "past": 0}
    past = {n: np.zeros([sizes.get(d, d) for d in s], np.float32) for n, s in shapes.items() if n.startswith("past")}
    ids = np.random.default_rng(0).integers(3, 150, (2, tokens))
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), **past}
    return session.run(["logits"], {name: value for name, value in feed.items() if name in shapes})[0]


@pytest.mark.parametrize("bits", [0, 8])
def test_it_is_computed_of_the_last_token_and_for_scoring_of_all(decoder, tmp_path, bits):
    folder, model = decoder
    model, rtn = model.clone(), load_pass("quantize_rtn")
    if bits:
        rtn.rewrite(model, rtn.Options(bits=bits, block_size=16, accuracy_level=1))
    whole = logits(open_session(bind(model.clone(), folder, tmp_path / "whole")))
    last_token_only(model.graph)
    canonical.verify(model)
    made = bind(model, folder, tmp_path / "last")
    last = logits(open_session(made))
    assert last.shape == (2, 1, whole.shape[2]) and open_session(made).get_outputs()[0].shape[1] == 1
    np.testing.assert_allclose(last, whole[:, -1:], atol=1e-5)
    np.testing.assert_allclose(logits(open_scoring(made)), whole, atol=1e-5)
    assert logits(open_session(made), 1).shape == logits(open_scoring(made), 1).shape


def test_what_was_not_changed_is_not_changed_back(decoder):
    model = decoder[1].clone()
    assert find_head(model.graph) is not None and not every_token(model.graph)
    last_token_only(model.graph)
    assert every_token(model.graph) and not every_token(model.graph)
    assert operations(model) == operations(decoder[1])


def test_a_graph_that_ends_in_something_else_stays(decoder):
    model = decoder[1].clone()
    model.graph.outputs[0] = model.graph.outputs[-1]
    last_token_only(model.graph)
    assert len(model.graph) == len(decoder[1].graph) and find_head(model.graph) is None
