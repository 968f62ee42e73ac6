"""What travels: UUIDs, the offer, message heads, requests and statuses, each with its octets. It knows no keys."""

import hashlib
from collections.abc import Mapping
from dataclasses import field, replace
from enum import IntEnum
from typing import Annotated, Final, Self

from bletoken.errors import RemoteProtocolError, UnsupportedVersionError
from bletoken.frozen import frozen
from bletoken.protocol import cbor, cpace
from bletoken.protocol.cbor import Between, Key, MapOf, Octets, OneOf, SetOf, Text, UInt
from bletoken.protocol.frames import LARGEST_MESSAGE
from bletoken.protocol.setup_code import Method

VERSION: Final = 1
"""The protocol version that this package speaks."""

SERVICE_UUID: Final = "b1e70000-0c99-46dc-baf4-a8712fe5a5d4"
"""The primary service; in the advert."""

HELLO_UUID: Final = "b1e70001-0c99-46dc-baf4-a8712fe5a5d4"
"""Read: the device's current offer to this connection."""

TOKEN_UUID: Final = "b1e70002-0c99-46dc-baf4-a8712fe5a5d4"
"""Write with response: frames from the companion. It cannot be read."""

STATUS_UUID: Final = "b1e70003-0c99-46dc-baf4-a8712fe5a5d4"
"""Notify: frames from the device. Read: this connection's last message, whole."""

SID_SIZE: Final = 16
"""Octets of a session identifier."""

SHORT_SID_SIZE: Final = 8
"""Octets of it that name the session in each later message."""

LARGEST_HELLO: Final = 182
"""Octets of the largest offer: it is read in one piece from an ATT MTU of 185 on."""

LONGEST_TOKEN: Final = 1024
"""Characters of the longest provisioning token."""

LONGEST_REASON: Final = 64
"""Octets of the longest reason in a failure."""

LONGEST_CLASS: Final = 64
"""Octets of the longest device class in an offer."""

LONGEST_CLAIM_CODE: Final = 128
"""Characters of the longest claim code."""

SHORTEST_CLAIM_S: Final = 60
LONGEST_CLAIM_S: Final = 900
"""Seconds for which a companion may have the claim mode turned on."""

LONGEST_WAIT_S: Final = 300
"""The longest wait that a clear status can impose."""

TOKEN_REF_SIZE: Final = 16
"""Octets that name a token without giving it away."""


class MessageType(IntEnum):
    """The first octet of every message."""

    FIRST = 1
    SEALED = 2
    CLEAR_STATUS = 3
    RESERVED_VERSION_2 = 4


class Action(IntEnum):
    """What a companion may ask for."""

    PROVISION = 1
    CLAIM = 2
    IDENTIFY = 3
    STATUS = 4
    UNLOCK = 5


class CoarseState(IntEnum):
    """What a device tells anybody about itself."""

    READY = 0
    WORKING = 1
    PROVISIONED = 2
    OUTCOME_UNKNOWN = 3
    PRE_PROVISIONED = 4

    @property
    def letter(self) -> str:
        """The letter in the advert's name."""
        return "rwpuc"[self]


class ClearCode(IntEnum):
    """Why a device did not go on: clear, forgeable, a hint."""

    STALE_OFFER = 1
    MALFORMED = 2
    TOO_LARGE = 3
    UNSUPPORTED_VERSION = 4
    LOCKED = 5
    BUSY = 6
    NOT_AUTHENTIC = 7
    STORAGE_FAILED = 8


class FailureCode(IntEnum):
    """Why a request failed: sealed, and the same on every operating system."""

    TOKEN_REFUSED = 1
    TOKEN_EXPIRED = 2
    CLOUD_UNREACHABLE = 3
    CLOUD_ERROR = 4
    CLOCK_WRONG = 5
    STORAGE_FAILED = 6
    BUSY = 7
    ALREADY_PROVISIONED = 8
    NOT_ALLOWED = 9
    OUTCOME_UNKNOWN = 10
    CREDENTIALS_REFUSED = 11
    REQUEST_INVALID = 12
    CLAIM_REFUSED = 13


def channel_identifier(method: Method) -> bytes:
    """CPace's CI: protocol, service, roles and method, so that no share fits elsewhere."""
    service = bytes.fromhex(SERVICE_UUID.replace("-", ""))
    return cpace.lv_cat(b"bletoken/1", service, b"device", b"companion", bytes([method]))


def token_ref(token: str) -> bytes:
    """The 16 octets that name a token; never sent in clear and never logged."""
    return hashlib.sha256(b"bletoken/1 token" + token.encode("ascii")).digest()[:TOKEN_REF_SIZE]


# HELLO --------------------------------------------------------------------------------------------------------------


@frozen
class Offer:
    """What the device offers to one connection. Its octets, exactly as read, are CPace's ADa.

    Attributes:
        versions: Protocol versions the device speaks.
        sid: The session identifier, 16 random octets.
        shares: Per method the device's public share, 32 octets.
        actions: The actions the device knows.
        state: The coarse state when the offer was made.
        largest_message: Octets of the largest message the device takes.
        device_class: MODE's device class; empty when not told.
    """

    versions: Annotated[tuple[int, ...], Key(1), SetOf(8)]
    sid: Annotated[bytes, Key(2), Octets(SID_SIZE)]
    shares: Annotated[Mapping[int, bytes], Key(3), MapOf(cpace.SHARE_SIZE, 4)]
    actions: Annotated[tuple[int, ...], Key(4), SetOf(16)]
    state: Annotated[CoarseState, Key(5), OneOf(CoarseState)]
    largest_message: Annotated[int, Key(6), UInt(16)] = LARGEST_MESSAGE
    device_class: Annotated[str, Key(7), Text(LONGEST_CLASS)] = ""

    def encode(self) -> bytes:
        """The value of HELLO."""
        octets = cbor.encode(self)
        if len(octets) > LARGEST_HELLO:
            raise ValueError(f"an offer of {len(octets)} octets; at most {LARGEST_HELLO} fit")
        return octets

    @classmethod
    def decode(cls, octets: bytes) -> Self:
        """Parse an untrusted HELLO.

        Raises:
            RemoteProtocolError: It is no offer.
            UnsupportedVersionError: It does not list our version. No other one is ever tried.
        """
        if len(octets) > LARGEST_HELLO:
            raise RemoteProtocolError("the device's offer is too large")
        offer = cbor.decode(octets, cls)
        if VERSION not in offer.versions:
            raise UnsupportedVersionError(
                f"the device speaks version {max(offer.versions)} of the protocol, this program version {VERSION}"
            )
        return offer


# Message heads ------------------------------------------------------------------------------------------------------


@frozen
class FirstHead:
    """The clear head of a companion's first message: 51 octets, CPace's ADb, and what the box authenticates.

    type (1) | version (1) | method (1) | sid (16) | share (32), then the box.
    """

    method: Method
    sid: bytes
    share: bytes

    SIZE = 3 + SID_SIZE + cpace.SHARE_SIZE

    def encode(self) -> bytes:
        """The head's octets."""
        return bytes([MessageType.FIRST, VERSION, self.method]) + self.sid + self.share

    @classmethod
    def decode(cls, message: bytes) -> Self:
        """Parse the head of an untrusted message that begins with `MessageType.FIRST`.

        Raises:
            RemoteProtocolError: Too short, or an unknown method.
            UnsupportedVersionError: Another version.
        """
        if len(message) > 1 and message[1] != VERSION:
            raise UnsupportedVersionError(f"a first message of version {message[1]}")
        if len(message) < cls.SIZE:
            raise RemoteProtocolError("a first message is too short")
        try:
            method = Method(message[2])
        except ValueError:
            raise RemoteProtocolError("an unknown method") from None
        return cls(method, message[3 : 3 + SID_SIZE], message[3 + SID_SIZE : cls.SIZE])


@frozen
class SealedHead:
    """The clear head of every later sealed message: 13 octets, authenticated by the box.

    type (1) | first 8 octets of sid | counter (4, big-endian), then the box.
    """

    short_sid: bytes
    counter: int

    SIZE = 1 + SHORT_SID_SIZE + 4

    def encode(self) -> bytes:
        """The head's octets."""
        return bytes([MessageType.SEALED]) + self.short_sid + self.counter.to_bytes(4)

    @classmethod
    def decode(cls, message: bytes) -> Self:
        """Parse the head of an untrusted message that begins with `MessageType.SEALED`.

        Raises:
            RemoteProtocolError: Too short.
        """
        if len(message) < cls.SIZE:
            raise RemoteProtocolError("a sealed message is too short")
        return cls(message[1 : 1 + SHORT_SID_SIZE], int.from_bytes(message[1 + SHORT_SID_SIZE : cls.SIZE]))


@frozen
class ClearStatus:
    """A device's answer in clear: type (1) | first 8 octets of the sid it answers (or zeros) | CBOR.

    Anybody can forge it: it may end a run, show a hint or set a wait, and never means success.

    Attributes:
        code: Why the device did not go on.
        state: The device's coarse state.
        wait_s: Seconds to wait, with `LOCKED` and `BUSY`; at most 300. 0 means not told; `LOCKED` with 0: stopped.
        short_sid: Whom it answers; zeros when the device could not tell. In the head, not in the CBOR.
    """

    code: Annotated[ClearCode, Key(1), OneOf(ClearCode)]
    state: Annotated[CoarseState, Key(2), OneOf(CoarseState)]
    wait_s: Annotated[int, Key(3), UInt(16)] = 0
    short_sid: bytes = bytes(SHORT_SID_SIZE)

    def encode(self) -> bytes:
        """The message's octets."""
        return bytes([MessageType.CLEAR_STATUS]) + self.short_sid + cbor.encode(self)

    @classmethod
    def decode(cls, message: bytes) -> Self:
        """Parse an untrusted message that begins with `MessageType.CLEAR_STATUS`.

        Raises:
            RemoteProtocolError: It is no clear status.
        """
        head = 1 + SHORT_SID_SIZE
        content = cbor.decode(message[head:], cls)
        return replace(content, wait_s=min(content.wait_s, LONGEST_WAIT_S), short_sid=message[1:head])


# Requests -----------------------------------------------------------------------------------------------------------


@frozen
class Provision:
    """Take this provisioning token and redeem it with MODE.

    Attributes:
        token: The token, 1 to 1024 printable ASCII characters, opaque.
        expires_in_s: Seconds until it expires; 0 when not known.
        companion_time: The companion's clock, seconds since 1970. It only helps to name the failure `CLOCK_WRONG`.
    """

    token: Annotated[str, Key(1), Text(LONGEST_TOKEN, ascii_only=True)] = field(repr=False)
    expires_in_s: Annotated[int, Key(2), UInt(32)] = 0
    companion_time: Annotated[int, Key(3), UInt(64)] = 0


@frozen
class Claim:
    """Turn the claim mode of a pre-provisioned device on and tell its claim code.

    Attributes:
        duration_s: How long, 60 to 900 seconds.
    """

    duration_s: Annotated[int, Key(1), Between(SHORTEST_CLAIM_S, LONGEST_CLAIM_S)]


@frozen
class Identify:
    """Show yourself: blink, beep."""


@frozen
class AskStatus:
    """Tell what the journal says of the last token."""


@frozen
class Unlock:
    """Take PINs again; only in a session of the QR method."""


Request = Provision | Claim | Identify | AskStatus | Unlock

_REQUESTS: Final[Mapping[int, type[Request]]] = {
    Action.PROVISION: Provision,
    Action.CLAIM: Claim,
    Action.IDENTIFY: Identify,
    Action.STATUS: AskStatus,
    Action.UNLOCK: Unlock,
}
_ACTIONS: Final = {cls: Action(action) for action, cls in _REQUESTS.items()}


def action_of(request: Request) -> Action:
    """The action that a request asks for."""
    return _ACTIONS[type(request)]


def encode_request(request: Request) -> bytes:
    """A request's octets, to be sealed."""
    return cbor.encode(request, kind=action_of(request))


def decode_request(octets: bytes) -> Request:
    """Parse a request. It was authenticated, and is still untrusted.

    Raises:
        RemoteProtocolError: It is no request.
    """
    return cbor.decode_one_of(octets, _REQUESTS)


# Sealed statuses ----------------------------------------------------------------------------------------------------


@frozen
class Status:
    """What every sealed status says.

    Attributes:
        re: The counter of the request it answers.
        token_ref: The token it speaks about; None when about none.
    """

    re: Annotated[int, Key(1), UInt(32)]
    token_ref: Annotated[bytes | None, Key(2), Octets(TOKEN_REF_SIZE)] = field(default=None, repr=False)


@frozen
class Accepted(Status):
    """The device has the token, durably. Without a token: it asks MODE to turn its claim mode on."""


@frozen
class Redeeming(Status):
    """The device is asking MODE. It may say so again and again; the companion's patience begins anew each time."""


@frozen
class Stored(Status):
    """The device has its id and key, durably, and checks them."""


@frozen
class Provisioned(Status):
    """The device is in the home.

    Attributes:
        device_id: MODE's id of the device.
    """

    device_id: Annotated[int, Key(3), UInt(64)] = 0


@frozen
class Claimable(Status):
    """The device's claim mode is on.

    Attributes:
        claim_code: The code to claim it with. A secret.
        until: When the claim mode ends, seconds since 1970.
    """

    claim_code: Annotated[str, Key(3), Text(LONGEST_CLAIM_CODE, ascii_only=True)] = field(repr=False, kw_only=True)
    until: Annotated[int, Key(4), UInt(64)] = field(kw_only=True)


@frozen
class Failed(Status):
    """The request failed.

    Attributes:
        code: Why.
        reason: MODE's own reason; may be empty. Hostile text: bound it before you show it.
        retry_after_s: Seconds MODE asked to wait; 0 when it did not.
    """

    code: Annotated[FailureCode, Key(3), OneOf(FailureCode)] = FailureCode.REQUEST_INVALID
    reason: Annotated[str, Key(4), Text(LONGEST_REASON)] = ""
    retry_after_s: Annotated[int, Key(5), UInt(32)] = 0


@frozen
class Idle(Status):
    """The device has no token, and waits for one (or is pre-provisioned).

    Attributes:
        state: Its coarse state.
    """

    state: Annotated[CoarseState, Key(3), OneOf(CoarseState)] = CoarseState.READY


@frozen
class Done(Status):
    """What was asked for (`Identify`, `Unlock`) is done."""


_STATUSES: Final[Mapping[int, type[Status]]] = {
    1: Accepted,
    2: Redeeming,
    3: Stored,
    4: Provisioned,
    5: Claimable,
    6: Failed,
    7: Idle,
    8: Done,
}
_KINDS: Final = {cls: kind for kind, cls in _STATUSES.items()}


def encode_status(status: Status) -> bytes:
    """A status's octets, to be sealed."""
    return cbor.encode(status, kind=_KINDS[type(status)])


def decode_status(octets: bytes) -> Status:
    """Parse a status.

    Raises:
        RemoteProtocolError: It is no status.
    """
    return cbor.decode_one_of(octets, _STATUSES)
