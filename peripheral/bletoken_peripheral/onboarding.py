"""One device's onboarding: the protocol machine, the journal, the GATT server and MODE, wired together.

Nothing here decides what a message or a phase means; `bletoken.protocol` and `redemption` do.
"""

import asyncio
import contextlib
import importlib
import logging
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from bletoken.errors import (
    CloudError,
    CloudNoAnswerError,
    CloudRefusedError,
    CloudRetryLaterError,
    CloudUnreachableError,
    NotSignedInError,
    RadioUnavailableError,
    RemoteProtocolError,
    StorageError,
    UsageError,
)
from bletoken.protocol.device import DeviceMachine, Drop, Output, Requested, Send, SessionId
from bletoken.protocol.guesses import GuessRecord
from bletoken.protocol.setup_code import AdvertName, Entropy
from bletoken.protocol.wire import (
    LONGEST_REASON,
    Action,
    AskStatus,
    CoarseState,
    Failed,
    FailureCode,
    Idle,
    Provision,
    Provisioned,
    Request,
    Status,
    token_ref,
)
from bletoken_peripheral import redemption
from bletoken_peripheral.config import Config
from bletoken_peripheral.gatt_server import GattServer
from bletoken_peripheral.redemption import Event, Failure, Journal, Phase
from bletoken_peripheral.store import Credentials, StateFolder

if TYPE_CHECKING:
    from bletoken.mode.device_api import DeviceApi

_log = logging.getLogger(__name__)

_ACTIONS: Final = (Action.PROVISION, Action.STATUS)
_MOST_WAITING_MESSAGES: Final = 32
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 10.0
_LONGEST_ANNOUNCE_PAUSE_S: Final = 60.0
_CLOCK_TOLERANCE_S: Final = 86400
_LAST_ANSWER_S: Final = 60
"""Seconds after its start for which a provisioned device answers: the power may go just before a companion hears."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Something happened that a person watching the device wants to know.

    Attributes:
        step: What, in a word or two.
        detail: More, for people; empty for none.
        device_id: MODE's id of the device, once there is one.
    """

    step: str
    detail: str = ""
    device_id: int | None = None


class Onboarding:
    """The onboarding of one device.

    Args:
        config: The configuration.
        folder: The state folder, locked.
        report: Is told of progress.
        entropy: Fresh random octets.

    Raises:
        UsageError: The device has no setup code yet.
        StorageError: The state cannot be read.
    """

    def __init__(
        self,
        config: Config,
        folder: StateFolder,
        *,
        report: Callable[[Progress], None],
        entropy: Entropy = secrets.token_bytes,
    ) -> None:
        label = folder.read_label()
        if label is None:
            raise UsageError(f"there is no setup code in {folder.path}; run: bletoken-peripheral init")
        self._config = config
        self._folder = folder
        self._report = report
        self._entropy = entropy
        self._label = label
        self._credentials = folder.read_credentials()
        self._journal = folder.read_journal()
        self._verified = False
        failures = folder.read_failures()
        self._machine = DeviceMachine(
            label,
            guesses=None if failures is None else GuessRecord.after_boot(failures, _now()),
            save_guesses=lambda record: folder.write_failures(record.failures),
            entropy=entropy,
            actions=_ACTIONS,
            state=self._coarse_state(),
            device_class=config.device_class,
        )
        self._server: GattServer | None = None
        self._watchers: dict[SessionId, int] = {}
        self._messages: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(_MOST_WAITING_MESSAGES)
        self._radio_lost = False
        self._window_until = 0.0
        self._changed = asyncio.Event()
        self._work = asyncio.Event()
        self._on_air = asyncio.Event()
        self._deadlines = asyncio.Event()

    async def run(self) -> None:
        """Serve companions until cancelled. A request to MODE that is under way is finished first.

        Raises:
            RadioUnavailableError: The radio cannot be used.
            StorageError: The state cannot be written.
        """
        resumed = redemption.resume(self._journal, self._device_id)
        if resumed is not None and resumed is not self._journal:
            self._save(resumed)
        window_s = self._config.window_s
        if self._phase is Phase.ANNOUNCED:
            self._report(Progress("already provisioned", device_id=self._device_id))
            window_s = min(_LAST_ANSWER_S, self._config.announced_window_s)
        self._window_until = _now() + window_s
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._serve_radio())
                tasks.create_task(self._serve_messages())
                tasks.create_task(self._watch_deadlines())
                tasks.create_task(self._serve_redemption())
        except* (RadioUnavailableError, StorageError, UsageError) as group:
            raise group.exceptions[0] from None

    # The radio -------------------------------------------------------------------------------------------------------

    async def _serve_radio(self) -> None:
        while True:
            if self._window_s() > 0:
                await self._serve_window()
                self._report(Progress("window closed", "no longer advertising"))
            # Without a window there is no radio, and nothing keeps MODE's library from being loaded.
            self._on_air.set()
            self._changed.clear()
            await self._changed.wait()

    async def _serve_window(self) -> None:
        nonce = self._entropy(2)
        name = self._advert_name(nonce)
        async with GattServer(self._config.radio, name, self) as self._server:
            self._report(Progress("advertising", name))
            self._on_air.set()
            while (left := self._window_s()) > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._changed.wait()
                self._changed.clear()
                if self._radio_lost:
                    raise RadioUnavailableError(f"the radio {self._config.radio!r} is gone")
                if (now_named := self._advert_name(nonce)) != name:
                    name = now_named
                    await self._server.rename(name)
        self._server = None

    def _window_s(self) -> float:
        if self._phase in (Phase.RECEIVED, Phase.REDEEMING):
            return self._config.retry_s
        return self._window_until - _now()

    def _keep_window_open(self) -> None:
        self._window_until = max(self._window_until, _now() + self._config.announced_window_s)

    def _advert_name(self, nonce: bytes) -> str:
        return str(AdvertName(self._machine.state.letter, self._label.qr.advert_tag(nonce)))

    def connected(self, peer: str) -> None:
        """See `gatt_server.Companions`."""
        self._machine.connected(peer, _now())
        self._deadlines.set()
        self._report(Progress("companion connected"))

    def disconnected(self, peer: str) -> None:
        """See `gatt_server.Companions`."""
        self._machine.disconnected(peer)
        self._watchers = {session: re for session, re in self._watchers.items() if session.peer != peer}
        self._report(Progress("companion left"))

    def hello(self, peer: str) -> bytes:
        """See `gatt_server.Companions`."""
        value = self._machine.hello(peer)
        asyncio.get_running_loop().call_soon(self._machine.replenish, peer)
        return value

    def token_written(self, peer: str, frame: bytes) -> None:
        """See `gatt_server.Companions`."""
        try:
            message = self._machine.frame_received(peer, frame, _now())
            if message is not None:
                self._messages.put_nowait((peer, message))
        except asyncio.QueueFull:
            raise RemoteProtocolError("too many messages at once", att_error_hint=0x85) from None
        except RemoteProtocolError as e:
            self._carry_out(self._machine.frame_refused(peer, e))
            raise

    def radio_lost(self) -> None:
        """See `gatt_server.Companions`."""
        self._radio_lost = True
        self._changed.set()

    async def _serve_messages(self) -> None:
        while True:
            peer, message = await self._messages.get()
            self._carry_out(self._machine.message_received(peer, message, _now()))
            await self._drop_overdue()

    async def _watch_deadlines(self) -> None:
        while True:
            due = self._machine.next_timeout
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else max(0, due - _now())):
                    await self._deadlines.wait()
            self._deadlines.clear()
            await self._drop_overdue()

    async def _drop_overdue(self) -> None:
        for output in self._machine.timeouts(_now()):
            if isinstance(output, Drop) and self._server is not None:
                self._report(Progress("companion dropped", "it did not prove that it knows the setup code"))
                await self._server.disconnect(output.peer)

    def _carry_out(self, outputs: list[Output]) -> None:
        for output in outputs:
            if isinstance(output, Send) and self._server is not None:
                self._server.send(output.peer, output.message)
            elif isinstance(output, Requested):
                self._requested(output.session, output.counter, output.request)

    def _tell(self, session: SessionId, status: Status) -> None:
        self._carry_out(self._machine.send(session, status))

    # Requests --------------------------------------------------------------------------------------------------------

    def _requested(self, session: SessionId, counter: int, request: Request) -> None:
        match request:
            case Provision():
                self._provision(session, counter, request)
            case AskStatus():
                self._tell(session, self._status(counter))
            case _:
                self._tell(session, Failed(counter, code=FailureCode.NOT_ALLOWED))

    def _provision(self, session: SessionId, counter: int, request: Provision) -> None:
        taken = redemption.take(self._journal, request, has_credentials=self._credentials is not None)
        if isinstance(taken, FailureCode):
            self._tell(session, Failed(counter, token_ref(request.token), code=taken))
            return
        if taken is not self._journal:
            try:
                self._save(taken)
            except StorageError as e:
                self._report(Progress("failed", str(e)))
                self._tell(session, Failed(counter, taken.token_ref, code=FailureCode.STORAGE_FAILED))
                return
            self._report(Progress("token accepted"))
            self._work.set()
        self._watchers[session] = counter
        self._tell(session, self._status(counter))

    def _status(self, re: int) -> Status:
        journal = self._journal
        if journal is None:
            return Idle(re, state=self._machine.state)
        if journal.phase is Phase.STORED and self._verified:
            return Provisioned(re, journal.token_ref, device_id=journal.device_id or 0)
        return journal.status(re)

    # The journal -----------------------------------------------------------------------------------------------------

    @property
    def _phase(self) -> Phase | None:
        return self._journal.phase if self._journal else None

    @property
    def _device_id(self) -> int | None:
        return self._credentials.device_id if self._credentials else None

    def _coarse_state(self) -> CoarseState:
        return redemption.coarse_state(self._journal, has_credentials=self._credentials is not None)

    def _save(self, journal: Journal) -> None:
        """Make a journal durable; only then does anybody hear of it."""
        self._folder.write_journal(journal)
        self._adopt(journal)

    def _adopt(self, journal: Journal) -> None:
        self._journal = journal
        self._journal_changed()

    def _journal_changed(self) -> None:
        self._machine.set_state(self._coarse_state())
        self._changed.set()
        for session, re in list(self._watchers.items()):
            self._tell(session, self._status(re))

    async def _serve_redemption(self) -> None:
        # Loading an HTTP client takes longer than everything before the first advert, so it comes after that.
        await self._on_air.wait()
        module = await asyncio.to_thread(importlib.import_module, "bletoken.mode.device_api")
        async with module.DeviceApi(self._config.mode_url, ca_file=self._config.mode_ca) as api:
            while True:
                if self._phase is Phase.RECEIVED:
                    await self._redeem(api)
                if self._phase is Phase.STORED:
                    await self._announce(api)
                await self._work.wait()
                self._work.clear()

    async def _redeem(self, api: "DeviceApi") -> None:
        """Redeem the token in the journal, however often MODE provably did not take it, until its time is over."""
        assert self._journal is not None, "only called in phase RECEIVED"
        expires_in_s = self._journal.expires_in_s or self._config.retry_s
        give_up_at = _now() + min(expires_in_s, self._config.retry_s)
        pause = _FIRST_PAUSE_S
        while True:
            failure, wait_s = await self._redeem_once(api)
            if failure is None:
                return
            wait_s = max(wait_s, pause * random.uniform(0.5, 1))  # noqa: S311 jitter, not a secret
            if _now() + wait_s >= give_up_at:
                expired = expires_in_s <= self._config.retry_s and self._journal.expires_in_s > 0
                self._fail(Failure(FailureCode.TOKEN_EXPIRED) if expired else failure)
                return
            self._report(
                Progress("waiting for MODE", f"{failure.reason or failure.code.name}; next try in {wait_s:.0f} s")
            )
            await asyncio.sleep(wait_s)
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    async def _redeem_once(self, api: "DeviceApi") -> tuple[Failure | None, float]:
        """One request. Returns why MODE did not take the token and the seconds to wait, or (None, 0) at an end."""
        journal = self._journal
        assert journal is not None, "only called in phase RECEIVED"
        assert journal.token is not None, "phase RECEIVED has the token"
        try:
            self._save(journal.after(Event.SENDING))
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
        journal = self._journal
        assert journal is not None, "only called in phase REDEEMING"
        try:
            answer = await api.redeem(token)
        except CloudUnreachableError as e:
            return self._postpone(journal, self._unreachable(e, journal.companion_time), 0)
        except CloudRetryLaterError as e:
            return self._postpone(journal, Failure(FailureCode.CLOUD_ERROR, _reason(e.reason)), e.retry_after_s or 0)
        except CloudRefusedError as e:
            self._fail(Failure(FailureCode.TOKEN_REFUSED, _reason(e.reason or f"HTTP {e.status}")))
        except CloudNoAnswerError as e:
            self._lose(str(e), f"HTTP {e.status}" if e.status else "no answer")
        else:
            await self._store(Credentials(answer.device_id, answer.api_key, self._config.mode_url))
        return None, 0

    def _postpone(self, journal: Journal, failure: Failure, wait_s: float) -> tuple[Failure | None, float]:
        again = journal.after(Event.NOT_TAKEN)
        try:
            self._save(again)
        except StorageError as e:
            # On disk the outcome stays unknown, which is worse than true and never wrong; here we know better.
            self._report(Progress("cannot write the journal", str(e)))
            self._adopt(again)
        return replace(failure, retry_after_s=round(wait_s)), wait_s

    @staticmethod
    def _unreachable(error: CloudUnreachableError, companion_time: int) -> Failure:
        clocks_differ = companion_time > 0 and abs(time.time() - companion_time) > _CLOCK_TOLERANCE_S
        if error.certificate_time and clocks_differ:
            return Failure(FailureCode.CLOCK_WRONG)
        return Failure(FailureCode.CLOUD_UNREACHABLE, "certificate" if error.certificate_time else "")

    async def _store(self, credentials: Credentials) -> None:
        """Keep what MODE gave; trying again is all that helps where the disk does not take it."""
        assert self._journal is not None, "only called in phase REDEEMING"
        for attempt in range(5):
            try:
                self._folder.write_credentials(credentials)
                break
            except StorageError as e:
                self._report(Progress("cannot store the credentials", str(e)))
                await asyncio.sleep(2**attempt / 4)
        else:
            # The key is lost, and a device without a holder of its key is in the home: nobody but the user can tell.
            self._lose("the credentials could not be stored", "storage failed")
            return
        self._credentials = credentials
        self._keep_window_open()
        self._save(self._journal.after(Event.CREDENTIALS_STORED, device_id=credentials.device_id))
        self._report(Progress("stored", "credentials are on disk", credentials.device_id))

    def _fail(self, failure: Failure) -> None:
        self._end(Event.REFUSED, failure)
        self._report(Progress("failed", f"{failure.code.name.lower().replace('_', ' ')} {failure.reason}".strip()))

    def _lose(self, why: str, reason: str) -> None:
        self._end(Event.UNANSWERED, Failure(FailureCode.OUTCOME_UNKNOWN, reason))
        self._report(Progress("outcome unknown", why))

    def _end(self, event: Event, failure: Failure) -> None:
        assert self._journal is not None, "only called while there is a token"
        ended = self._journal.after(event, failure=failure)
        try:
            self._save(ended)
        except StorageError:
            # What is on disk may stay REDEEMING: it means the same after a restart, or worse. But RECEIVED would be
            # redeemed then, and nothing may be after a companion heard of the end. Erasing needs no space; where even
            # that fails the error ends the process, and nobody hears of anything.
            if self._phase is Phase.RECEIVED:
                self._folder.erase_onboarding()
            self._adopt(ended)

    async def _announce(self, api: "DeviceApi") -> None:
        """See that MODE accepts the key, tell the companion, and trigger the event, for as long as it takes."""
        credentials, journal = self._credentials, self._journal
        assert journal is not None, "only called in phase STORED"
        if credentials is None:
            raise StorageError(f"{self._folder.path} has a journal of credentials that are not there")
        pause = _FIRST_PAUSE_S
        while self._phase is Phase.STORED and self._journal is not None and self._journal.failure is None:
            try:
                if not self._verified:
                    await self._verify(api, credentials)
                if self._verified:
                    await self._trigger_event(api, credentials)
                    self._window_until = _now() + self._config.announced_window_s
                    self._save(journal.after(Event.ANNOUNCED))
                    self._report(Progress("provisioned", "announced to MODE", credentials.device_id))
            except CloudError as e:
                self._report(Progress("waiting for MODE", str(e)))
                await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 jitter, not a secret
                pause = min(pause * 2, _LONGEST_ANNOUNCE_PAUSE_S)

    async def _verify(self, api: "DeviceApi", credentials: Credentials) -> None:
        assert self._journal is not None, "only called in phase STORED"
        try:
            identity = await api.identity(credentials.api_key)
            accepted = identity.type == "device" and identity.device_id == credentials.device_id
        except NotSignedInError:
            accepted = False
        if accepted:
            self._verified = True
            self._journal_changed()
        else:
            self._save(replace(self._journal, failure=Failure(FailureCode.CREDENTIALS_REFUSED)))
            self._report(Progress("failed", "MODE does not accept the credentials", credentials.device_id))

    async def _trigger_event(self, api: "DeviceApi", credentials: Credentials) -> None:
        try:
            await api.trigger_event(
                credentials.device_id,
                credentials.api_key,
                self._config.event,
                {"deviceClass": self._config.device_class},
            )
        except CloudRefusedError as e:
            # The device is provisioned all the same; the companion looks into the home when no event comes.
            self._report(Progress("event refused", _reason(e.reason), credentials.device_id))


def _reason(text: str) -> str:
    return text.encode("utf-8", "replace")[:LONGEST_REASON].decode("utf-8", "ignore")


def _now() -> float:
    """Seconds of the boot clock: it goes on while the device sleeps, so a delay cannot be slept through."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
