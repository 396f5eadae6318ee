"""How an option of Olive's is read: a rule takes its value and gives settings, "pass.option" -> value, or refuses it.

"quantize" stands for the quantiser, which the setting quantize.method names; "check" for [check].
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from onnxmake.olive.told import Refusal, Told

Settings = dict[str, Any]
KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


@dataclass(frozen=True)
class Place:
    """Where an option stands: for messages, and for what its meaning depends on."""

    item: str
    device: str
    told: Told
    generates: bool  # whether the model is packed to generate text
    text: Callable[..., tuple[Any, Settings]]  # data config -> its file or data set, and how it is read
    data: Callable[..., tuple[str, Settings]]  # a pass's own options -> the same of its dataloader_func
    beside: Set[str] = frozenset()  # the types of all passes, in small letters
    loaded: str = ""  # the float type that load_kwargs name

    def note(self, text: str) -> None:
        self.told.note(self.item, text)


Rule = Callable[[Any, Place], Settings]


class WrongType(ValueError):
    """The value is none of what the option takes; the text says what it takes."""


def typed(value: Any, kind: type) -> Any:
    """The value. Raises WrongType."""
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise WrongType(KINDS[kind])
    return value


def one_of(value: Any, known: Mapping[Any, Any] | Sequence[Any]) -> Any:
    """The value, of these; names in any case. Raises WrongType."""
    plain = value.lower() if isinstance(value, str) else value
    for name in known:
        if plain == (name.lower() if isinstance(name, str) else name) and isinstance(value, bool) == isinstance(
            name, bool
        ):
            return name
    raise WrongType("one of " + ", ".join(map(repr, known)))


def names(value: Any) -> list[str]:
    """A list of strings. Raises WrongType."""
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise WrongType("a list of names")
    return value


def to(label: str, kind: type) -> Rule:
    """The same value under another name."""
    return lambda value, place: {label: typed(value, kind)}


def each(known: Mapping[Any, Settings], refused: Mapping[Any, tuple[str, str]] | None = None) -> Rule:
    """Each value stands for settings, or is refused for a reason, with what comes closest."""

    def rule(value: Any, place: Place) -> Settings:
        name = one_of(value, {**known, **(refused or {})})
        if refused and name in refused:
            raise Refusal(*refused[name])
        return dict(known[name])

    return rule


def quiet(kind: type | None = None) -> Rule:
    """Of no consequence for what the built model computes."""

    def rule(value: Any, place: Place) -> Settings:
        if kind is not None:
            typed(value, kind)
        return {}

    return rule


def noted(text: str, unless: Sequence[Any] = (None,)) -> Rule:
    """What is said where the value is another than these."""

    def rule(value: Any, place: Place) -> Settings:
        if value not in unless:
            place.note(text)
        return {}

    return rule


def only(allowed: Sequence[Any], why: str, closest: str) -> Rule:
    """Refused, where the value is another than these."""

    def rule(value: Any, place: Place) -> Settings:
        if value not in allowed:
            raise Refusal(why, closest)
        return {}

    return rule


def groups(label: str, largest: Sequence[int] = (16, 32, 64, 128, 256)) -> Rule:
    """A block size; one for a whole row has no counterpart."""

    def rule(value: Any, place: Place) -> Settings:
        if typed(value, int) in largest:
            return {label: value}
        raise Refusal(
            f"blocks of {value} have no kernel",
            f"Write a block size of {', '.join(map(str, largest))}; 128 is near to whole rows.",
        )

    return rule


def text(label: str) -> Rule:
    """A data config: its file or data set, and what of it."""
    use = label.split(".")[0]

    def rule(value: Any, place: Place) -> Settings:
        file, read = place.text(typed(value, str))
        taken = {f"{use}.{option}": given for option, given in read.items()}
        return taken | ({label: file} if file else {})

    return rule
