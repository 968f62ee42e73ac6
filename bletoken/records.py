"""Small JSON records with a schema version: written in one way, read strictly. It never opens a file.

An error about a record never repeats what is in it: that may be a secret.
"""

import json
from collections.abc import Callable, Mapping
from typing import Final, NoReturn, TypeVar

from bletoken.errors import SetupCodeError, StorageError

T = TypeVar("T")

SCHEMA: Final = 1
"""The version of every record's layout. A newer one is refused and left alone."""


class NewerSchemaError(StorageError):
    """A file was written by a newer version of bletoken; it is left as it is.

    Update bletoken on this device.
    """


def encode(content: Mapping[str, object]) -> bytes:
    """A record as it is kept."""
    return (json.dumps({"schema": SCHEMA, **content}, indent=1) + "\n").encode("utf-8")


def parse(name: str, octets: bytes, read: Callable[[Mapping[str, object]], T]) -> T:
    """Read a record.

    Args:
        name: What it is called in errors.
        octets: The record.
        read: Makes something of its content, or raises `ValueError`, `KeyError`, `TypeError` or `SetupCodeError`.

    Raises:
        NewerSchemaError: A newer version wrote it.
        StorageError: It is damaged.
    """
    try:
        content = json.loads(octets.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
        if not isinstance(content, dict):
            raise TypeError("not an object")
        if integer(content, "schema", 2**31) > SCHEMA:
            raise NewerSchemaError(f"{name} was written by a newer version of bletoken; it is left as it is")
        return read(content)
    except (ValueError, KeyError, TypeError, RecursionError, SetupCodeError):
        # Whatever it holds may be a secret, so the error does not carry it along.
        raise StorageError(f"{name} is damaged") from None


def integer(content: Mapping[str, object], name: str, below: int) -> int:
    """The integer by this name, from 0 on.

    Raises:
        KeyError: There is none.
        ValueError: It is no such integer.
    """
    value = content[name]
    if type(value) is not int or not 0 <= value < below:
        raise ValueError(name)
    return value


def text(content: Mapping[str, object], name: str) -> str:
    """The string by this name.

    Raises:
        KeyError: There is none.
        TypeError: It is no string.
    """
    value = content[name]
    if not isinstance(value, str):
        raise TypeError(name)
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name stands twice")
    return content


def _no_constant(_: str) -> NoReturn:
    raise ValueError("not a number")
