"""How messages and enum members are written in the vectors: names in kebab case, octets in hex."""

from enum import IntEnum
from typing import Any, Final, TypeVar

from bletoken.protocol import cbor, wire
from bletoken.protocol.cbor import MapOf, Octets, OneOf
from bletoken.protocol.wire import ClearStatus, Offer

E = TypeVar("E", bound=IntEnum)

CLASSES: Final[dict[str, type[Any]]] = {
    "provision": wire.Provision,
    "claim": wire.Claim,
    "identify": wire.Identify,
    "status": wire.AskStatus,
    "unlock": wire.Unlock,
    "accepted": wire.Accepted,
    "redeeming": wire.Redeeming,
    "stored": wire.Stored,
    "provisioned": wire.Provisioned,
    "claimable": wire.Claimable,
    "failed": wire.Failed,
    "idle": wire.Idle,
    "done": wire.Done,
    "offer": Offer,
    "clear-status": ClearStatus,
}
"""What each message is called outside Python."""

NAMES: Final = {cls: name for name, cls in CLASSES.items()}


def name_of(member: IntEnum) -> str:
    return member.name.lower().replace("_", "-")


def member(enum: type[E], name: str) -> E:
    return enum[name.upper().replace("-", "_")]


def to_json(message: object) -> dict[str, Any]:
    """A message as an object with its name under `is` and every field, defaults too."""
    return {"is": NAMES[type(message)]} | {
        field.name: _value_to_json(getattr(message, field.name)) for field in cbor._fields(type(message))
    }


def _value_to_json(value: object) -> object:
    match value:
        case IntEnum():
            return name_of(value)
        case bytes():
            return value.hex()
        case tuple():
            return list(value)
        case dict():
            return {str(k): v.hex() for k, v in value.items()}
        case _:
            return value


def from_json(content: dict[str, Any]) -> Any:
    """The message that `to_json` wrote."""
    cls = CLASSES[content["is"]]
    return cls(**{field.name: _value_from_json(field.kind, content[field.name]) for field in cbor._fields(cls)})


def _value_from_json(kind: object, value: Any) -> object:
    match kind:
        case OneOf(members):
            return member(members, value)
        case Octets() if value is not None:
            return bytes.fromhex(value)
        case MapOf():
            return {int(k): bytes.fromhex(v) for k, v in value.items()}
        case _:
            return tuple(value) if isinstance(value, list) else value
