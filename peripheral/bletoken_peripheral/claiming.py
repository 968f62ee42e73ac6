"""The claim mode of a pre-provisioned device: asks MODE to turn it on, and looks what comes of it; it opens no window.

Turning it on twice is harmless, so there is no journal: the record says whether the device is in a home, and MODE
knows better.
"""

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import field, replace
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeVar

from bletoken.errors import (
    AlreadyProvisionedError,
    ClaimExpiredError,
    ClaimRefusedError,
    CloudError,
    CloudNoAnswerError,
    CloudRefusedError,
    CloudRetryLaterError,
    CloudUnreachableError,
    DeviceRemovedError,
    NotSignedInError,
    StorageError,
)
from bletoken.frozen import frozen
from bletoken.mode import reasons
from bletoken.mode.retry import RetryPolicy, retrying
from bletoken.protocol.wire import (
    LONGEST_CLAIM_S,
    Accepted,
    Claimable,
    Failed,
    FailureCode,
    Status,
)
from bletoken_peripheral.progress import Progress
from bletoken_peripheral.redemption import KEEP_ALIVE_S, bounded_reason

if TYPE_CHECKING:
    from datetime import datetime

    from bletoken.mode.credentials import Credentials
    from bletoken.mode.device_api import DeviceApi
    from bletoken.protocol.device import SessionId

T = TypeVar("T")

_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 10.0

_FIRST_LOOK_S: Final = 0.1
"""A companion claims the device as soon as it has the code, and then waits for the device's event."""

_LONGEST_LOOK_S: Final = 5.0
_LONGEST_IDLE_LOOK_S: Final = 30.0
_LONGEST_UNREACHABLE_S: Final = 60.0

_LONGEST_TOLD_S: Final = 3600.0
"""Seconds that MODE can have a look put off."""

_APART_S: Final = 1.0
"""Seconds between two requests to turn the claim mode on: whoever holds the label must not use MODE's patience up."""

_TRIES: Final = 3

_GRACE_S: Final = 5.0
"""Seconds for which it is looked on after the claim mode's end, as MODE's clock is another."""


@frozen
class ClaimRecord:
    """What a pre-provisioned device keeps beside its credentials.

    Attributes:
        claim_code: The code that MODE takes to claim it. A secret.
        is_claimed: Whether it is in a home, and has announced itself there.
        was_opened: Whether it had its first window: from then on a person opens it.
    """

    claim_code: str = field(repr=False)
    is_claimed: bool = False
    was_opened: bool = False


# What is asked of MODE ----------------------------------------------------------------------------------------------


async def turn_on(api: "DeviceApi", credentials: "Credentials", duration_s: int) -> "datetime":
    """Turn the claim mode on, or make it last longer.

    Returns:
        When it ends, as MODE says, in UTC.

    Raises:
        AlreadyProvisionedError: The device is in a home.
        DeviceRemovedError: MODE does not accept the key.
        ClaimRefusedError: MODE does not want to, for another reason.
        CloudError: MODE cannot be asked; asking again is harmless.
    """
    try:
        return await api.open_claim_window(credentials.device_id, credentials.api_key, duration_s)
    except CloudRefusedError as e:
        raise _refusal(e) from e


async def turn_off(api: "DeviceApi", credentials: "Credentials") -> None:
    """Turn the claim mode off.

    Raises:
        BletokenError: As `turn_on`.
    """
    try:
        await api.close_claim_window(credentials.device_id, credentials.api_key)
    except CloudRefusedError as e:
        raise _refusal(e) from e


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask MODE what may be asked again even where no answer came.

    Raises:
        CloudError: How the last try ended.
    """
    for _ in range(_TRIES - 1):
        with contextlib.suppress(CloudNoAnswerError):
            return await retrying(RetryPolicy(), ask)
    return await retrying(RetryPolicy(), ask)


async def home_of(api: "DeviceApi", credentials: "Credentials") -> int | None:
    """The home that the device is in; None while it is in none.

    Raises:
        DeviceRemovedError: MODE does not accept the key.
        CloudError: MODE cannot be asked.
    """
    try:
        return (await api.device(credentials.device_id, credentials.api_key)).home_id
    except NotSignedInError as e:
        raise _refusal(e) from e


async def claimed(api: "DeviceApi", credentials: "Credentials", duration_s: int) -> int:
    """Wait until the device is in a home; returns which.

    Raises:
        ClaimExpiredError: It is in none after so many seconds.
        DeviceRemovedError: MODE does not accept the key.
        CloudError: MODE cannot be asked when the time is over.
    """
    ends_at = time.monotonic() + duration_s + _GRACE_S
    while True:
        is_over, pause = time.monotonic() >= ends_at, 1.0
        try:
            home = await home_of(api, credentials)
        except CloudError as e:
            if is_over:
                raise
            home, pause = None, max(pause, _told_s(e))
        if home is not None:
            return home
        if is_over:
            raise ClaimExpiredError("the claim mode ended, and nobody claimed the device")
        await asyncio.sleep(min(pause, max(0, ends_at - time.monotonic())))


def _told_s(error: CloudError) -> float:
    """Seconds that MODE asked to wait."""
    told_s = error.retry_after_s if isinstance(error, CloudRetryLaterError) else None
    return min(told_s or 0.0, _LONGEST_TOLD_S)


def _refusal(error: CloudRefusedError) -> Exception:
    if isinstance(error, NotSignedInError):
        return DeviceRemovedError("MODE does not accept the device's key")
    if error.reason == reasons.ALREADY_IN_HOME:
        return AlreadyProvisionedError("the device is in a home already")
    reason = error.reason or f"HTTP {error.status}"
    return ClaimRefusedError(f"MODE does not let this device turn its claim mode on or off: {reason}", reason=reason)


# What goes on while the device runs ---------------------------------------------------------------------------------


class _Seen(Enum):
    """What a look at MODE showed."""

    IN_HOME = "in a home"
    HOMELESS = "in no home"
    KEY_REFUSED = "key refused"
    NOTHING = "nothing"


@frozen
class _Asker:
    """What a session waits for: the counter of its request, seconds of claim mode, and when it is told to give up."""

    re: int
    duration_s: int
    give_up_at: float


class Claiming:
    """The claim mode of one running device.

    Args:
        record: What is on disk.
        credentials: The device's id and key.
        save: Makes a record durable.
        tell: Sends a status to a session, where that is still there.
        report: Is told of progress.
        changed: Is called when `is_claimed` or `key_refused` are other than before.
        announce: Triggers the device's event.
        retry_s: Seconds for which MODE is asked for one companion.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        record: ClaimRecord,
        credentials: "Credentials",
        *,
        save: Callable[[ClaimRecord], None],
        tell: Callable[["SessionId", Status], None],
        report: Callable[[Progress], None],
        changed: Callable[[], None],
        announce: Callable[["DeviceApi"], Awaitable[None]],
        retry_s: float,
        clock: Callable[[], float],
    ) -> None:
        self.record = record
        self.is_claimed = record.is_claimed
        """Whether the device is in a home, as far as is known."""
        self.key_refused = False
        """Whether MODE does not accept the device's key."""
        self._credentials = credentials
        self._save = save
        self._tell = tell
        self._report = report
        self._changed = changed
        self._announce = announce
        self._retry_s = retry_s
        self._clock = clock
        self._askers: dict[SessionId, _Asker] = {}
        self._asked = asyncio.Event()
        self._look_now = asyncio.Event()
        self._on_until: float | None = None
        self._is_announced = record.is_claimed
        # An earlier process may have turned the claim mode on.
        self._look_until = clock() + LONGEST_CLAIM_S

    @property
    def on_s(self) -> float:
        """Seconds for which the claim mode goes on, as far as this process knows; 0 when it is off."""
        return 0.0 if self._on_until is None else max(0.0, self._on_until - self._clock())

    def ask(self, session: "SessionId", re: int, duration_s: int) -> None:
        """Turn the claim mode on, and tell this session the claim code once MODE has confirmed.

        Args:
            session: Who asked.
            re: The counter of its request.
            duration_s: How long.
        """
        if session in self._askers:
            # One at a time: each request gets one answer.
            self._tell(session, Failed(re, code=FailureCode.BUSY))
            return
        self._askers[session] = _Asker(re, duration_s, self._clock() + self._retry_s)
        self._tell(session, Accepted(re))
        self._asked.set()

    def left(self, peer: str) -> None:
        """A companion left: nobody is told on its behalf."""
        self._askers = {session: asked for session, asked in self._askers.items() if session.peer != peer}

    @property
    def is_asked(self) -> bool:
        """Whether a companion waits for the claim code."""
        return bool(self._askers)

    def turned_on(self, duration_s: int) -> None:
        """The claim mode was turned on somewhere else for so many seconds from now; off with 0."""
        self._on_until = self._clock() + duration_s if duration_s else None
        self._look_until = max(self._look_until, self._clock() + duration_s + _GRACE_S)
        self._report(Progress("claim mode on", f"for {duration_s} s") if duration_s else Progress("claim mode off"))
        self.look()

    def look(self) -> None:
        """Look at MODE now: something may have changed there."""
        self._look_now.set()

    def open_first_window(self) -> bool:
        """Whether this is the device's first window, which opens by itself, once.

        Raises:
            StorageError: It cannot be made durable that it was.
        """
        if self.record.was_opened:
            return False
        # Before it is open: power that comes and goes must not open it again and again.
        self._keep(replace(self.record, was_opened=True))
        return True

    async def run(self, api: "DeviceApi") -> None:
        """Serve companions and look at MODE until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._serve(api))
            tasks.create_task(self._look_on(api))

    def _keep(self, record: ClaimRecord) -> None:
        self._save(record)
        self.record = record

    # Turning it on -----------------------------------------------------------------------------------------------

    async def _serve(self, api: "DeviceApi") -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            await self._turn_on(api)

    async def _turn_on(self, api: "DeviceApi") -> None:
        """Ask MODE for all who want it, until nobody does."""
        pause = _FIRST_PAUSE_S
        while self._askers:
            askers = dict(self._askers)
            # Asking again never takes away from what somebody was told.
            duration_s = max(*(asker.duration_s for asker in askers.values()), math.ceil(self.on_s))
            began_at, was_claimed = self._clock(), self.is_claimed
            self._report(Progress("claim mode", "asking MODE"))
            try:
                until = await turn_on(api, self._credentials, duration_s)
            except (CloudUnreachableError, CloudRetryLaterError, CloudNoAnswerError) as e:
                pause = await self._put_off(e, pause)
                continue
            except (AlreadyProvisionedError, DeviceRemovedError, ClaimRefusedError) as e:
                code, reason = _refused(e)
                self._answer(askers, Failed(0, code=code, reason=reason))
                self._report(Progress("failed", str(e)))
                self.look()
            else:
                left_s = duration_s - (self._clock() - began_at)
                self._turned_on(askers, until, left_s, somebody_was_faster=self.is_claimed and not was_claimed)
            await asyncio.sleep(_APART_S)

    def _turned_on(
        self, askers: dict["SessionId", _Asker], until: "datetime", left_s: float, *, somebody_was_faster: bool
    ) -> None:
        if somebody_was_faster:
            self._answer(askers, Failed(0, code=FailureCode.ALREADY_PROVISIONED))
            return
        self._answer(askers, Claimable(0, claim_code=self.record.claim_code, until=int(until.timestamp())))
        self.turned_on(max(1, round(left_s)))

    async def _put_off(self, error: CloudError, pause: float) -> float:
        """Wait before MODE is asked again, and tell whose time is over by then. Returns the next pause."""
        jitter = random.uniform(0.5, 1)  # noqa: S311 no secret
        wait_s = max(_APART_S, _told_s(error), pause * jitter)
        next_at = self._clock() + wait_s
        code, reason = _failure(error)
        over = {session: asker for session, asker in self._askers.items() if next_at >= asker.give_up_at}
        self._answer(over, Failed(0, code=code, reason=reason, retry_after_s=round(_told_s(error))))
        if not self._askers:
            self._report(Progress("failed", str(error)))
            await asyncio.sleep(_APART_S)
            return _FIRST_PAUSE_S
        self._report(Progress("waiting for MODE", f"{error}; next try in {wait_s:.0f} s"))
        while (left_s := next_at - self._clock()) > 0:
            await asyncio.sleep(min(left_s, KEEP_ALIVE_S))
            for session, asker in self._askers.items():
                # Whoever waits hears that it goes on.
                self._tell(session, Accepted(asker.re))
        return min(pause * 2, _LONGEST_PAUSE_S)

    def _answer(self, askers: dict["SessionId", _Asker], status: Status) -> None:
        """Tell each of them the same, as the answer to its own request."""
        for session, asker in askers.items():
            if self._askers.get(session) == asker:
                del self._askers[session]
                self._tell(session, replace(status, re=asker.re))

    # Looking at MODE ---------------------------------------------------------------------------------------------

    async def _look_on(self, api: "DeviceApi") -> None:
        while True:
            await self._until_settled(api)
            await self._look_now.wait()

    async def _until_settled(self, api: "DeviceApi") -> None:
        pause = _FIRST_LOOK_S
        while True:
            self._look_now.clear()
            seen, told_s = await self._look(api)
            if seen is _Seen.IN_HOME and self.record.is_claimed:
                self._on_until = None
                return
            if self._on_until is not None and self.on_s == 0:
                self._on_until = None
                self._report(Progress("claim mode ended", "nobody claimed the device"))
            # A key that is refused may be accepted again; who is told to go must not come back for ever.
            if seen in (_Seen.HOMELESS, _Seen.KEY_REFUSED) and self._clock() >= self._look_until:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(pause, told_s)):
                    await self._look_now.wait()
            if self._look_now.is_set():
                pause = _FIRST_LOOK_S
                # Whoever just got the code is only now on the way to MODE with it.
                await asyncio.sleep(pause)
                continue
            longest = _LONGEST_UNREACHABLE_S if seen is _Seen.NOTHING else _LONGEST_IDLE_LOOK_S
            pause = min(pause * 1.5, longest if self._on_until is None else _LONGEST_LOOK_S)

    async def _look(self, api: "DeviceApi") -> tuple[_Seen, float]:
        """See whether the device is in a home, and keep what is new; and the seconds that MODE asks to wait."""
        try:
            home = await home_of(api, self._credentials)
            if home is None:
                self._lost_home()
                return _Seen.HOMELESS, 0
            await self._found_home(api, home)
        except DeviceRemovedError as e:
            if not self.key_refused:
                self.key_refused = True
                self._report(Progress("removed in MODE", str(e), self._credentials.device_id))
                self._changed()
            return _Seen.KEY_REFUSED, 0
        except CloudError as e:
            return _Seen.NOTHING, _told_s(e)
        except StorageError as e:
            self._report(Progress("cannot write the record", str(e)))
            return _Seen.NOTHING, 0
        return _Seen.IN_HOME, 0

    def _lost_home(self) -> None:
        is_news = self.is_claimed or self.key_refused
        self.is_claimed = self._is_announced = self.key_refused = False
        if is_news:
            self._changed()
        if self.record.is_claimed:
            self._keep(replace(self.record, is_claimed=False, was_opened=True))
            self._report(Progress("in no home any more", "open its window to claim it again"))

    async def _found_home(self, api: "DeviceApi", home: int) -> None:
        is_news = not self.is_claimed or self.key_refused
        self.is_claimed, self.key_refused = True, False
        if is_news:
            self._report(Progress("claimed", f"home {home}", self._credentials.device_id))
            self._changed()
        if not self._is_announced:
            await self._announce(api)
            self._is_announced = True
        if not self.record.is_claimed:
            # After the event: should the power go before it was sent, the next start sends it.
            self._keep(replace(self.record, is_claimed=True, was_opened=True))
            self._report(Progress("provisioned", "announced to MODE", self._credentials.device_id))


def _failure(error: CloudError) -> tuple[FailureCode, str]:
    if isinstance(error, CloudUnreachableError):
        return FailureCode.CLOUD_UNREACHABLE, "certificate" if error.certificate_time else ""
    if isinstance(error, CloudRetryLaterError):
        return FailureCode.CLOUD_ERROR, bounded_reason(error.reason)
    return FailureCode.CLOUD_ERROR, "no answer"


def _refused(error: AlreadyProvisionedError | DeviceRemovedError | ClaimRefusedError) -> tuple[FailureCode, str]:
    match error:
        case AlreadyProvisionedError():
            return FailureCode.ALREADY_PROVISIONED, ""
        case DeviceRemovedError():
            return FailureCode.CREDENTIALS_REFUSED, ""
        case ClaimRefusedError():
            return FailureCode.CLAIM_REFUSED, bounded_reason(error.reason)
