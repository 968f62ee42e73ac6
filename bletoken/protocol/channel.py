"""Keys from the shared key, and sealed messages with counters; it never decides what a message means.

HKDF-SHA-512 makes one AES-256-GCM key per direction. The nonce is the message's counter, which never repeats under a
key: counters only rise, and keys die with the connection.
"""

from enum import Enum
from typing import TYPE_CHECKING, Final, Self

from bletoken.errors import LocalProtocolError, RemoteProtocolError
from bletoken.frozen import frozen
from bletoken.protocol import cpace
from bletoken.protocol.setup_code import PROTOCOL_LABEL, SetupCode
from bletoken.protocol.wire import SHORT_SID_SIZE, SealedHead, channel_identifier

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TAG_SIZE: Final = 16
"""Octets by which a box is longer than what is in it."""

_KEY_SIZE: Final = 32
_NONCE_SIZE: Final = 12
_LAST_COUNTER: Final = 2**32 - 1


def load_libraries() -> None:
    """Load what every connection needs: it takes longer than all that a small device needs to get on the air.

    Without it whoever connects first waits for that.
    """
    import cryptography.hazmat.primitives.asymmetric.x25519
    import cryptography.hazmat.primitives.ciphers.aead
    import cryptography.hazmat.primitives.kdf.hkdf  # noqa: F401


class NotAuthenticError(RemoteProtocolError):
    """A message from the other side does not open: wrong code, changed, replayed or out of order.

    Check the setup code.
    """


@frozen
class KeyShare:
    """One side's half of the key agreement under one code.

    Attributes:
        scalar: 32 random octets, used once.
        public: The share that goes to the peer.
    """

    scalar: bytes
    public: bytes

    def __repr__(self) -> str:
        return "KeyShare()"

    @classmethod
    def make(cls, code: SetupCode, sid: bytes, scalar: bytes) -> Self:
        """Derive the share for a session identifier from a fresh scalar."""
        base = cpace.generator(code.password, channel_identifier(code.method), sid)
        return cls(scalar, cpace.public_share(scalar, base))

    def agree(self, sid: bytes, *, peer: bytes, ya: bytes, hello: bytes, yb: bytes, head: bytes) -> bytes:
        """The session key (CPace's ISK), 64 octets.

        Args:
            sid: The session identifier.
            peer: The peer's share, untrusted: `ya` at the companion, `yb` at the device.
            ya: The device's share for the method.
            hello: HELLO's octets exactly as read (ADa).
            yb: The companion's share.
            head: The first message's head (ADb).

        Raises:
            RemoteProtocolError: The peer's share has low order.
        """
        return cpace.intermediate_session_key(sid, cpace.scalar_multiply(self.scalar, peer), ya, hello, yb, head)


class Direction(Enum):
    """Who seals; the value is HKDF's info."""

    TO_DEVICE = b"companion to device"
    TO_COMPANION = b"device to companion"


class Sealer:
    """Seals one direction's messages, each under the next counter."""

    def __init__(self, session_key: bytes, sid: bytes, direction: Direction) -> None:
        self._box = _box(session_key, direction)
        self._short_sid = sid[:SHORT_SID_SIZE]
        self._next = 0

    @property
    def next_counter(self) -> int:
        """The counter that the next message gets."""
        return self._next

    def seal_first(self, head: bytes, payload: bytes) -> bytes:
        """The companion's first message: its head and the box, under counter 0."""
        if self._next != 0:
            raise LocalProtocolError("the first message was sealed already")
        return head + self._seal(head, payload)

    def seal(self, payload: bytes) -> bytes:
        """A later message: head with the counter, and the box."""
        head = SealedHead(self._short_sid, self._next).encode()
        return head + self._seal(head, payload)

    def _seal(self, head: bytes, payload: bytes) -> bytes:
        if self._next > _LAST_COUNTER:
            raise LocalProtocolError("the session has used all its counters")
        box = self._box.encrypt(_nonce(self._next), payload, head)
        self._next += 1
        return box


class Opener:
    """Opens one direction's messages.

    Args:
        session_key: CPace's ISK.
        sid: The session identifier.
        direction: Who sealed.
        gaps: Whether a counter may be left out (a notification got lost), or each must be exactly the next.
    """

    def __init__(self, session_key: bytes, sid: bytes, direction: Direction, *, gaps: bool) -> None:
        self._box = _box(session_key, direction)
        self._short_sid = sid[:SHORT_SID_SIZE]
        self._gaps = gaps
        self._next = 0

    def open_first(self, head: bytes, box: bytes) -> bytes:
        """The payload of a first message.

        Raises:
            NotAuthenticError: It does not open.
        """
        return self._open(head, 0, box)

    def open(self, message: bytes) -> tuple[int, bytes]:
        """The counter and payload of a later message.

        Raises:
            NotAuthenticError: It does not open, or its counter is not the one expected.
            RemoteProtocolError: It is too short.
        """
        head = SealedHead.decode(message)
        if head.short_sid != self._short_sid:
            raise NotAuthenticError("a message of another session")
        return head.counter, self._open(message[: SealedHead.SIZE], head.counter, message[SealedHead.SIZE :])

    def _open(self, head: bytes, counter: int, box: bytes) -> bytes:
        if counter < self._next or (counter > self._next and not self._gaps):
            raise NotAuthenticError("a message is out of order or comes twice", att_error_hint=0x84)
        from cryptography.exceptions import InvalidTag

        try:
            payload = self._box.decrypt(_nonce(counter), box, head)
        except InvalidTag:
            raise NotAuthenticError("a message does not open", att_error_hint=0x84) from None
        self._next = counter + 1
        return payload


def _box(session_key: bytes, direction: Direction) -> "AESGCM":
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA512
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return AESGCM(HKDF(SHA512(), _KEY_SIZE, PROTOCOL_LABEL, direction.value).derive(session_key))


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(_NONCE_SIZE)
