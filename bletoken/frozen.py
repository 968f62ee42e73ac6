"""Frozen dataclasses that cost next to nothing to make; a standard one is made of code that is compiled at each start.

A small device starts with some fifty of them, and that took as long as loading all of its Bluetooth library.
"""

import dataclasses
from typing import Any, NoReturn, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def frozen(cls: type[T]) -> type[T]:
    """Make a class a dataclass, as `dataclass(frozen=True, slots=True)` does, with methods that all of them share."""
    if cls.__doc__ is None:
        # Else it is made of the signature, which takes longer than all the rest.
        cls.__doc__ = cls.__name__
    made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=True)(cls)
    for method in (_init, _repr, _eq, _hash, _setattr, _delattr):
        name = f"_{method.__name__}__"
        if name not in cls.__dict__:
            setattr(made, name, method)
    return made  # type: ignore[no-any-return] # slots make a class anew


def _init(self: Any, /, *values: object, **named: object) -> None:  # noqa: ANN401 any of them
    fields = dataclasses.fields(self)
    positional = [field.name for field in fields if not field.kw_only]
    if len(values) > len(positional):
        raise TypeError(f"{type(self).__name__} takes {len(positional)} values at most, not {len(values)}")
    given = dict(zip(positional, values, strict=False))
    if twice := given.keys() & named.keys():
        raise TypeError(f"{type(self).__name__} got {sorted(twice)} twice")
    given |= named
    for field in fields:
        if field.name in given:
            value = given.pop(field.name)
        elif field.default is not dataclasses.MISSING:
            value = field.default
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            raise TypeError(f"{type(self).__name__} needs {field.name}")
        object.__setattr__(self, field.name, value)
    if given:
        raise TypeError(f"{type(self).__name__} has no {sorted(given)}")
    if hasattr(self, "__post_init__"):
        self.__post_init__()


def _values(instance: Any, *, shown: bool = False) -> dict[str, object]:  # noqa: ANN401 any of them
    """The fields and their values: those that are compared, or those that are shown."""
    fields = dataclasses.fields(instance)
    return {field.name: getattr(instance, field.name) for field in fields if (field.repr if shown else field.compare)}


def _repr(self: object) -> str:
    values = ", ".join(f"{name}={value!r}" for name, value in _values(self, shown=True).items())
    return f"{type(self).__qualname__}({values})"


def _eq(self: object, other: object) -> bool:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hash(self: object) -> int:
    return hash(tuple(_values(self).values()))


def _setattr(self: object, name: str, _: object) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _delattr(self: object, name: str) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
