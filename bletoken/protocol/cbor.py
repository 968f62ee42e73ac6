"""Frozen dataclasses to and from canonical CBOR maps with integer keys; nothing else is CBOR here.

A field says its key and its bounds in its annotation: `device_id: Annotated[int, Key(4), UInt(64)]`. A field with a
default is left out while it has that value. Unknown keys of a peer are skipped, so that a later minor version can add
some; everything else that is not exactly as declared is refused.
"""

import dataclasses
import enum
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Final, NoReturn, Protocol, TypeVar, get_args, get_origin, get_type_hints

from bletoken.errors import LocalProtocolError, RemoteProtocolError
from bletoken.frozen import frozen

T = TypeVar("T")

_MAX_DEPTH: Final = 3


class Kind(Protocol):
    """How one field's value is checked."""

    def check(self, value: object) -> object:
        """The value as the dataclass holds it; `ValueError` when it is out of bounds or of another type."""


@frozen
class Key:
    """The field's key in the map."""

    number: int


@frozen
class UInt:
    """An unsigned integer of so many bits."""

    bits: int

    def check(self, value: object) -> int:
        """See `Kind.check`."""
        if isinstance(value, enum.IntEnum):
            value = int(value)
        if type(value) is not int or not 0 <= value < 2**self.bits:
            raise ValueError(f"not an unsigned integer of {self.bits} bit")
        return value


@frozen
class Between:
    """An integer from `least` to `most`."""

    least: int
    most: int

    def check(self, value: object) -> int:
        """See `Kind.check`."""
        if type(value) is not int or not self.least <= value <= self.most:
            raise ValueError(f"not an integer from {self.least} to {self.most}")
        return value


@frozen
class Octets:
    """An octet string, `size` octets long."""

    size: int

    def check(self, value: object) -> bytes:
        """See `Kind.check`."""
        if type(value) is not bytes or len(value) != self.size:
            raise ValueError(f"not {self.size} octets")
        return value


@frozen
class Text:
    """A text of at most so many UTF-8 octets; `ascii_only` allows only printable ASCII without spaces."""

    longest: int
    ascii_only: bool = False

    def check(self, value: object) -> str:
        """See `Kind.check`."""
        # A lone surrogate, which JSON can smuggle in, has no UTF-8; the error must not repeat the text.
        if type(value) is not str or any("\ud800" <= c <= "\udfff" for c in value):
            raise ValueError("not a text")
        if len(value.encode()) > self.longest:
            raise ValueError(f"not a text of at most {self.longest} octets")
        if self.ascii_only and not (value and all("!" <= c <= "~" for c in value)):
            raise ValueError("not printable ASCII without spaces")
        return value


@frozen
class OneOf:
    """A member of an integer enum."""

    members: type[enum.IntEnum]

    def check(self, value: object) -> enum.IntEnum:
        """See `Kind.check`."""
        return self.members(UInt(16).check(value))


@frozen
class SetOf:
    """A few different numbers below 256, in ascending order."""

    most: int

    def check(self, value: object) -> tuple[int, ...]:
        """See `Kind.check`."""
        if not isinstance(value, list | tuple) or not 1 <= len(value) <= self.most:
            raise ValueError(f"not a list of 1 to {self.most} numbers")
        numbers = tuple(UInt(8).check(n) for n in value)
        if list(numbers) != sorted(set(numbers)):
            raise ValueError("not in ascending order")
        return numbers


@frozen
class MapOf:
    """A map from numbers below 256 to octet strings of one size."""

    size: int
    most: int

    def check(self, value: object) -> Mapping[int, bytes]:
        """See `Kind.check`."""
        if not isinstance(value, dict) or not 1 <= len(value) <= self.most:
            raise ValueError(f"not a map of 1 to {self.most} entries")
        return {UInt(8).check(k): Octets(self.size).check(v) for k, v in value.items()}


@frozen
class _Field:
    name: str
    key: int
    kind: Kind
    default: object


_FIELDS: Final[dict[type, tuple[_Field, ...]]] = {}
"""What `_fields` found, because reading annotations takes longer than decoding a message."""


def _fields(cls: type[Any]) -> tuple[_Field, ...]:
    if cls not in _FIELDS:
        hints = get_type_hints(cls, include_extras=True)
        annotated = [f for f in dataclasses.fields(cls) if get_origin(hints[f.name]) is Annotated]
        described = [(f, *get_args(hints[f.name])[1:]) for f in annotated]
        _FIELDS[cls] = tuple(_Field(f.name, key.number, kind, f.default) for f, key, kind in described)
    return _FIELDS[cls]


def encode(message: object, *, kind: int | None = None) -> bytes:
    """A dataclass as canonical CBOR.

    Args:
        message: A dataclass with annotated fields.
        kind: The number put under key 0, where several dataclasses share a place.

    Raises:
        LocalProtocolError: A field is out of its bounds. The message names the field and never the value.
    """
    import cbor2

    content: dict[int, object] = {} if kind is None else {0: kind}
    for field in _fields(type(message)):
        value = getattr(message, field.name)
        if value == field.default:
            continue
        try:
            checked = field.kind.check(value)
        except ValueError as e:
            raise LocalProtocolError(f"{type(message).__name__}.{field.name} is {e}") from None
        content[field.key] = int(checked) if isinstance(checked, enum.IntEnum) else checked
    return cbor2.dumps(content, canonical=True)


def decode(octets: bytes, cls: type[T]) -> T:
    """The dataclass in untrusted CBOR.

    Raises:
        RemoteProtocolError: The octets are not one canonical map as `cls` declares it.
    """
    return _build(_load_map(octets), cls)


def decode_one_of(octets: bytes, classes: Mapping[int, type[T]]) -> T:
    """The dataclass in untrusted CBOR, where key 0 tells which.

    Raises:
        RemoteProtocolError: The octets are not one canonical map, or of an unknown kind.
    """
    content = _load_map(octets)
    kind = content.get(0)
    cls = classes.get(kind) if type(kind) is int else None
    if cls is None:
        raise RemoteProtocolError("a message of an unknown kind")
    return _build(content, cls)


def _build(content: dict[int, object], cls: type[T]) -> T:
    values = {}
    for field in _fields(cls):
        if field.key in content:
            try:
                values[field.name] = field.kind.check(content[field.key])
            except ValueError as e:
                raise RemoteProtocolError(f"{cls.__name__}.{field.name} is {e}") from None
        elif field.default is dataclasses.MISSING:
            raise RemoteProtocolError(f"{cls.__name__}.{field.name} is missing")
    return cls(**values)


class _NoTags(Mapping[int, Callable[..., NoReturn]]):
    """Stands where cbor2 looks up a tag's decoder: finds one for every tag, and that one refuses.

    Without it cbor2 runs its own decoders of regular expressions, dates, fractions and so on over hostile octets.
    """

    def __getitem__(self, tag: int) -> Callable[..., NoReturn]:
        return _refuse_tag

    def __iter__(self) -> Iterator[int]:
        return iter(())

    def __len__(self) -> int:
        return 0


def _refuse_tag(*_: object) -> NoReturn:
    raise ValueError("tags are not allowed")


def _load_map(octets: bytes) -> dict[int, object]:
    import cbor2

    try:
        content = cbor2.loads(
            octets,
            tag_hook=_refuse_tag,
            semantic_decoders=_NoTags(),
            max_depth=_MAX_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
        )
        _check_plain(content)
        # Whatever cbor2 let through (trailing octets, long forms, wrong order) does not encode to the same octets.
        if isinstance(content, dict) and cbor2.dumps(content, canonical=True) == octets:
            return content
    except (cbor2.CBORError, ValueError, TypeError, RecursionError, OverflowError):
        # Raised below, where this exception and the octets that it may hold are gone: they can be a secret.
        pass
    raise RemoteProtocolError("not a canonical CBOR map")


def _check_plain(item: object) -> None:
    if isinstance(item, dict):
        for key, value in item.items():
            if type(key) is not int:
                raise ValueError("a key is not an integer")
            _check_plain(value)
    elif isinstance(item, list):
        for value in item:
            _check_plain(value)
    elif type(item) not in (int, bytes, str, bool):
        raise ValueError("a leaf is not an integer, octets, text or boolean")
