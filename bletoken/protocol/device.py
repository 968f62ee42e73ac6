"""The device's side of the hand-off: offers, attempts and sessions of all connections. It redeems nothing.

The caller passes what the radio tells (connected, frame, disconnected) and carries out what comes back, in order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Final

from bletoken.errors import ProtocolError, RemoteProtocolError, StorageError, UnsupportedVersionError
from bletoken.frozen import frozen
from bletoken.protocol import cpace, frames
from bletoken.protocol.channel import Direction, KeyShare, NotAuthenticError, Opener, Sealer, load_libraries
from bletoken.protocol.guesses import GuessRecord
from bletoken.protocol.requests import refusal
from bletoken.protocol.setup_code import Entropy, Label, Method
from bletoken.protocol.states import Event, Machine, Role, State
from bletoken.protocol.wire import (
    LONGEST_WAIT_S,
    SHORT_SID_SIZE,
    SID_SIZE,
    VERSION,
    Action,
    ClearCode,
    ClearStatus,
    CoarseState,
    Failed,
    FailureCode,
    FirstHead,
    MessageType,
    Offer,
    Request,
    SealedHead,
    Status,
    action_of,
    decode_request,
    encode_status,
)

AUTHENTICATION_TIMEOUT_S: Final = 15
"""A connection without an authentic message is dropped after this long, where the platform allows it."""

SHARED_PEER: Final = "*"
"""The peer's name where the platform does not say who wrote: all companions look like one."""

MOST_CONNECTIONS: Final = 16
"""Connections that are served at once: more than a controller holds, and few enough to mint offers for."""

_SHARED_LIMIT: Final = 4
"""Live offers and sessions of `SHARED_PEER`."""


class TooManyMessagesError(RemoteProtocolError):
    """The other side sends messages faster than they are looked at.

    Wait for the answer to one before you send the next.
    """


@frozen
class SessionId:
    """Names one authenticated session: its connection and its offer."""

    peer: str
    short_sid: bytes


@frozen
class Send:
    """Send this message to the peer, as frames, and keep it as what a read of STATUS gives."""

    peer: str
    message: bytes = field(repr=False)


@frozen
class Drop:
    """Disconnect the peer, where the platform can."""

    peer: str


@frozen
class Requested:
    """An authentic companion asks for something that its method and the device's state allow."""

    session: SessionId
    counter: int
    request: Request


Output = Send | Drop | Requested


class _LiveOffer:
    """One offer from its making to its use; once somebody may have read it, its octets never change."""

    def __init__(self, octets: bytes, sid: bytes, shares: dict[Method, KeyShare]) -> None:
        self.octets = octets
        self.sid = sid
        self.shares = shares
        self.was_read = False


@frozen
class _Session:
    method: Method
    sealer: Sealer
    opener: Opener


class _Connection:
    def __init__(self, limit: int, now: float) -> None:
        self.limit = limit
        self.machine = Machine(Role.DEVICE, State.OFFERING)
        self.reassembler = frames.Reassembler()
        self.offers: dict[bytes, _LiveOffer] = {}
        self.sessions: dict[bytes, _Session] = {}
        self.drop_at: float | None = now + AUTHENTICATION_TIMEOUT_S if limit == 1 else None
        self.drop_at_latest = now + AUTHENTICATION_TIMEOUT_S + frames.MESSAGE_TIMEOUT_S


class DeviceMachine:
    """All connections of one device.

    Args:
        label: The device's codes.
        guesses: The PIN's record; None when it is missing or corrupt, which stops the PIN.
        save_guesses: Makes a record durable before it returns, or raises `StorageError`.
        entropy: Fresh random octets.
        actions: What the device can do.
        state: Its coarse state.
        device_class: MODE's device class, to be told in the offer; empty for not at all.
    """

    def __init__(
        self,
        label: Label,
        *,
        guesses: GuessRecord | None,
        save_guesses: Callable[[GuessRecord], None],
        entropy: Entropy,
        actions: Sequence[Action],
        state: CoarseState,
        device_class: str = "",
    ) -> None:
        load_libraries()
        self._label = label
        self._guesses = guesses
        self._save_guesses = save_guesses
        self._entropy = entropy
        self._actions = tuple(sorted(actions))
        self._state = state
        self._device_class = device_class
        self._connections: dict[str, _Connection] = {}
        self._turned_away: list[str] = []

    # What the radio tells --------------------------------------------------------------------------------------------

    def connected(self, peer: str, now: float) -> None:
        """A companion connected: mint its offer, ahead of any read.

        One too many gets none: what it reads and writes is refused, and `timeouts` drops it at once.
        """
        if len(self._connections) >= MOST_CONNECTIONS:
            self._turned_away.append(peer)
            return
        connection = _Connection(_SHARED_LIMIT if peer == SHARED_PEER else 1, now)
        self._connections[peer] = connection
        self._mint(connection)

    def disconnected(self, peer: str) -> None:
        """A companion left: its offers, sessions and keys are gone."""
        if peer in self._turned_away:
            self._turned_away.remove(peer)
        connection = self._connections.pop(peer, None)
        if connection is not None and connection.machine.allows(Event.DISCONNECTED):
            connection.machine.advance(Event.DISCONNECTED)

    def hello(self, peer: str) -> bytes:
        """The value of HELLO for this connection; the same octets until the offer is used up.

        Raises:
            RemoteProtocolError: The peer is not connected.
        """
        offer = self._current(self._connection(peer))
        offer.was_read = True
        return offer.octets

    def replenish(self, peer: str) -> None:
        """Mint what the next read will need. Call it after a read was answered, never inside one."""
        connection = self._connections.get(peer)
        # A named peer keeps its offer until it uses it. Readers that look like one must not end up with the same.
        if connection is not None and connection.limit > 1 and self._current(connection).was_read:
            self._mint(connection)

    def frame_received(self, peer: str, frame: bytes, now: float) -> bytes | None:
        """Take one write to TOKEN.

        Returns:
            The message when it is complete. Answer the write first, then pass it to `message_received`: the radio's
            acknowledgement says only that the frame was taken.

        Raises:
            RemoteProtocolError: The frame is not what it may be now; the message in progress is gone. Answer the write
                with its `att_error_hint` and send what `frame_refused` gives.
        """
        return self._connection(peer).reassembler.receive(frame, now)

    def frame_refused(self, peer: str, error: RemoteProtocolError) -> list[Output]:
        """The clear status that follows a frame which `frame_received` refused."""
        match error:
            case frames.MessageTooLargeError():
                code = ClearCode.TOO_LARGE
            case TooManyMessagesError():
                code = ClearCode.BUSY
            case _:
                code = ClearCode.MALFORMED
        return [self._clear(peer, code)]

    def message_received(self, peer: str, message: bytes, now: float) -> list[Output]:
        """Take one whole message; never raises for anything a peer can send."""
        connection = self._connections.get(peer)
        if connection is None or connection.machine.state is State.DEAD:
            return []
        try:
            match message[0] if message else None:
                case MessageType.FIRST:
                    return self._first_received(peer, connection, message, now)
                case MessageType.SEALED:
                    return self._sealed_received(peer, connection, message)
                case MessageType.RESERVED_VERSION_2:
                    raise UnsupportedVersionError("a first message of version 2")
                case _:
                    raise RemoteProtocolError("a message of an unknown type")
        except UnsupportedVersionError:
            return [self._clear(peer, ClearCode.UNSUPPORTED_VERSION)]
        except RemoteProtocolError:
            return [self._clear(peer, ClearCode.MALFORMED)]

    # What the device tells -------------------------------------------------------------------------------------------

    @property
    def state(self) -> CoarseState:
        """The device's coarse state."""
        return self._state

    def set_state(self, state: CoarseState) -> None:
        """Tell the coarse state that new offers and statuses carry. An offer somebody may have read stays as it is."""
        if state is self._state:
            return
        self._state = state
        for connection in self._connections.values():
            current = self._current(connection)
            if not current.was_read:
                # Nobody knows its session identifier or shares, so these need not be made anew.
                current.octets = self._offer(current.sid, current.shares)

    def unlock(self, record: GuessRecord) -> None:
        """Take PINs again, from a record that is durable already."""
        self._guesses = record

    def pin_wait_s(self, now: float) -> float:
        """Seconds until a PIN is let in: 0 for at once, `math.inf` when it is stopped."""
        return float("inf") if self._guesses is None else self._guesses.wait_s(now)

    def send(self, session: SessionId, status: Status) -> list[Output]:
        """Seal a status for a session; nothing when the session is gone."""
        connection = self._connections.get(session.peer)
        held = connection.sessions.get(session.short_sid) if connection else None
        if connection is None or held is None:
            return []
        connection.machine.advance(Event.STATUS_SENT)
        return [Send(session.peer, held.sealer.seal(encode_status(status)))]

    @property
    def next_timeout(self) -> float | None:
        """When `timeouts` has to be called next; None for never."""
        if self._turned_away:
            return 0
        return min((c.drop_at for c in self._connections.values() if c.drop_at is not None), default=None)

    def timeouts(self, now: float) -> list[Output]:
        """Drop the connections that were given long enough to prove themselves."""
        outputs: list[Output] = [Drop(peer) for peer in self._turned_away]
        self._turned_away.clear()
        for peer, connection in self._connections.items():
            deadline = connection.reassembler.deadline
            if connection.drop_at is None or now < connection.drop_at:
                continue
            if deadline is not None and now < min(deadline, connection.drop_at_latest):
                # It is making progress; slow is no crime, but beginning anew again and again is no progress.
                connection.drop_at = min(deadline, connection.drop_at_latest)
                continue
            connection.drop_at = None
            connection.machine.advance(Event.TIMED_OUT)
            outputs.append(Drop(peer))
        return outputs

    # Inside ----------------------------------------------------------------------------------------------------------

    def _connection(self, peer: str) -> _Connection:
        connection = self._connections.get(peer)
        if connection is None:
            raise RemoteProtocolError("the peer is not connected")
        return connection

    @staticmethod
    def _current(connection: _Connection) -> _LiveOffer:
        return next(reversed(connection.offers.values()))

    def _mint(self, connection: _Connection) -> None:
        sid = self._entropy(SID_SIZE)
        shares = {
            # The generator depends on the code, so each method has a scalar of its own.
            method: KeyShare.make(code, sid, self._entropy(cpace.SHARE_SIZE))
            for method in Method
            if (code := self._label.code(method)) is not None
        }
        connection.offers[sid] = _LiveOffer(self._offer(sid, shares), sid, shares)
        while len(connection.offers) > connection.limit:
            del connection.offers[next(iter(connection.offers))]

    def _offer(self, sid: bytes, shares: Mapping[Method, KeyShare]) -> bytes:
        offer = Offer(
            versions=(VERSION,),
            sid=sid,
            shares={int(method): share.public for method, share in shares.items()},
            actions=self._actions,
            state=self._state,
            device_class=self._device_class,
        )
        return offer.encode()

    def _first_received(self, peer: str, connection: _Connection, message: bytes, now: float) -> list[Output]:
        head = FirstHead.decode(message)
        offer = connection.offers.get(head.sid)
        if offer is None:
            return [self._clear(peer, ClearCode.STALE_OFFER, head.sid)]
        share = offer.shares.get(head.method)
        if share is None:
            raise RemoteProtocolError("a method that was not offered")
        if head.method is Method.PIN and (wait := self.pin_wait_s(now)) != 0:
            return [self._clear(peer, ClearCode.LOCKED, head.sid, wait_s=wait)]
        del connection.offers[head.sid]
        self._mint(connection)
        before = self._guesses
        try:
            if head.method is Method.PIN:
                assert before is not None, "no PIN is tried without a record"
                self._record(before.attempted(now))
            session, payload = _open_first(offer, head, share, message)
            if head.method is Method.PIN:
                assert before is not None, "no PIN is tried without a record"
                # A right PIN takes its own attempt back, and the delay that this began; no earlier one is undone.
                self._record(before)
        except StorageError:
            connection.machine.advance(Event.FIRST_REFUSED)
            return [self._clear(peer, ClearCode.STORAGE_FAILED, head.sid)]
        except RemoteProtocolError:
            # A share of low order is answered like a wrong code: both say nothing about the code.
            connection.machine.advance(Event.FIRST_REFUSED)
            return [self._clear(peer, ClearCode.NOT_AUTHENTIC, head.sid)]
        connection.machine.advance(Event.FIRST_OPENED)
        connection.drop_at = None
        short_sid = head.sid[:SHORT_SID_SIZE]
        connection.sessions[short_sid] = session
        while len(connection.sessions) > connection.limit:
            del connection.sessions[next(iter(connection.sessions))]
        return self._request(SessionId(peer, short_sid), session, 0, payload)

    def _sealed_received(self, peer: str, connection: _Connection, message: bytes) -> list[Output]:
        head = SealedHead.decode(message)
        session = connection.sessions.get(head.short_sid)
        if session is None:
            return [self._clear(peer, ClearCode.NOT_AUTHENTIC, head.short_sid)]
        try:
            counter, payload = session.opener.open(message)
        except NotAuthenticError:
            # Where all companions look like one, a stranger who has heard the sid could end the session this way.
            if connection.limit == 1:
                del connection.sessions[head.short_sid]
                connection.machine.advance(Event.REQUEST_REFUSED)
            return [self._clear(peer, ClearCode.NOT_AUTHENTIC, head.short_sid)]
        connection.machine.advance(Event.REQUEST_OPENED)
        return self._request(SessionId(peer, head.short_sid), session, counter, payload)

    def _request(self, session_id: SessionId, session: _Session, counter: int, payload: bytes) -> list[Output]:
        try:
            request = decode_request(payload)
        except ProtocolError:
            return self.send(session_id, Failed(re=counter, code=FailureCode.REQUEST_INVALID))
        action = action_of(request)
        refused = refusal(action, self._state, session.method) if action in self._actions else FailureCode.NOT_ALLOWED
        if refused is not None:
            return self.send(session_id, Failed(re=counter, code=refused))
        return [Requested(session_id, counter, request)]

    def _record(self, record: GuessRecord) -> None:
        try:
            self._save_guesses(record)
        except StorageError:
            # If the count cannot be made durable, no PIN is tried.
            self._guesses = None
            raise
        self._guesses = record

    def _clear(self, peer: str, code: ClearCode, sid: bytes = bytes(SID_SIZE), *, wait_s: float = 0) -> Send:
        wait = 0 if wait_s == float("inf") else min(LONGEST_WAIT_S, -int(-wait_s // 1))
        connection = self._connections.get(peer)
        if not any(sid[:SHORT_SID_SIZE]) and connection is not None and connection.limit == 1:
            # Where every companion hears this, each would take a status to nobody as its own.
            sid = next(reversed(connection.sessions), self._current(connection).sid)
        return Send(peer, ClearStatus(code, self._state, wait, sid[:SHORT_SID_SIZE]).encode())


def _open_first(offer: _LiveOffer, head: FirstHead, share: KeyShare, message: bytes) -> tuple[_Session, bytes]:
    octets = message[: FirstHead.SIZE]
    key = share.agree(offer.sid, peer=head.share, ya=share.public, hello=offer.octets, yb=head.share, head=octets)
    opener = Opener(key, offer.sid, Direction.TO_DEVICE, gaps=False)
    payload = opener.open_first(octets, message[FirstHead.SIZE :])
    return _Session(head.method, Sealer(key, offer.sid, Direction.TO_COMPANION), opener), payload
