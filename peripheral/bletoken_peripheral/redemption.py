"""The redemption journal: what the device knows of a token and what may happen next; it stores and sends nothing.

A token can be redeemed once and MODE takes no idempotency key, so the one thing that must never happen is a second
`POST /devices` of a token that may have left already. Every phase is on disk before what it announces is done.
"""

from collections.abc import Mapping
from dataclasses import field, replace
from enum import Enum
from typing import Final, Self

from bletoken.frozen import frozen
from bletoken.protocol.wire import (
    LONGEST_REASON,
    Accepted,
    CoarseState,
    Failed,
    FailureCode,
    Provision,
    Provisioned,
    Redeeming,
    Status,
    Stored,
    token_ref,
)

KEEP_ALIVE_S: Final = 10.0
"""Seconds after which a waiting companion hears that it goes on; companions have patience for 30 s."""


class Phase(Enum):
    """How far a token has come."""

    RECEIVED = "received"
    """The token is on disk; no request with it can have left."""
    REDEEMING = "redeeming"
    """A request with the token may have left."""
    STORED = "stored"
    """Id and key are on disk, the token is gone."""
    ANNOUNCED = "announced"
    """MODE has accepted the key and has the device's event."""
    FAILED = "failed"
    """MODE has made no device of the token, and never will; the token is gone."""
    OUTCOME_UNKNOWN = "outcome-unknown"
    """MODE may have made a device whose key nobody has; the token is gone."""


class Event(Enum):
    """What happens to the token in hand."""

    SENDING = "sending"
    """The request is about to leave."""
    NOT_TAKEN = "not taken"
    """The request provably never left, or MODE said to come back later."""
    CREDENTIALS_STORED = "credentials stored"
    REFUSED = "refused"
    """MODE said no, or trying again has ended."""
    UNANSWERED = "unanswered"
    """The request may have left, and no usable answer came or could be kept."""
    ANNOUNCED = "announced"
    KEY_REFUSED = "key refused"
    """MODE does not know the stored key, or not any longer: the device was removed. Only a reset erases it."""
    KEY_ACCEPTED = "key accepted"
    """MODE knows it after all."""


TRANSITIONS: Final[Mapping[Phase, Mapping[Event, Phase]]] = {
    Phase.RECEIVED: {Event.SENDING: Phase.REDEEMING, Event.REFUSED: Phase.FAILED},
    Phase.REDEEMING: {
        Event.NOT_TAKEN: Phase.RECEIVED,
        Event.CREDENTIALS_STORED: Phase.STORED,
        Event.REFUSED: Phase.FAILED,
        Event.UNANSWERED: Phase.OUTCOME_UNKNOWN,
    },
    Phase.STORED: {
        Event.ANNOUNCED: Phase.ANNOUNCED,
        Event.KEY_REFUSED: Phase.STORED,
        Event.KEY_ACCEPTED: Phase.STORED,
    },
    Phase.ANNOUNCED: {Event.KEY_REFUSED: Phase.ANNOUNCED, Event.KEY_ACCEPTED: Phase.ANNOUNCED},
    Phase.FAILED: {},
    Phase.OUTCOME_UNKNOWN: {},
}

_WITH_TOKEN: Final = frozenset({Phase.RECEIVED, Phase.REDEEMING})
"""The phases in which the token itself is kept."""


MOST_UNKNOWN: Final = 32
"""Earlier tokens of unknown outcome that the journal keeps in mind; a token lives for minutes."""


@frozen
class Failure:
    """Why a token ended, or why its credentials are no good.

    Attributes:
        code: The typed cause.
        reason: MODE's reason, or a short word of our own; at most 64 octets.
        retry_after_s: Seconds MODE asked to wait; 0 when it did not.
    """

    code: FailureCode
    reason: str = ""
    retry_after_s: int = 0


@frozen
class Journal:
    """The record of one token.

    Attributes:
        phase: How far it has come.
        token_ref: The 16 octets that name the token.
        token: The token itself, only while it may still be needed.
        expires_in_s: Seconds it had left when it came; 0 when not known.
        companion_time: The companion's clock when it came, seconds since 1970; 0 when not known.
        device_id: MODE's id of the device, from `STORED` on.
        failure: Why it failed; in `STORED` and `ANNOUNCED` that MODE does not accept the key.
        unknown: The references of the last earlier tokens whose outcome is unknown: none of them is redeemed again.
    """

    phase: Phase
    token_ref: bytes = field(repr=False)
    token: str | None = field(default=None, repr=False)
    expires_in_s: int = 0
    companion_time: int = 0
    device_id: int | None = None
    failure: Failure | None = None
    unknown: tuple[bytes, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if (self.token is not None) != (self.phase in _WITH_TOKEN):
            raise ValueError(
                f"a journal in phase {self.phase.value} {'lacks' if self.token is None else 'has'} a token"
            )
        if (self.device_id is not None) != (self.phase in (Phase.STORED, Phase.ANNOUNCED)):
            raise ValueError(f"a journal in phase {self.phase.value} with device id {self.device_id}")

    @property
    def was_removed(self) -> bool:
        """Whether MODE does not know the device that the credentials are of."""
        return self.phase in (Phase.STORED, Phase.ANNOUNCED) and self.failure is not None

    @classmethod
    def begin(cls, request: Provision, last: "Journal | None" = None) -> Self:
        """The record of a token that just came, after the record of the last one."""
        unknown = () if last is None else last.unknown
        if last is not None and last.phase is Phase.OUTCOME_UNKNOWN:
            unknown = (*unknown, last.token_ref)[-MOST_UNKNOWN:]
        return cls(
            Phase.RECEIVED,
            token_ref(request.token),
            request.token,
            request.expires_in_s,
            request.companion_time,
            unknown=unknown,
        )

    def after(self, event: Event, *, device_id: int | None = None, failure: Failure | None = None) -> Self:
        """The record after an event.

        Raises:
            ValueError: The event cannot happen in this phase.
        """
        phase = TRANSITIONS[self.phase].get(event)
        if phase is None:
            raise ValueError(f"{event.value} cannot happen while {self.phase.value}")
        return replace(
            self,
            phase=phase,
            token=self.token if phase in _WITH_TOKEN else None,
            device_id=self.device_id if device_id is None else device_id,
            failure=failure,
        )

    def status(self, re: int) -> Status:
        """What a companion is told of this token."""
        match self.phase:
            case _ if self.failure is not None:
                f = self.failure
                return Failed(re, self.token_ref, code=f.code, reason=f.reason, retry_after_s=f.retry_after_s)
            case Phase.RECEIVED:
                return Accepted(re, self.token_ref)
            case Phase.REDEEMING:
                return Redeeming(re, self.token_ref)
            case Phase.STORED:
                return Stored(re, self.token_ref)
            case Phase.ANNOUNCED:
                return Provisioned(re, self.token_ref, device_id=self.device_id or 0)
            case _:
                return Failed(re, self.token_ref, code=FailureCode.OUTCOME_UNKNOWN)


def take(journal: Journal | None, request: Provision, *, has_credentials: bool) -> Journal | FailureCode:
    """Decide about a token that comes in.

    Args:
        journal: The journal as it is.
        request: The token.
        has_credentials: Whether credentials are on disk, whatever the journal says: they are never overwritten.

    Returns:
        The journal as it is when it is about this very token (same answer, never a second request), a new journal when
        the token may be taken, or why it may not.
    """
    if journal is not None and journal.token_ref == token_ref(request.token):
        return journal
    if journal is not None and token_ref(request.token) in journal.unknown:
        return FailureCode.OUTCOME_UNKNOWN
    if journal is not None and journal.phase in _WITH_TOKEN:
        return FailureCode.BUSY
    if journal is not None and journal.was_removed:
        return FailureCode.CREDENTIALS_REFUSED
    if has_credentials:
        return FailureCode.ALREADY_PROVISIONED
    return Journal.begin(request, journal)


def resume(journal: Journal | None, stored_device_id: int | None) -> Journal | None:
    """The journal as a starting device must see it.

    Args:
        journal: As found on disk.
        stored_device_id: The device id of the credentials on disk, if there are any.
    """
    if journal is None or journal.phase is not Phase.REDEEMING:
        return journal
    if stored_device_id is not None:
        # The credentials were on disk already when the power went.
        return journal.after(Event.CREDENTIALS_STORED, device_id=stored_device_id)
    return journal.after(Event.UNANSWERED, failure=Failure(FailureCode.OUTCOME_UNKNOWN, "interrupted"))


def coarse_state(journal: Journal | None, *, has_credentials: bool, is_claimable: bool = False) -> CoarseState:
    """What the device tells anybody about itself.

    Args:
        journal: The journal.
        has_credentials: Whether credentials are on disk.
        is_claimable: Whether they are from the device's maker, and the device is in no home.
    """
    if is_claimable and has_credentials:
        return CoarseState.PRE_PROVISIONED
    match journal.phase if journal else None:
        case Phase.RECEIVED | Phase.REDEEMING:
            return CoarseState.WORKING
        case Phase.STORED | Phase.ANNOUNCED:
            return CoarseState.PROVISIONED
        case Phase.OUTCOME_UNKNOWN:
            return CoarseState.OUTCOME_UNKNOWN
        case _:
            return CoarseState.PROVISIONED if has_credentials else CoarseState.READY


def bounded_reason(text: str) -> str:
    """MODE's reason as a status can carry it."""
    return text.encode("utf-8", "replace")[:LONGEST_REASON].decode("utf-8", "ignore")
