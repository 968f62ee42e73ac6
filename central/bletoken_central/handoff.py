"""One request put to one device, over as many connections as it takes; it speaks to no cloud."""

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, NoReturn, Protocol

from bletoken.errors import (
    AlreadyProvisionedError,
    BletokenError,
    ClaimRefusedError,
    ClockWrongError,
    CodeRefusedError,
    DeviceAmbiguousError,
    DeviceBusyError,
    DeviceCloudError,
    DeviceNotFoundError,
    DeviceOfflineError,
    DeviceRemovedError,
    DeviceStorageError,
    HandoffTimeoutError,
    LinkLostError,
    NotAllowedError,
    OutcomeUnknownError,
    PinLockedError,
    RadioError,
    RadioUnavailableError,
    RemoteProtocolError,
    TokenRefusedError,
    UnsupportedVersionError,
    WrongMechanismError,
)
from bletoken.protocol.companion import CompanionMachine, MethodNotOfferedError
from bletoken.protocol.setup_code import Entropy, Method, QrSecret, SetupCode
from bletoken.protocol.wire import (
    Accepted,
    Action,
    AskStatus,
    Claim,
    Claimable,
    ClearCode,
    ClearStatus,
    CoarseState,
    Failed,
    FailureCode,
    Offer,
    Provision,
    Provisioned,
    Redeeming,
    Request,
    Status,
    Stored,
    token_ref,
)
from bletoken_central.link import Found, Link, Radio

_PROVISIONED: Final = CoarseState.PROVISIONED.letter


class Step(Enum):
    """What the companion is doing; in order, though a lost link goes back to `FINDING` or `CONNECTING`."""

    FINDING = "find"
    CONNECTING = "connect"
    READING = "read the offer"
    SENDING = "send the token"
    ASKING = "ask the device"
    TURNING_ON = "the device asks MODE to turn its claim mode on"
    CLAIMABLE = "claim mode on"
    CLAIMING = "claim with MODE"
    ACCEPTED = "token accepted"
    REDEEMING = "redeem with MODE"
    STORED = "credentials stored"
    PROVISIONED = "provisioned"
    EVENT = "device event"
    IN_HOME = "in the home"
    WAITING = "wait until the device reaches MODE"
    RETRYING = "retry"
    RECOVERING = "recover from an unknown outcome"


@dataclass(frozen=True, slots=True)
class Progress:
    """A step that begins, or a fact that is there.

    Attributes:
        step: Which.
        detail: More, for people; from the radio or the cloud, so bound it before you show it.
    """

    step: Step
    detail: str = ""


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Token:
    """A provisioning token.

    Attributes:
        value: The token. A secret.
        expires_at: When it expires; None when not known.
    """

    value: str = field(repr=False)
    expires_at: datetime | None = None

    def request(self, now: datetime, *, was_sent: bool) -> Provision:
        """The request that hands it over.

        Args:
            now: The time.
            was_sent: Whether it was handed over before. Then the device is asked what became of it, expired or not.

        Raises:
            TokenRefusedError: It has expired, and no device has ever had it.
        """
        left_s = 0
        if self.expires_at is not None:
            left_s = int((self.expires_at - now).total_seconds())
            if left_s <= 0 and not was_sent:
                raise TokenRefusedError("the provisioning token has expired", reason="expired")
            left_s = max(1, left_s)
        return Provision(self.value, left_s, int(now.timestamp()))


@dataclass(frozen=True, slots=True)
class Limits:
    """How long and how often.

    Attributes:
        find_s: Seconds to hear the device.
        answer_s: Seconds from the first message to its answer.
        silence_s: Seconds between two answers after that, while the device asks MODE.
        total_s: Seconds in all.
        attempts: Connections in all.
        breaches: Connections on which the device broke the protocol; a damaged packet is rare, a rogue device is not.
        choose_s: Seconds to see whether another device is near, before a PIN is tried.
        unanswered_pins: First messages with a PIN that got no authentic answer, for one typing of the PIN.
    """

    find_s: float = 20
    answer_s: float = 10
    silence_s: float = 30
    total_s: float = 180
    attempts: int = 6
    unanswered_pins: int = 3
    choose_s: float = 2
    breaches: int = 3


class _SilentError(RadioError):
    """The device stopped answering.

    Move closer to the device and run the same command again: nothing is redeemed twice.
    """


class _StaleOfferError(RadioError):
    """The device has another offer by now.

    Run the same command again.
    """


class Ask(Protocol):
    """What is asked of the device, and which of its answers are about it."""

    step: Step
    """What the companion does when it sends the request."""

    async def request(self) -> Request:
        """The request, when the device is ready for it. A connection waits meanwhile."""

    def is_answer(self, status: Status) -> bool:
        """Whether an authentic status speaks about this request."""

    def is_last(self, status: Status) -> bool:
        """Whether such a status ends the exchange well."""


class HandOver:
    """Hand a token over, and hear what becomes of it.

    Args:
        token: The token; awaited when it is needed, so that asking MODE for it and connecting go on at once. Its owner
            cancels it.
    """

    step = Step.SENDING

    def __init__(self, token: asyncio.Future[Token]) -> None:
        self._token = token
        self._was_asked_for = False

    async def request(self) -> Request:
        """See `Ask.request`."""
        # Shielded: a lost connection ends this try, and the token is wanted for the next.
        token = await asyncio.shield(self._token)
        request = token.request(datetime.now(UTC), was_sent=self._was_asked_for)
        self._was_asked_for = True
        return request

    def is_answer(self, status: Status) -> bool:
        """See `Ask.is_answer`."""
        if status.token_ref is None:
            # What speaks of no token can only be a refusal to look at one.
            return isinstance(status, Failed) and status.code in (FailureCode.NOT_ALLOWED, FailureCode.REQUEST_INVALID)
        return status.token_ref == token_ref(self._token.result().value)

    def is_last(self, status: Status) -> bool:
        """See `Ask.is_last`."""
        return isinstance(status, Provisioned)


class Question:
    """Ask something that the device answers at once."""

    step = Step.ASKING

    def __init__(self, request: Request) -> None:
        self._request = request

    async def request(self) -> Request:
        """See `Ask.request`."""
        return self._request

    def is_answer(self, status: Status) -> bool:
        """See `Ask.is_answer`."""
        # The first message of a connection has counter 0, and a question is never but that.
        return status.re == 0

    def is_last(self, status: Status) -> bool:
        """See `Ask.is_last`."""
        return not isinstance(status, Failed) or isinstance(self._request, AskStatus)


class ClaimRequest(Question):
    """Ask a pre-provisioned device to have its claim mode turned on, and for its claim code.

    Args:
        duration_s: How long the claim mode is to last, 60 to 900 seconds.
        allowed: Awaited before the device is asked: nothing is turned on for somebody who cannot claim. Its owner
            cancels it.
    """

    def __init__(self, duration_s: int, allowed: asyncio.Future[Any]) -> None:
        super().__init__(Claim(duration_s))
        self._allowed = allowed

    async def request(self) -> Request:
        """See `Ask.request`."""
        await asyncio.shield(self._allowed)
        return await super().request()

    def is_last(self, status: Status) -> bool:
        """See `Ask.is_last`."""
        return isinstance(status, Claimable)


class Exchange:
    """Requests to one device, one after the other. A PIN has its few tries for all of them.

    Args:
        radio: Where the device is.
        code: Its setup code.
        address: The device's address, where a PIN leaves the choice open.
        report: Is told of progress.
        limits: How long and how often.
        entropy: Fresh random octets.
    """

    def __init__(
        self,
        radio: Radio,
        code: SetupCode,
        *,
        address: str | None = None,
        report: Report,
        limits: Limits | None = None,
        entropy: Entropy = secrets.token_bytes,
    ) -> None:
        self._radio = radio
        self._code = code
        self._address = address
        self._report = report
        self._limits = limits or Limits()
        self._entropy = entropy
        self._unanswered = 0
        self.offer: Offer | None = None
        """What the device offered last; authentic once there was an authentic answer."""
        self.found: Found | None = None
        """Where the device was heard last."""

    async def run(self, ask: Ask) -> Status:
        """Put a request and wait for the authenticated answer that ends it.

        Args:
            ask: What is asked.

        Raises:
            HandoffError: The device says no, or nothing in time; the class says why.
            RadioError: The device is not found, or the link cannot be kept up.
            ProtocolError: What comes from the device is not what the protocol allows.
            CloudError: The request could not be made.
        """
        self._ask = ask
        self.found = None
        self._breaches = 0
        self._last_status: type[Status] | None = None
        self._told: set[Step] = set()
        try:
            async with asyncio.timeout(self._limits.total_s) as scope:
                return await self._run()
        except TimeoutError:
            if not scope.expired():
                raise
            if self.found is None:
                raise DeviceNotFoundError(f"the device was not heard within {self._limits.total_s:.0f} s") from None
            raise HandoffTimeoutError(f"no outcome within {self._limits.total_s:.0f} s{self._so_far()}") from None

    async def _run(self) -> Status:
        for attempt in range(1, self._limits.attempts + 1):
            try:
                return await self._attempt()
            except RadioUnavailableError as error:
                raise RadioUnavailableError(f"{error}{self._so_far()}") from error
            except (MethodNotOfferedError, DeviceAmbiguousError):
                raise
            except (RadioError, RemoteProtocolError) as error:
                # Reconnecting is a new handshake; the same token gets the same answer, never a second redemption.
                if self.found is None:
                    raise
                self._breaches += isinstance(error, RemoteProtocolError)
                if attempt == self._limits.attempts or self._breaches == self._limits.breaches:
                    self._give_up(error)
                if self._code.method is Method.PIN and self._unanswered >= self._limits.unanswered_pins:
                    raise CodeRefusedError("no authentic answer to this PIN; type it again to go on") from error
                self._report(Progress(Step.RETRYING, str(error)))
                await asyncio.sleep(random.uniform(0.2, 0.4) * attempt)  # noqa: S311 jitter, not a secret
        raise AssertionError("the last attempt returns or raises")

    def _give_up(self, error: BletokenError) -> NoReturn:
        if isinstance(error, _SilentError):
            raise HandoffTimeoutError(f"the device stopped answering{self._so_far()}") from error
        if isinstance(error, RadioError):
            raise LinkLostError(f"{error}{self._so_far()}") from error
        raise error

    def _so_far(self) -> str:
        if self._last_status is None:
            return ""
        return {
            Accepted: "; the device has the token",
            Redeeming: "; the device is asking MODE",
            Stored: "; the device has stored its credentials and is checking them",
        }.get(self._last_status, "")

    async def _attempt(self) -> Status:
        # Looked for each time: a device that restarted may have another address, and hearing it takes an advert or two.
        self._report(Progress(Step.FINDING))
        self.found = found = await self._find()
        self._report(Progress(Step.CONNECTING, found.address))
        async with self._radio.connect(found) as link:
            self._report(Progress(Step.READING))
            await link.subscribe()
            machine = CompanionMachine(self._code, self._entropy)
            self.offer = machine.offer_read(await link.read_hello())
            request = await self._ask.request()
            self._report(Progress(self._ask.step, self.offer.device_class))
            message = machine.first_message(request)
            self._unanswered += 1
            await link.send(message)
            return await self._outcome(link, machine)

    async def _find(self) -> Found:
        if isinstance(self._code, QrSecret) and self._address is None:
            code = self._code
            return await self._radio.find(lambda f: f.name is not None and f.name.is_of(code), self._limits.find_s)
        if self._address is None:
            # Nothing in an advert is derived from a PIN: that would be something to grind offline.
            found = await only_one(self._radio, self._limits)
            # From here on the PIN is tried against this device and no other.
            self._address = found.address
            return found
        address = self._address.upper()
        return await self._radio.find(lambda f: f.address.upper() == address, self._limits.find_s)

    async def _outcome(self, link: Link, machine: CompanionMachine) -> Status:
        patience_s = self._limits.answer_s
        answered = False
        while True:
            try:
                frame = await link.receive(patience_s)
            except TimeoutError:
                machine.ended(timed_out=True)
                raise _SilentError("the device stopped answering") from None
            match machine.frame_received(frame, time.monotonic()):
                case ClearStatus() as clear:
                    _refused_in_clear(clear)
                case Status() as status:
                    # This run is answered; the ones before it stay unanswered.
                    self._unanswered -= not answered
                    answered = True
                    patience_s = self._limits.silence_s
                    if self._ask.is_answer(status):
                        if self._ask.is_last(status):
                            if isinstance(status, Provisioned) and isinstance(self._ask, HandOver):
                                # Told before the connection ends, which takes a while.
                                self._report(Progress(Step.PROVISIONED, f"device {status.device_id}"))
                            return status
                        self._heard(status)
                case None:
                    pass

    def _heard(self, status: Status) -> None:
        if isinstance(status, Failed):
            if status.code is FailureCode.NOT_ALLOWED and self.offer is not None:
                _check_mechanism(self._ask, self.offer)
            raise failure_of(status)
        steps = {Accepted: Step.ACCEPTED, Redeeming: Step.REDEEMING, Stored: Step.STORED}
        step = steps.get(type(status))
        if status.token_ref is None:
            # It speaks of no token: the claim mode is what it is about.
            step = Step.WAITING if Step.TURNING_ON in self._told else Step.TURNING_ON
        elif isinstance(status, Accepted) and self._last_status is Redeeming:
            # The request had no effect, and the device has the token as before.
            step = Step.WAITING
        if status.token_ref is not None:
            self._last_status = type(status)
        if step is not None and step not in self._told:
            self._told.add(step)
            self._report(Progress(step))


async def only_one(radio: Radio, limits: Limits) -> Found:
    """The one device that is near, for a person who has a PIN.

    Raises:
        DeviceAmbiguousError: There are several; strongest first.
        DeviceNotFoundError: There is none.
    """
    first = await radio.find(lambda f: f.name is not None, limits.find_s)
    near = {first.address: first}
    async with radio.scan() as heard:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limits.choose_s):
                async for found in heard:
                    if found.name is not None:
                        near[found.address] = found
    # A device that has an owner already is not the one that a PIN is typed for, where there is another.
    open_ones = {f.address: f for f in near.values() if f.name is not None and f.name.state != _PROVISIONED}
    if len(open_ones) == 1:
        return next(iter(open_ones.values()))
    if len(near) > 1:
        strongest = sorted(near.values(), key=lambda f: -f.rssi)
        listed = ", ".join(f"{f.address} ({f.rssi} dBm)" for f in strongest[:10])
        raise DeviceAmbiguousError(f"{len(near)} bletoken devices are near: {listed}", [f.address for f in strongest])
    return first


def _refused_in_clear(status: ClearStatus) -> NoReturn:
    """Raise what a clear status says. It is a hint and may be forged: it ends this run and nothing else."""
    match status.code:
        case ClearCode.STALE_OFFER:
            raise _StaleOfferError("the device has another offer by now")
        case ClearCode.NOT_AUTHENTIC:
            raise CodeRefusedError("the device does not accept this setup code")
        case ClearCode.LOCKED if status.wait_s:
            raise PinLockedError(f"the device takes no PIN for {status.wait_s} s", wait_s=status.wait_s)
        case ClearCode.LOCKED:
            raise PinLockedError("the device takes no PIN until it is unlocked on the device")
        case ClearCode.BUSY:
            raise DeviceBusyError("the device is busy")
        case ClearCode.STORAGE_FAILED:
            raise DeviceStorageError("the device cannot write to its storage")
        case ClearCode.UNSUPPORTED_VERSION:
            raise UnsupportedVersionError("the device does not speak this version of the protocol")
        case ClearCode.MALFORMED | ClearCode.TOO_LARGE:
            raise RemoteProtocolError("the device could not read the message")


def _check_mechanism(ask: Ask, offer: Offer) -> None:
    """Say it better where the device's offer, authentic by now, tells why it does not allow what was asked."""
    if not isinstance(ask, HandOver | ClaimRequest):
        return
    if offer.state is CoarseState.PROVISIONED:
        raise AlreadyProvisionedError("the device is in a home already")
    if (Action.CLAIM if isinstance(ask, ClaimRequest) else Action.PROVISION) not in offer.actions:
        which = "gets its key by token" if isinstance(ask, ClaimRequest) else "is pre-provisioned"
        raise WrongMechanismError(f"the device {which}")


def failure_of(status: Failed) -> BletokenError:
    """The error that an authentic failure is."""
    because = f": {status.reason}" if status.reason else ""
    match status.code:
        case FailureCode.TOKEN_REFUSED:
            return TokenRefusedError(f"MODE refused the provisioning token{because}", reason=status.reason)
        case FailureCode.TOKEN_EXPIRED:
            return TokenRefusedError("the provisioning token expired before MODE could be reached", reason="expired")
        case FailureCode.CLOUD_UNREACHABLE:
            return DeviceOfflineError(f"the device cannot reach MODE{because}")
        case FailureCode.CLOUD_ERROR:
            return DeviceCloudError(
                f"MODE gave the device no usable answer, or asked it to come back later, too often{because}"
            )
        case FailureCode.CLOCK_WRONG:
            return ClockWrongError("the device's clock is wrong, so it cannot check MODE's certificate")
        case FailureCode.STORAGE_FAILED:
            return DeviceStorageError(f"the device cannot store what it needs to{because}")
        case FailureCode.BUSY:
            return DeviceBusyError("the device is working on another token")
        case FailureCode.ALREADY_PROVISIONED:
            return AlreadyProvisionedError("the device is provisioned already")
        case FailureCode.NOT_ALLOWED:
            return NotAllowedError(f"the device does not allow this now{because}")
        case FailureCode.OUTCOME_UNKNOWN:
            return OutcomeUnknownError(f"the device got no usable answer from MODE{because}")
        case FailureCode.CREDENTIALS_REFUSED:
            return DeviceRemovedError("MODE does not accept the device's key")
        case FailureCode.CLAIM_REFUSED:
            return ClaimRefusedError(
                f"MODE does not let the device turn its claim mode on{because}", reason=status.reason
            )
        case FailureCode.REQUEST_INVALID:
            return RemoteProtocolError("the device could not read the request")
