"""Messages cut into frames that fit one ATT write or notification, and put together again.

A frame is one header octet and up to the frame size less one octets of the message: bit 7 marks a message's first
frame, bit 6 its last, bits 0 to 5 count the frames modulo 64 from 0.
"""

from typing import Final

from bletoken.errors import RemoteProtocolError

SMALLEST_FRAME: Final = 20
"""Octets of a frame where the ATT MTU is not known: its least value, 23, less the 3 of ATT's own header."""

LARGEST_FRAME: Final = 508
"""Octets of the largest frame: what BlueZ 5.63 to 5.68 still takes in every kind of write."""

LARGEST_MESSAGE: Final = 4096
"""Octets of the largest message."""

MESSAGE_TIMEOUT_S: Final = 60
"""The longest that one message may take."""

_FIRST: Final = 0x80
_LAST: Final = 0x40
_COUNT: Final = 0x3F
_ATT_HEADER: Final = 3

_FRAME_TIMEOUT_S: Final = 10


def frame_size(mtu: int | None) -> int:
    """The largest frame for an ATT MTU (None: not known), in octets."""
    return SMALLEST_FRAME if mtu is None else max(SMALLEST_FRAME, min(mtu - _ATT_HEADER, LARGEST_FRAME))


def split(message: bytes, size: int) -> list[bytes]:
    """Cut a message into frames of at most `size` octets.

    Args:
        message: 1 to 4096 octets.
        size: 20 to 508 octets; see `frame_size`.
    """
    if not 1 <= len(message) <= LARGEST_MESSAGE:
        raise ValueError(f"a message has 1 to {LARGEST_MESSAGE} octets, not {len(message)}")
    if not SMALLEST_FRAME <= size <= LARGEST_FRAME:
        raise ValueError(f"a frame has {SMALLEST_FRAME} to {LARGEST_FRAME} octets, not {size}")
    payload = size - 1
    starts = range(0, len(message), payload)
    return [
        bytes([(_FIRST if i == 0 else 0) | (_LAST if i == len(starts) - 1 else 0) | i & _COUNT])
        + message[s : s + payload]
        for i, s in enumerate(starts)
    ]


class MessageTooLargeError(RemoteProtocolError):
    """The other side sent a message larger than 4096 octets.

    The two sides may run incompatible versions.
    """


class Reassembler:
    """Puts one connection's frames together, one message at a time.

    A frame marked first always begins anew. After any error the message in progress is gone.
    """

    def __init__(self) -> None:
        self._parts = bytearray()
        self._next = 0
        self._began_at: float | None = None
        self._last_at = 0.0

    def receive(self, frame: bytes, now: float) -> bytes | None:
        """Take one frame.

        Args:
            frame: As written or notified, untrusted.
            now: Seconds of any monotonic clock.

        Returns:
            The whole message when this frame was its last, else None.

        Raises:
            RemoteProtocolError: Empty, out of sequence, or too long after the one before.
            MessageTooLargeError: The message grows beyond 4096 octets.
        """
        if not 2 <= len(frame) <= LARGEST_FRAME:
            self.reset()
            raise RemoteProtocolError(f"a frame of {len(frame)} octets", att_error_hint=0x81)
        header = frame[0]
        if header & _FIRST:
            self.reset()
            self._began_at = self._last_at = now
        elif self._began_at is None:
            raise RemoteProtocolError("a frame continues no message", att_error_hint=0x82)
        elif self.deadline is not None and now >= self.deadline:
            self.reset()
            raise RemoteProtocolError("a frame came too late", att_error_hint=0x82)
        if header & _COUNT != self._next & _COUNT:
            self.reset()
            raise RemoteProtocolError("a frame is missing or out of order", att_error_hint=0x82)
        if len(self._parts) + len(frame) - 1 > LARGEST_MESSAGE:
            self.reset()
            raise MessageTooLargeError(f"a message of more than {LARGEST_MESSAGE} octets", att_error_hint=0x83)
        self._parts += frame[1:]
        self._next += 1
        self._last_at = now
        if not header & _LAST:
            return None
        message = bytes(self._parts)
        self.reset()
        return message

    def reset(self) -> None:
        """Forget the message in progress, as a new connection does."""
        self._parts.clear()
        self._next = 0
        self._began_at = None

    @property
    def deadline(self) -> float | None:
        """When the message in progress must have gone on, in the clock of `receive`; None when there is none."""
        if self._began_at is None:
            return None
        return min(self._last_at + _FRAME_TIMEOUT_S, self._began_at + MESSAGE_TIMEOUT_S)
