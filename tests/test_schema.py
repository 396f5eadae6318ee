"""The strict reading of tables into dataclasses."""

import dataclasses
from typing import Literal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from onnxmake.build.schema import nearest, parse, plain
from onnxmake.errors import TargetError


@dataclasses.dataclass(frozen=True)
class Row:
    whole: int
    real: float
    text: str
    yes: bool
    many: tuple[int, ...]
    words: tuple[str, ...] = ()
    maybe: str | None = None
    level: Literal[0, 1, "off"] = 0
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Pair:
    low: int = 0
    high: int = 9

    def __post_init__(self):
        if self.low > self.high:
            raise ValueError("low is above high")


RIGHT = {"whole": 1, "real": 0.5, "text": "a", "yes": True, "many": [1, 2]}
VALUES = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


def as_table(row) -> dict:
    return {k: plain(v) for k, v in dataclasses.asdict(row).items() if v is not None}


def test_a_right_table_is_read_and_defaults_are_filled_in():
    assert parse(Row, RIGHT, "x.toml") == Row(1, 0.5, "a", True, (1, 2), (), None, 0)


@pytest.mark.parametrize(
    "key, value, result",
    [
        ("real", 3, 3.0),
        ("many", [], ()),
        ("words", ["a", "b"], ("a", "b")),
        ("maybe", "a", "a"),
        ("level", 1, 1),
        ("level", "off", "off"),
        ("sizes", {"batch": 1}, {"batch": 1}),
        ("shapes", {"x": [1, 2], "y": []}, {"x": (1, 2), "y": ()}),
    ],
)
def test_a_value_is_taken_as_its_field_s_type(key, value, result):
    read = getattr(parse(Row, RIGHT | {key: value}, "x.toml"), key)
    assert (read, type(read)) == (result, type(result))


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("whole", True, "a whole number"),
        ("whole", 1.0, "a whole number"),
        ("whole", "1", "a whole number"),
        ("real", "0.5", "a number"),
        ("real", False, "a number"),
        ("text", 1, "a string"),
        ("yes", 0, "true or false"),
        ("yes", "true", "true or false"),
        ("many", 1, "a list, each a whole number"),
        ("many", [1, "2"], "a list, each a whole number"),
        ("many", [True], "a list, each a whole number"),
        ("words", "ab", "a list, each a string"),
        ("maybe", 1, "a string"),
        ("level", True, "one of 0, 1, 'off'"),
        ("level", 1.0, "one of 0, 1, 'off'"),
        ("level", 2, "one of 0, 1, 'off'"),
        ("sizes", 1, "a table, each a whole number"),
        ("sizes", [1], "a table, each a whole number"),
        ("sizes", {"batch": "1"}, "a table, each a whole number"),
        ("sizes", {"batch": True}, "a table, each a whole number"),
        ("shapes", {"x": 1}, "a table, each a list, each a whole number"),
        ("shapes", {"x": [1.0]}, "a table, each a list, each a whole number"),
    ],
)
def test_a_value_of_another_type_is_an_error_that_says_what_was_expected(key, value, expected):
    with pytest.raises(TargetError) as caught:
        parse(Row, RIGHT | {key: value}, "x.toml: [row]")
    assert caught.value.fact == f"x.toml: [row]: {key} = {value!r} is not {expected}."
    assert caught.value.action == f"Write {expected}."


def test_the_nearest_of_the_valid_names_is_offered():
    with pytest.raises(TargetError) as caught:
        parse(Row, RIGHT | {"level": "of"}, "x.toml")
    assert caught.value.action == "Did you mean 'off'?"


def test_a_missing_key_is_named_with_its_type():
    with pytest.raises(TargetError) as caught:
        parse(Row, {k: v for k, v in RIGHT.items() if k != "many"}, "x.toml")
    assert caught.value.fact == "x.toml: key 'many' is missing."
    assert "many = a list, each a whole number" in caught.value.action


def test_a_refusal_of_the_dataclass_itself_is_told_with_the_place():
    assert parse(Pair, {"low": 9}, "x.toml") == Pair(9, 9)
    with pytest.raises(TargetError, match="x.toml: low is above high"):
        parse(Pair, {"low": 10}, "x.toml")


def test_nearest_lists_all_names_where_none_is_near():
    assert nearest("zzz", ["bits", "block_size"]) == "Valid: bits, block_size."
    assert nearest("bit", ["bits", "block_size"]) == "Did you mean 'bits'?"
    assert nearest("zzz", []) == "Valid: none."


@given(st.builds(Row, real=st.floats(allow_nan=False)))
def test_every_instance_survives_being_written_and_read(row):
    assert repr(parse(Row, as_table(row), "x.toml")) == repr(row)


@given(st.sampled_from([f.name for f in dataclasses.fields(Row)]), VALUES)
def test_a_value_is_read_unchanged_or_refused(key, value):
    try:
        read = getattr(parse(Row, RIGHT | {key: value}, "x.toml"), key)
    except TargetError as error:
        assert f"x.toml: {key} = {value!r}" in error.fact
    else:
        assert read == (tuple(value) if isinstance(value, list) else value)
        assert isinstance(read, bool) == isinstance(value, bool)


@given(st.text(), VALUES)
def test_an_unknown_key_is_always_an_error(key, value):
    assume(key not in Row.__dataclass_fields__)
    with pytest.raises(TargetError) as caught:
        parse(Row, RIGHT | {key: value}, "x.toml")
    assert caught.value.fact == f"x.toml: unknown key {key!r}."
