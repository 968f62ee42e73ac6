"""Every state and every transition of both sides of the hand-off, in one table; it holds no session."""

from collections.abc import Mapping
from enum import Enum
from typing import Final

from bletoken.errors import LocalProtocolError


class Role(Enum):
    """The two sides."""

    DEVICE = "device"
    COMPANION = "companion"


class State(Enum):
    """Where one side of one connection stands."""

    OFFERING = "offering"
    """Device: connected, an offer is live, nothing authentic came yet."""
    START = "start"
    """Companion: connected, nothing read yet."""
    OFFERED = "offered"
    """Companion: has read the device's offer."""
    WAITING = "waiting"
    """Companion: the first message is out; only an authentic status proves anything."""
    SECURED = "secured"
    """Both: the peer has proved that it knows the code."""
    DEAD = "dead"
    """Both: the connection is of no more use; drop it."""


class Event(Enum):
    """What happens to one side."""

    OFFER_READ = "offer read"
    OFFER_REFUSED = "offer refused"
    FIRST_SENT = "first message sent"
    FIRST_OPENED = "first message opened"
    FIRST_REFUSED = "first message refused"
    REQUEST_SENT = "request sent"
    REQUEST_OPENED = "request opened"
    REQUEST_REFUSED = "request refused"
    STATUS_SENT = "status sent"
    STATUS_OPENED = "status opened"
    STATUS_REFUSED = "status refused"
    CLEAR_STATUS = "clear status"
    TIMED_OUT = "timed out"
    DISCONNECTED = "disconnected"


TRANSITIONS: Final[Mapping[Role, Mapping[State, Mapping[Event, State]]]] = {
    Role.DEVICE: {
        State.OFFERING: {
            Event.FIRST_OPENED: State.SECURED,
            # A wrong attempt costs its offer; the connection may try once more with the next one until it times out.
            Event.FIRST_REFUSED: State.OFFERING,
            Event.REQUEST_REFUSED: State.OFFERING,
            Event.TIMED_OUT: State.DEAD,
            Event.DISCONNECTED: State.DEAD,
        },
        State.SECURED: {
            # A new authentic first message begins a new session and ends the old one.
            Event.FIRST_OPENED: State.SECURED,
            Event.FIRST_REFUSED: State.SECURED,
            Event.REQUEST_OPENED: State.SECURED,
            # Whatever is not the next authentic request ends the session.
            Event.REQUEST_REFUSED: State.OFFERING,
            Event.STATUS_SENT: State.SECURED,
            Event.DISCONNECTED: State.DEAD,
        },
        State.DEAD: {},
    },
    Role.COMPANION: {
        State.START: {
            Event.OFFER_READ: State.OFFERED,
            Event.OFFER_REFUSED: State.DEAD,
            Event.TIMED_OUT: State.DEAD,
            Event.DISCONNECTED: State.DEAD,
        },
        State.OFFERED: {
            Event.FIRST_SENT: State.WAITING,
            # The offer's share turns out to have low order when the first message is made.
            Event.OFFER_REFUSED: State.DEAD,
            Event.TIMED_OUT: State.DEAD,
            Event.DISCONNECTED: State.DEAD,
        },
        State.WAITING: {
            Event.STATUS_OPENED: State.SECURED,
            Event.STATUS_REFUSED: State.DEAD,
            Event.CLEAR_STATUS: State.DEAD,
            Event.TIMED_OUT: State.DEAD,
            Event.DISCONNECTED: State.DEAD,
        },
        State.SECURED: {
            Event.REQUEST_SENT: State.SECURED,
            Event.STATUS_OPENED: State.SECURED,
            Event.STATUS_REFUSED: State.DEAD,
            # Clear statuses are forgeable, so they count for nothing once something authentic was heard.
            Event.CLEAR_STATUS: State.SECURED,
            Event.TIMED_OUT: State.DEAD,
            Event.DISCONNECTED: State.DEAD,
        },
        State.DEAD: {},
    },
}


class Machine:
    """One side's state; every change goes through the table."""

    def __init__(self, role: Role, state: State) -> None:
        self._role = role
        self._state = state

    @property
    def state(self) -> State:
        """Where this side stands."""
        return self._state

    def allows(self, event: Event) -> bool:
        """Whether the event can happen now."""
        return event in TRANSITIONS[self._role][self._state]

    def require(self, event: Event) -> None:
        """Refuse an event that cannot happen now, before anything is done for it.

        Raises:
            LocalProtocolError: The table has no such transition.
        """
        if not self.allows(event):
            raise LocalProtocolError(f"{self._role.value}: {event.value} is not possible while {self._state.value}")

    def advance(self, event: Event) -> State:
        """Take the transition.

        Raises:
            LocalProtocolError: The table has none.
        """
        self.require(event)
        self._state = TRANSITIONS[self._role][self._state][event]
        return self._state
