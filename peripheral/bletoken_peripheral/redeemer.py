"""Sees a token through: redeems it with MODE, keeps id and key, and announces the device; each step is on disk first.

What a phase means and what may follow it is in `redemption`; who is told, and how long the device stays on the air, is
up to `onboarding`.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from bletoken.errors import (
    CloudError,
    CloudNoAnswerError,
    CloudRefusedError,
    CloudRetryLaterError,
    CloudUnreachableError,
    StorageError,
    UsageError,
)
from bletoken.mode.credentials import Credentials
from bletoken.protocol.wire import FailureCode, Provision, Provisioned, Status
from bletoken_peripheral import redemption
from bletoken_peripheral.config import Config
from bletoken_peripheral.progress import Progress
from bletoken_peripheral.redemption import KEEP_ALIVE_S, Event, Failure, Journal, Phase, bounded_reason
from bletoken_peripheral.store import StateFolder

if TYPE_CHECKING:
    from bletoken.mode.device_api import DeviceApi

_log = logging.getLogger(__name__)

RUN_RESET: Final = "run: bletoken-peripheral reset"
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 10.0
_LONGEST_ANNOUNCE_PAUSE_S: Final = 60.0
_LONGEST_CHECK_PAUSE_S: Final = 300.0
_CLOCK_TOLERANCE_S: Final = 86400


class Redeemer:
    """The token of one running device, and what comes of it.

    Args:
        config: The configuration.
        folder: The state folder, locked.
        report: Is told of progress.
        changed: Is called when companions are to be told something new, with what happened to the token in hand; with
            None where nothing did.
        reminded: Is called while MODE is waited for, so that whoever waits for the outcome hears that it goes on.
        clock: Seconds that never go back.

    Attributes:
        journal: The record of the last token.
        credentials: The device's id and key.

    Raises:
        UsageError: The credentials are of another MODE.
        StorageError: The state cannot be read, or contradicts itself.
    """

    def __init__(
        self,
        config: Config,
        folder: StateFolder,
        *,
        report: Callable[[Progress], None],
        changed: Callable[[Event | None], None],
        reminded: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._folder = folder
        self._report = report
        self._changed = changed
        self._reminded = reminded
        self._clock = clock
        self.credentials = folder.read_credentials()
        self.journal = _consistent(folder, folder.read_journal(), self.credentials)
        if self.credentials is not None and self.credentials.mode_url not in ("", config.mode_url):
            raise UsageError(
                f"the credentials in {folder.path} are of {self.credentials.mode_url}, but mode_url is"
                f" {config.mode_url}; put it back, or {RUN_RESET}"
            )
        self._verified = False
        self._event_sent = False
        self._work = asyncio.Event()

    @property
    def phase(self) -> Phase | None:
        """How far the last token has come."""
        return self.journal.phase if self.journal else None

    def resume(self) -> None:
        """Note what a start means for a token that was under way.

        Raises:
            StorageError: It cannot be noted.
        """
        resumed = redemption.resume(self.journal, self.credentials.device_id if self.credentials else None)
        if resumed is not None and resumed is not self.journal:
            self._save(resumed)

    def take(self, request: Provision, *, is_open: bool) -> FailureCode | None:
        """Take a token, and begin with it unless it is the one in hand.

        Args:
            request: The token.
            is_open: Whether a new one may be taken.

        Returns:
            Why it was not taken; None where it was.
        """
        taken: Journal | FailureCode = redemption.take(
            self.journal, request, has_credentials=self.credentials is not None
        )
        if isinstance(taken, FailureCode) or taken is self.journal:
            return taken if isinstance(taken, FailureCode) else None
        if not is_open:
            return FailureCode.NOT_ALLOWED
        try:
            self._save(taken)
        except StorageError as e:
            self._report(Progress("failed", str(e)))
            return FailureCode.STORAGE_FAILED
        self._report(Progress("token accepted"))
        self._work.set()
        return None

    def status(self, re: int) -> Status | None:
        """What a companion is told of the last token, as the answer to its request; None before the first."""
        if self.journal is None:
            return None
        if self.phase is Phase.STORED and self._verified and self.journal.failure is None:
            return Provisioned(re, self.journal.token_ref, device_id=self.journal.device_id or 0)
        return self.journal.status(re)

    async def run(self, api: "DeviceApi") -> None:
        """See tokens through until cancelled. A request to MODE that is under way is finished first."""
        if self.phase is Phase.ANNOUNCED or (self.journal is not None and self.journal.was_removed):
            await self._check_key(api)
        while True:
            if self.phase is Phase.RECEIVED:
                await self._redeem(api)
            if self.phase is Phase.STORED:
                await self._announce(api)
            await self._work.wait()
            self._work.clear()

    # The journal -----------------------------------------------------------------------------------------------------

    def _save(self, journal: Journal, event: Event | None = None) -> None:
        """Make a journal durable; only then does anybody hear of it."""
        self._folder.write_journal(journal)
        self._adopt(journal, event)

    def _save_if_possible(self, journal: Journal, event: Event) -> None:
        """Go on from a journal in memory, should the disk not take it."""
        try:
            self._save(journal, event)
        except StorageError as e:
            self._report(Progress("cannot write the journal", str(e)))
            self._adopt(journal, event)

    def _adopt(self, journal: Journal, event: Event | None) -> None:
        self.journal = journal
        self._changed(event)

    # Redeeming -------------------------------------------------------------------------------------------------------

    async def _redeem(self, api: "DeviceApi") -> None:
        """Redeem the token in the journal, however often MODE provably did not take it, until its time is over."""
        assert self.journal is not None, "only called in phase RECEIVED"
        expires_in_s = self.journal.expires_in_s or self._config.retry_s
        give_up_at = self._clock() + min(expires_in_s, self._config.retry_s)
        pause = _FIRST_PAUSE_S
        while True:
            failure, wait_s = await self._redeem_once(api)
            if failure is None:
                return
            wait_s = max(wait_s, _jittered(pause))
            if self._clock() + wait_s >= give_up_at:
                expired = expires_in_s <= self._config.retry_s and self.journal.expires_in_s > 0
                self._fail(Failure(FailureCode.TOKEN_EXPIRED) if expired else failure)
                return
            self._report(
                Progress("waiting for MODE", f"{failure.reason or failure.code.name}; next try in {wait_s:.0f} s")
            )
            await self._wait(wait_s)
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    async def _wait(self, seconds: float) -> None:
        """Wait; whoever waits for the outcome hears that it goes on."""
        ends_at = self._clock() + seconds
        while (left_s := ends_at - self._clock()) > 0:
            await asyncio.sleep(min(left_s, KEEP_ALIVE_S))
            self._reminded()

    async def _redeem_once(self, api: "DeviceApi") -> tuple[Failure | None, float]:
        """One request. Returns why MODE did not take the token and the seconds to wait, or (None, 0) at an end."""
        journal = self.journal
        assert journal is not None, "only called in phase RECEIVED"
        assert journal.token is not None, "phase RECEIVED has the token"
        try:
            self._save(journal.after(Event.SENDING), Event.SENDING)
        except StorageError as e:
            self._report(Progress("failed", str(e)))
            return Failure(FailureCode.STORAGE_FAILED), 0
        self._report(Progress("redeeming", "asking MODE"))
        request = asyncio.create_task(self._ask(api, journal.token))
        try:
            await asyncio.shield(request)
        except asyncio.CancelledError:
            # We are to stop, but the token may have left: its answer is worth waiting for, at most the time-out.
            await asyncio.wait({request})
            request.result()
            raise
        return request.result()

    async def _ask(self, api: "DeviceApi", token: str) -> tuple[Failure | None, float]:
        journal = self.journal
        assert journal is not None, "only called in phase REDEEMING"
        try:
            answer = await api.redeem(token)
        except CloudUnreachableError as e:
            return self._postpone(journal, self._unreachable(e, journal.companion_time), 0)
        except CloudRetryLaterError as e:
            return self._postpone(
                journal, Failure(FailureCode.CLOUD_ERROR, bounded_reason(e.reason)), e.retry_after_s or 0
            )
        except CloudRefusedError as e:
            self._fail(Failure(FailureCode.TOKEN_REFUSED, bounded_reason(e.reason or f"HTTP {e.status}")))
        except CloudNoAnswerError as e:
            self._lose(str(e), f"HTTP {e.status}" if e.status else "no answer")
        else:
            await self._store(Credentials(answer.device_id, answer.api_key, self._config.mode_url))
        return None, 0

    def _postpone(self, journal: Journal, failure: Failure, wait_s: float) -> tuple[Failure | None, float]:
        # Where it cannot be saved the outcome stays unknown on disk, which is worse than true and never wrong.
        self._save_if_possible(journal.after(Event.NOT_TAKEN), Event.NOT_TAKEN)
        return replace(failure, retry_after_s=round(wait_s)), wait_s

    @staticmethod
    def _unreachable(error: CloudUnreachableError, companion_time: int) -> Failure:
        clocks_differ = companion_time > 0 and abs(time.time() - companion_time) > _CLOCK_TOLERANCE_S
        if error.certificate_time and clocks_differ:
            return Failure(FailureCode.CLOCK_WRONG)
        return Failure(FailureCode.CLOUD_UNREACHABLE, "certificate" if error.certificate_time else "")

    async def _store(self, credentials: Credentials) -> None:
        """Keep what MODE gave; trying again is all that helps where the disk does not take it."""
        assert self.journal is not None, "only called in phase REDEEMING"
        for attempt in range(5):
            try:
                self._folder.write_credentials(credentials)
                break
            except StorageError as e:
                self._report(Progress("cannot store the credentials", str(e)))
                await asyncio.sleep(2**attempt / 4)
        else:
            # The key is lost, and a device without a holder of its key is in the home: nobody but the user can tell.
            # The file may be there all the same, where only the folder could not be synced.
            with contextlib.suppress(StorageError):
                self._folder.erase_credentials()
            self._lose("the credentials could not be stored", "storage failed")
            return
        self.credentials = credentials
        # Where it cannot be saved a restart sees REDEEMING with credentials, which means the same.
        stored = self.journal.after(Event.CREDENTIALS_STORED, device_id=credentials.device_id)
        self._save_if_possible(stored, Event.CREDENTIALS_STORED)
        self._report(Progress("stored", "credentials are on disk", credentials.device_id))

    def _fail(self, failure: Failure) -> None:
        self._end(Event.REFUSED, failure)
        self._report(Progress("failed", f"{failure.code.name.lower().replace('_', ' ')} {failure.reason}".strip()))

    def _lose(self, why: str, reason: str) -> None:
        self._end(Event.UNANSWERED, Failure(FailureCode.OUTCOME_UNKNOWN, reason))
        self._report(Progress("outcome unknown", why))

    def _end(self, event: Event, failure: Failure) -> None:
        assert self.journal is not None, "only called while there is a token"
        ended = self.journal.after(event, failure=failure)
        try:
            self._save(ended, event)
        except StorageError:
            # What is on disk may stay REDEEMING: it means the same after a restart, or worse. But RECEIVED would be
            # redeemed then, and nothing may be after a companion heard of the end. Erasing needs no space; where even
            # that fails the error ends the process, and nobody hears of anything.
            if self.phase is Phase.RECEIVED:
                self._folder.erase_onboarding()
            self._adopt(ended, event)

    # Announcing -------------------------------------------------------------------------------------------------------

    async def _announce(self, api: "DeviceApi") -> None:
        """See that MODE accepts the key, tell the companion, and trigger the event, for as long as it takes."""
        credentials = self.credentials
        assert credentials is not None, "phase STORED has credentials"
        pause = _FIRST_PAUSE_S
        while self.journal is not None and self.phase is Phase.STORED and not self.journal.was_removed:
            try:
                await self._announce_once(api, credentials, self.journal)
            except (CloudError, StorageError) as e:
                waiting = "cannot write the journal" if isinstance(e, StorageError) else "waiting for MODE"
                self._report(Progress(waiting, str(e)))
                await asyncio.sleep(_jittered(pause))
                pause = min(pause * 2, _LONGEST_ANNOUNCE_PAUSE_S)

    async def _announce_once(self, api: "DeviceApi", credentials: Credentials, journal: Journal) -> None:
        if not self._verified:
            if not await api.accepts(credentials.device_id, credentials.api_key):
                self._mark_removed(journal)
                return
            self._verified = True
            self._changed(None)
        if not self._event_sent:
            await trigger_event(api, credentials, self._config, self._report)
            self._event_sent = True
        self._save(journal.after(Event.ANNOUNCED), Event.ANNOUNCED)
        self._report(Progress("provisioned", "announced to MODE", credentials.device_id))

    async def _check_key(self, api: "DeviceApi") -> None:
        """See once after a start whether the device was removed in MODE, or is known there after all."""
        credentials, journal = self.credentials, self.journal
        assert journal is not None, "only called in the phases with credentials"
        assert credentials is not None, "only called in the phases with credentials"
        pause = _FIRST_PAUSE_S
        while True:
            try:
                accepted = await api.accepts(credentials.device_id, credentials.api_key)
                if not accepted and not journal.was_removed:
                    self._mark_removed(journal)
                elif not accepted:
                    self._report(Progress("removed in MODE", RUN_RESET, credentials.device_id))
                elif journal.was_removed:
                    self._save(journal.after(Event.KEY_ACCEPTED), Event.KEY_ACCEPTED)
            except (CloudError, StorageError) as e:
                _log.debug("not checked: %s", type(e).__name__)
                await asyncio.sleep(_jittered(pause))
                pause = min(pause * 2, _LONGEST_CHECK_PAUSE_S)
            else:
                return

    def _mark_removed(self, journal: Journal) -> None:
        refused = journal.after(Event.KEY_REFUSED, failure=Failure(FailureCode.CREDENTIALS_REFUSED))
        self._save(refused, Event.KEY_REFUSED)
        self._report(Progress("removed in MODE", RUN_RESET, journal.device_id))


async def trigger_event(
    api: "DeviceApi", credentials: Credentials, config: Config, report: Callable[[Progress], None]
) -> None:
    """Trigger the device's event, once.

    Raises:
        CloudError: It cannot be triggered now; that MODE does not want it is only reported.
    """
    try:
        await api.trigger_event(
            credentials.device_id, credentials.api_key, config.event, {"deviceClass": config.device_class}
        )
    except CloudRefusedError as e:
        # The device is provisioned all the same; the companion looks into the home when no event comes.
        report(Progress("event refused", bounded_reason(e.reason), credentials.device_id))


def _consistent(folder: StateFolder, journal: Journal | None, credentials: Credentials | None) -> Journal | None:
    """Refuse a journal of credentials that are not there, which no crash leaves behind."""
    if journal is None or journal.device_id is None:
        return journal
    if credentials is None or credentials.device_id != journal.device_id:
        raise StorageError(
            f"the journal in {folder.path} is about credentials that are not there; {RUN_RESET}, or put them back"
        )
    return journal


def _jittered(pause: float) -> float:
    """Somewhat less than this pause, so that devices that lost MODE together do not come back together."""
    import random

    return pause * random.uniform(0.5, 1)  # noqa: S311 no secret
