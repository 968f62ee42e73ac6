"""Frozen dataclasses, beside the standard library's."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from bletoken.frozen import frozen


def make(decorate: Callable[[type], type]) -> Any:
    @decorate
    class Thing:
        """A thing."""

        size: int
        secret: str = dataclasses.field(repr=False)
        name: str = "none"
        parts: list[int] = dataclasses.field(default_factory=list, compare=False)
        last: int = dataclasses.field(default=0, kw_only=True)

        def __post_init__(self) -> None:
            if self.size < 0:
                raise ValueError("negative")

    return Thing


OURS, STANDARD = make(frozen), make(dataclasses.dataclass(frozen=True, slots=True))


@pytest.mark.parametrize("thing", [OURS, STANDARD])
def test_it_is_made_compared_and_shown_as_a_standard_one(thing: Any) -> None:
    one = thing(1, "hidden")
    assert (one.size, one.secret, one.name, one.parts, one.last) == (1, "hidden", "none", [], 0)
    assert one == thing(size=1, secret="hidden", parts=[1])
    assert hash(one) == hash(thing(1, "hidden"))
    assert one != thing(1, "other")
    assert one != thing(1, "hidden", last=1)
    assert one != (1, "hidden", "none")
    assert repr(one).endswith("Thing(size=1, name='none', parts=[], last=0)")
    assert dataclasses.replace(one, name="new") == thing(1, "hidden", "new")
    assert [field.name for field in dataclasses.fields(one)] == ["size", "secret", "name", "parts", "last"]
    assert one.parts is not thing(1, "hidden").parts
    match one:
        case thing(size, secret):
            assert (size, secret) == (1, "hidden")


def test_subclasses_are_other_than_their_parents() -> None:
    @frozen
    class Child(OURS):  # type: ignore[misc,valid-type]
        """A child."""

        more: int = 3

    assert Child(1, "hidden").more == 3
    assert Child(1, "hidden") != OURS(1, "hidden")


@pytest.mark.parametrize("thing", [OURS, STANDARD])
@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((1,), {}),
        ((), {"size": 1}),
        ((1, "hidden", "name", [], 4), {}),
        ((1, "hidden"), {"size": 1}),
        ((1, "hidden"), {"other": 1}),
    ],
)
def test_what_does_not_fit_is_refused(thing: Any, values: tuple[object, ...], named: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        thing(*values, **named)


@pytest.mark.parametrize("thing", [OURS, STANDARD])
def test_nothing_in_it_changes(thing: Any) -> None:
    one = thing(1, "hidden")
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.size = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        del one.size
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
        one.unknown = 2
    with pytest.raises(ValueError, match="negative"):
        thing(-1, "hidden")


def test_methods_of_its_own_stay() -> None:
    @frozen
    class Named:
        """A thing with a name."""

        name: str

        def __repr__(self) -> str:
            return "mine"

    assert repr(Named("a")) == "mine"
