"""The companion's side of one connection: from the offer to authenticated statuses. It owns no timer and no retry."""

from typing import Final

from bletoken.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from bletoken.protocol import cpace, frames
from bletoken.protocol.channel import TAG_SIZE, Direction, KeyShare, Opener, Sealer, load_libraries
from bletoken.protocol.setup_code import Entropy, SetupCode
from bletoken.protocol.states import Event, Machine, Role, State
from bletoken.protocol.wire import (
    SHORT_SID_SIZE,
    ClearStatus,
    FirstHead,
    MessageType,
    Offer,
    Request,
    SealedHead,
    Status,
    decode_status,
    encode_request,
)

# Nobody who is a companion wants to wait for it with a device at the other end.
load_libraries()

_NOBODY: Final = bytes(SHORT_SID_SIZE)


class MethodNotOfferedError(RemoteProtocolError):
    """The device does not take this kind of setup code.

    Use the QR code of its label.
    """

    exit_code = 4


class CompanionMachine:
    """One connection to one device. After any error it is dead: connect again and make a new one.

    Args:
        code: The setup code the person gave; its method is the only one tried.
        entropy: Fresh random octets.
    """

    def __init__(self, code: SetupCode, entropy: Entropy) -> None:
        self._code = code
        self._entropy = entropy
        self._machine = Machine(Role.COMPANION, State.START)
        self._reassembler = frames.Reassembler()
        self._hello = b""
        self._offer: Offer | None = None
        self._sealer: Sealer | None = None
        self._opener: Opener | None = None

    @property
    def state(self) -> State:
        """Where this side stands."""
        return self._machine.state

    def offer_read(self, hello: bytes) -> Offer:
        """Take HELLO's value, untrusted, exactly as read.

        Raises:
            RemoteProtocolError: It is no offer, or offers no method for the code.
            UnsupportedVersionError: It does not offer our version.
        """
        self._machine.require(Event.OFFER_READ)
        try:
            offer = Offer.decode(hello)
            if self._code.method not in offer.shares:
                raise MethodNotOfferedError(f"the device takes no {self._code.method.name} code")
        except ProtocolError:
            self._machine.advance(Event.OFFER_REFUSED)
            raise
        self._hello, self._offer = hello, offer
        self._machine.advance(Event.OFFER_READ)
        return offer

    def first_message(self, request: Request) -> bytes:
        """The message that proves the code and asks for something, once per connection.

        Raises:
            RemoteProtocolError: The device's share has low order, or it takes no message as large as this.
        """
        self._machine.require(Event.FIRST_SENT)
        if self._offer is None:
            raise LocalProtocolError("there is no offer")
        sid, ya = self._offer.sid, self._offer.shares[self._code.method]
        mine = KeyShare.make(self._code, sid, self._entropy(cpace.SHARE_SIZE))
        head = FirstHead(self._code.method, sid, mine.public).encode()
        try:
            key = mine.agree(sid, peer=ya, ya=ya, hello=self._hello, yb=mine.public, head=head)
        except RemoteProtocolError:
            self._machine.advance(Event.OFFER_REFUSED)
            raise
        self._sealer = Sealer(key, sid, Direction.TO_DEVICE)
        self._opener = Opener(key, sid, Direction.TO_COMPANION, gaps=True)
        message = self._sealer.seal_first(head, encode_request(request))
        if len(message) > self._offer.largest_message:
            self._machine.advance(Event.OFFER_REFUSED)
            raise RemoteProtocolError(f"the device takes no message of {len(message)} octets")
        self._machine.advance(Event.FIRST_SENT)
        return message

    def request(self, request: Request) -> tuple[int, bytes]:
        """The counter and octets of a further request.

        Raises:
            RemoteProtocolError: The device takes no message as large as this.
        """
        self._machine.require(Event.REQUEST_SENT)
        if self._sealer is None or self._offer is None:
            raise LocalProtocolError("there is no session")
        counter = self._sealer.next_counter
        payload = encode_request(request)
        # Asked before the message is sealed: a counter that is used and not sent ends the session.
        if (size := SealedHead.SIZE + len(payload) + TAG_SIZE) > self._offer.largest_message:
            raise RemoteProtocolError(f"the device takes no message of {size} octets")
        message = self._sealer.seal(payload)
        self._machine.advance(Event.REQUEST_SENT)
        return counter, message

    def frame_received(self, frame: bytes, now: float) -> Status | ClearStatus | None:
        """Take one notification, untrusted.

        Returns:
            An authentic status; a clear status for us, which is no more than a hint and only given while nothing
            authentic was heard; None while the message goes on, for messages to others, and when this side is dead.

        Raises:
            RemoteProtocolError: A message to us is not authentic, or the frames are out of order.
        """
        try:
            message = self._reassembler.receive(frame, now)
            return None if message is None else self._message_received(message)
        except RemoteProtocolError:
            if not self._machine.allows(Event.STATUS_REFUSED):
                # Nothing was asked yet, or the end was told already: this was for somebody else.
                return None
            self._machine.advance(Event.STATUS_REFUSED)
            raise

    def _message_received(self, message: bytes) -> Status | ClearStatus | None:
        if self._offer is None or self._opener is None or self._machine.state is State.DEAD:
            return None
        # Some stacks notify every subscriber, so messages to others arrive here too.
        recipient = message[1 : 1 + SHORT_SID_SIZE]
        mine = self._offer.sid[:SHORT_SID_SIZE]
        if message[0] == MessageType.CLEAR_STATUS and recipient in (mine, _NOBODY):
            # Not even a malformed one may end a session that is proved.
            clear = None if self._machine.state is State.SECURED else ClearStatus.decode(message)
            self._machine.advance(Event.CLEAR_STATUS)
            return clear
        if message[0] == MessageType.SEALED and recipient == mine:
            _, payload = self._opener.open(message)
            status = decode_status(payload)
            self._machine.advance(Event.STATUS_OPENED)
            return status
        return None

    def ended(self, *, timed_out: bool = False) -> None:
        """The connection is gone, or nobody waits for it any longer."""
        event = Event.TIMED_OUT if timed_out else Event.DISCONNECTED
        if self._machine.allows(event):
            self._machine.advance(event)
