"""How fast the radio allows it: the connection events that a hand-off's own octets need, from their sizes alone.

An ATT request goes out at one connection event and its response comes back at the next, and a request waits for the
response before it (Core Specification, Vol 3, Part F, 3.3.2). Nothing here looks at what was really sent.
"""

import time

from bench.stage import Cell

from bletoken.protocol import frames
from bletoken.protocol.channel import TAG_SIZE
from bletoken.protocol.wire import Action, CoarseState, FirstHead, Offer, Provision, encode_request

DEVICE_CLASS = "lamp"

_EVENTS = 2
"""Of one request and its response."""

_DEFAULT_MTU = 23
_READ_HEADER = 1
_WRITE_HEADER = 3
_LONGEST_VALUE = 512
_DECLARATION = 21
"""Octets of a characteristic with a 128-bit UUID in a Read By Type Response, which has a header of 2."""


def floor_requests(cell: Cell) -> int:
    """ATT requests of the floor."""
    size = min(cell.mtu - _WRITE_HEADER, _LONGEST_VALUE)
    return _until_subscribed(cell, characteristics=1) + -(-cell.token_size // size)


def our_requests(cell: Cell) -> int:
    """ATT requests of bletoken until the device has the token: one to read HELLO, and what the sizes force."""
    return _until_subscribed(cell, characteristics=3) + our_reads(cell) + our_frames(cell)


def our_reads(cell: Cell) -> int:
    """Requests to read HELLO: a value is whole when a response is not full."""
    return len(_hello()) // (cell.mtu - _READ_HEADER) + 1


def our_frames(cell: Cell) -> int:
    """Frames of bletoken's one message with the token."""
    request = encode_request(Provision("t" * cell.token_size, 0, int(time.time())))
    return len(frames.split(bytes(FirstHead.SIZE + len(request) + TAG_SIZE), frames.frame_size(cell.mtu)))


def goal_requests(cell: Cell) -> int:
    """The goal: one more than the floor, and the frames that the sizes force."""
    size = min(cell.mtu - _WRITE_HEADER, _LONGEST_VALUE)
    return floor_requests(cell) + 1 + our_frames(cell) - -(-cell.token_size // size)


def seconds(cell: Cell, requests: int) -> float:
    """Seconds on the link from the connection to the last response."""
    return requests * _EVENTS * cell.interval_s


def _until_subscribed(cell: Cell, characteristics: int) -> int:
    """MTU exchange, discovery of one service by UUID, of its characteristics, of one descriptor, and its write.

    Each discovery but that of the descriptor, whose handles are known, ends with a request that finds nothing more.
    """
    exchange = cell.mtu > _DEFAULT_MTU
    in_response = (cell.mtu - 2) // _DECLARATION
    return exchange + 2 + -(-characteristics // in_response) + 1 + 1 + 1


def _hello() -> bytes:
    actions = (Action.PROVISION, Action.STATUS, Action.UNLOCK)
    shares = {1: bytes(32), 2: bytes(32)}
    return Offer((1,), bytes(16), shares, actions, CoarseState.READY, device_class=DEVICE_CLASS).encode()
