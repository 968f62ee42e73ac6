"""One device's onboarding: the protocol machine, the journal, the GATT server and MODE, wired together.

Nothing here decides what a message or a phase means; `bletoken.protocol` and `redemption` do.
"""

import asyncio
import contextlib
import importlib
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Final

from bletoken.errors import (
    BletokenError,
    IdentifyError,
    RadioUnavailableError,
    RemoteProtocolError,
    StorageError,
    UsageError,
)
from bletoken.protocol.guesses import GuessRecord
from bletoken.protocol.setup_code import AdvertName, Entropy
from bletoken.protocol.wire import (
    Action,
    AskStatus,
    Claim,
    CoarseState,
    Done,
    Failed,
    FailureCode,
    Identify,
    Idle,
    Provision,
    Provisioned,
    Request,
    Status,
    Unlock,
    token_ref,
)
from bletoken_peripheral import control, identification, redemption
from bletoken_peripheral.config import Config
from bletoken_peripheral.control import Command
from bletoken_peripheral.gatt_server import GattServer
from bletoken_peripheral.progress import Progress
from bletoken_peripheral.redeemer import RUN_RESET, Redeemer, trigger_event
from bletoken_peripheral.redemption import Event, Phase
from bletoken_peripheral.store import StateFolder

if TYPE_CHECKING:
    from bletoken.protocol.device import DeviceMachine, Output, SessionId
    from bletoken_peripheral.claiming import Claiming, ClaimRecord

_log = logging.getLogger(__name__)

_MOST_WAITING_MESSAGES: Final = 4
"""Messages of one companion that wait to be looked at: a companion that keeps to the protocol has one."""

_LAST_ANSWER_S: Final = 60
"""Seconds for which a device still answers, whatever its window, when it has something to tell.

That is after each step of a token, and after the start of a provisioned device: the power may have gone just before
the companion heard.
"""

LONGEST_NAP_S: Final = 30
"""Seconds after which an open window is looked at again, where nobody calls `Onboarding.awake` as often.

The loop's clock stops while the device sleeps, the boot clock does not: a window that ends meanwhile is closed so late.
"""


class Onboarding:
    """The onboarding of one device.

    Args:
        config: The configuration.
        folder: The state folder, locked.
        report: Is told of progress.
        ready: Is called each time a companion can find the device, and each time there is no window for that.
        is_woken: Whether somebody calls `awake` every `LONGEST_NAP_S` seconds or more often.
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
        ready: Callable[[], None] = lambda: None,
        is_woken: bool = False,
        entropy: Entropy = os.urandom,
    ) -> None:
        label = folder.read_label()
        if label is None:
            raise UsageError(f"there is no setup code in {folder.path}; run: bletoken-peripheral init")
        self._config = config
        self._folder = folder
        self._tell_caller = report
        self._ready = ready
        self._is_woken = is_woken
        self._caller_failed: asyncio.Future[None] | None = None
        self._entropy = entropy
        self._label = label
        self._redeemer = Redeemer(
            config,
            folder,
            report=self._report,
            changed=self._redemption_changed,
            reminded=self._tell_watchers,
            clock=_now,
        )
        self._claiming = self._claiming_of(folder.read_claim())
        failures = folder.read_failures()
        self._guesses = None if failures is None else GuessRecord.after_boot(failures, _now())
        self._server: GattServer | None = None
        self._watchers: dict[SessionId, int] = {}
        self._messages: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self._waiting: Counter[str] = Counter()
        self._radio_lost = False
        self._window_until = 0.0
        self._linger_until = 0.0
        self._claim_window_until = 0.0
        self._identify: asyncio.Queue[tuple[SessionId, int]] = asyncio.Queue(1)
        self._is_identifying = False
        self._changed = asyncio.Event()
        self._on_air = asyncio.Event()
        self._deadlines = asyncio.Event()

    @cached_property
    def _machine(self) -> "DeviceMachine":
        """What answers companions, made when the first of them connects: who waits for one gets by with less memory.

        That one hardly waits for it: it looks which services there are, before it reads or writes.
        """
        from bletoken.protocol.device import DeviceMachine

        return DeviceMachine(
            self._label,
            guesses=self._guesses,
            save_guesses=lambda record: self._folder.write_failures(record.failures),
            entropy=self._entropy,
            actions=self._actions(),
            state=self._coarse_state(),
            device_class=self._config.device_class,
        )

    @property
    def _made_machine(self) -> "DeviceMachine | None":
        """It, unless no companion ever came: for whoever has something to tell it, and no reason to make it."""
        return self.__dict__.get("_machine")

    async def run(self) -> None:
        """Serve companions until cancelled. A request to MODE that is under way is finished first.

        Raises:
            RadioUnavailableError: The radio cannot be used.
            StorageError: The state cannot be written.
        """
        self._redeemer.resume()
        window_s = self._config.window_s
        if self._redeemer.phase is Phase.ANNOUNCED or (self._redeemer.phase is None and self._is_provisioned):
            self._report(Progress("already provisioned", device_id=self._device_id))
            window_s = min(_LAST_ANSWER_S, self._config.announced_window_s)
        self._window_until = _now() + window_s
        if self._claiming is not None and self._is_first_window(self._claiming):
            # The first start is a person's doing; after that power alone opens nothing that a claim could use.
            self._claim_window_until = self._window_until
        try:
            async with asyncio.TaskGroup() as tasks:
                self._caller_failed = asyncio.get_running_loop().create_future()
                tasks.create_task(_raise_what_comes_of(self._caller_failed))
                tasks.create_task(control.serve(self._folder.path, self._command))
                tasks.create_task(self._serve_radio())
                tasks.create_task(self._serve_messages())
                tasks.create_task(self._serve_identify())
                tasks.create_task(self._watch_deadlines())
                tasks.create_task(self._serve_mode())
        except BaseExceptionGroup as group:
            raise self._worst_of(group) from None

    def awake(self) -> None:
        """Look whether an open window has ended: this process is awake anyway, and may have slept long."""
        if self._server is not None:
            self._changed.set()

    def _report(self, progress: Progress) -> None:
        """Tell the caller. What it raises ends `run`, and never the radio's or the journal's own doings."""
        try:
            self._tell_caller(progress)
        except Exception as error:
            if self._caller_failed is None:
                raise
            self._end_with(error)

    def _end_with(self, error: Exception) -> None:
        """Have `run` raise this."""
        if self._caller_failed is not None and not self._caller_failed.done():
            self._caller_failed.set_exception(error)

    def _worst_of(self, group: BaseExceptionGroup[BaseException]) -> BaseException:
        """The one error that ends the process; the others are reported. A defect of ours hides none of them."""
        if group.split(BletokenError)[1] is not None:
            return group
        errors = sorted(_leaves(group), key=lambda error: not isinstance(error, StorageError))
        for error in errors[1:]:
            self._report(Progress("failed", str(error)))
        return errors[0]

    # Local commands --------------------------------------------------------------------------------------------------

    def _command(self, command: Command, number: int) -> dict[str, object]:
        match command:
            case Command.OPEN:
                return {"window_s": self._open()}
            case Command.UNLOCK:
                self._folder.forget_failures()
                self._unlocked()
                return {}
            case Command.STATUS:
                wait_s = self._pin_wait_s()
                return {
                    "window_s": max(0, round(self._window_s())),
                    "pin_wait_s": None if math.isinf(wait_s) else math.ceil(wait_s),
                    "claim_window_s": max(0, round(self._claim_window_until - _now())),
                    "claim_mode_s": 0 if self._claiming is None else round(self._claiming.on_s),
                    "key_refused": self._claiming is not None and self._claiming.key_refused,
                }
            case Command.CLAIM:
                if self._claiming is not None:
                    self._claiming.turned_on(number)
                return {}

    def _open(self) -> int:
        provisioned = self._coarse_state() is CoarseState.PROVISIONED
        window_s = max(self._config.announced_window_s, _LAST_ANSWER_S) if provisioned else self._config.window_s
        self._window_until = max(self._window_until, _now() + window_s)
        if self._claiming is not None:
            self._claim_window_until = max(self._claim_window_until, _now() + self._config.window_s)
            # Whoever opens it may have taken the device out of its home just now.
            self._claiming.look()
        self._changed.set()
        self._report(Progress("window opened", f"for {window_s} s"))
        return window_s

    def _pin_wait_s(self) -> float:
        if self._made_machine is not None:
            return self._made_machine.pin_wait_s(_now())
        return math.inf if self._guesses is None else self._guesses.wait_s(_now())

    def _unlocked(self) -> None:
        """Go on from the record that is on disk by now."""
        self._guesses = GuessRecord(0, _now())
        if self._made_machine is not None:
            self._made_machine.unlock(self._guesses)
        self._report(Progress("PIN unlocked"))

    # The radio -------------------------------------------------------------------------------------------------------

    async def _serve_radio(self) -> None:
        while True:
            # Cleared before it is looked at: what happens from here on is not missed.
            self._changed.clear()
            if self._window_s() > 0:
                await self._serve_window()
                self._report(Progress("window closed", "no longer advertising"))
                continue
            # Without a window there is no radio, and nothing keeps MODE's library from being loaded.
            self._is_on_air()
            await self._changed.wait()

    async def _serve_window(self) -> None:
        nonce = self._entropy(2)
        name = self._advert_name(nonce)
        try:
            async with GattServer(self._config.radio, name, self) as self._server:
                self._report(Progress("advertising", name))
                self._is_on_air()
                while (left := self._window_s()) > 0:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(left if self._is_woken else min(left, LONGEST_NAP_S)):
                            await self._changed.wait()
                    self._changed.clear()
                    if self._radio_lost:
                        raise RadioUnavailableError(f"the radio {self._config.radio!r} is gone")
                    if (now_named := self._advert_name(nonce)) != name:
                        name = now_named
                        await self._server.rename(name)
        finally:
            self._server = None

    def _is_on_air(self) -> None:
        self._on_air.set()
        self._ready()

    def _is_first_window(self, claiming: "Claiming") -> bool:
        try:
            return claiming.open_first_window()
        except StorageError as e:
            self._report(Progress("cannot write the record", str(e)))
            return False

    def _window_s(self) -> float:
        is_redeeming = self._redeemer.phase in (Phase.RECEIVED, Phase.REDEEMING)
        if is_redeeming or (self._claiming is not None and self._claiming.is_asked):
            # Who waits for the outcome is not cut off; the redemption has an end of its own.
            return self._config.retry_s
        return max(self._window_until, self._linger_until) - _now()

    def _advert_name(self, nonce: bytes) -> str:
        return str(AdvertName(self._coarse_state().letter, self._label.qr.advert_tag(nonce)))

    def connected(self, peer: str) -> None:
        """See `gatt_server.Companions`."""
        try:
            self._machine.connected(peer, _now())
        except Exception as error:  # noqa: BLE001 told to whoever runs this
            # A device that can answer nobody (it was updated under the running program, say) must not stay on the air.
            self._end_with(error)
            return
        self._deadlines.set()
        self._report(Progress("companion connected"))

    def disconnected(self, peer: str) -> None:
        """See `gatt_server.Companions`."""
        if self._made_machine is not None:
            self._made_machine.disconnected(peer)
        self._watchers = {session: re for session, re in self._watchers.items() if session.peer != peer}
        if self._claiming is not None:
            self._claiming.left(peer)
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
                if self._waiting[peer] >= _MOST_WAITING_MESSAGES:
                    from bletoken.protocol.device import TooManyMessagesError

                    raise TooManyMessagesError("too many messages at once", att_error_hint=0x85)
                self._waiting[peer] += 1
                self._messages.put_nowait((peer, message))
        except RemoteProtocolError as e:
            self._carry_out(self._machine.frame_refused(peer, e))
            raise

    def radio_lost(self) -> None:
        """See `gatt_server.Companions`."""
        self._radio_lost = True
        self._changed.set()

    def radio_away(self, why: str) -> None:
        """See `gatt_server.Companions`."""
        self._report(Progress("radio away", why))

    def radio_back(self) -> None:
        """See `gatt_server.Companions`."""
        self._report(Progress("radio back", "advertising again"))

    async def _serve_messages(self) -> None:
        while True:
            peer, message = await self._messages.get()
            self._waiting -= Counter([peer])
            self._carry_out(self._machine.message_received(peer, message, _now()))
            await self._drop_overdue()

    async def _watch_deadlines(self) -> None:
        # Before the first companion comes nothing is due.
        due: float | None = None
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else max(0, due - _now())):
                    await self._deadlines.wait()
            self._deadlines.clear()
            await self._drop_overdue()
            due = self._machine.next_timeout

    async def _drop_overdue(self) -> None:
        from bletoken.protocol.device import Drop

        for output in self._machine.timeouts(_now()):
            if isinstance(output, Drop) and self._server is not None:
                self._report(Progress("companion dropped", "it did not prove that it knows the setup code"))
                await self._server.disconnect(output.peer)

    def _carry_out(self, outputs: "list[Output]") -> None:
        from bletoken.protocol.device import Requested, Send

        for output in outputs:
            if isinstance(output, Send) and self._server is not None:
                self._server.send(output.peer, output.message)
            elif isinstance(output, Requested):
                self._requested(output.session, output.counter, output.request)

    def _tell(self, session: "SessionId", status: Status) -> None:
        self._carry_out(self._machine.send(session, status))

    # Requests --------------------------------------------------------------------------------------------------------

    def _requested(self, session: "SessionId", counter: int, request: Request) -> None:
        match request:
            case Provision():
                self._provision(session, counter, request)
            case AskStatus():
                self._tell(session, self._status(counter))
            case Identify():
                self._asked_to_identify(session, counter)
            case Unlock():
                self._asked_to_unlock(session, counter)
            case Claim():
                self._asked_to_claim(session, counter, request)

    def _provision(self, session: "SessionId", counter: int, request: Provision) -> None:
        # When the window has closed it only tells its last outcome: token after token would keep it on the air.
        refused = self._redeemer.take(request, is_open=_now() < self._window_until)
        if refused is not None:
            self._tell(session, Failed(counter, token_ref(request.token), code=refused))
            return
        self._watchers[session] = counter
        self._tell(session, self._status(counter))

    def _asked_to_identify(self, session: "SessionId", counter: int) -> None:
        if self._is_identifying:
            # It is showing itself already, which is what was asked for.
            self._tell(session, Done(counter))
            return
        self._is_identifying = True
        self._identify.put_nowait((session, counter))

    async def _serve_identify(self) -> None:
        while True:
            session, counter = await self._identify.get()
            answered = False

            def started(session: "SessionId" = session, counter: int = counter) -> None:
                nonlocal answered
                answered = True
                self._report(Progress("identifying"))
                self._tell(session, Done(counter))

            try:
                await identification.run(self._config.identify_command, started=started)
            except IdentifyError as e:
                self._report(Progress("identifying failed", str(e)))
                if not answered:
                    self._tell(session, Failed(counter, code=FailureCode.NOT_ALLOWED, reason="it cannot be run"))
            finally:
                self._is_identifying = False

    def _asked_to_claim(self, session: "SessionId", counter: int, request: Claim) -> None:
        if self._claiming is None or _now() >= self._claim_window_until:
            self._tell(session, Failed(counter, code=FailureCode.NOT_ALLOWED, reason="its window is closed"))
            return
        # Should the link be lost, the companion asks again.
        self._linger_until = _now() + _LAST_ANSWER_S
        self._claiming.ask(session, counter, request.duration_s)

    def _asked_to_unlock(self, session: "SessionId", counter: int) -> None:
        if self._folder.read_failures() is None:
            # Nobody knows how often the PIN was tried, or why the record is gone; that is for somebody at the device.
            self._tell(session, Failed(counter, code=FailureCode.NOT_ALLOWED, reason="unlock it on the device"))
            return
        try:
            self._folder.write_failures(0)
        except StorageError as e:
            self._report(Progress("cannot unlock the PIN", str(e)))
            self._tell(session, Failed(counter, code=FailureCode.STORAGE_FAILED))
            return
        self._unlocked()
        self._tell(session, Done(counter))

    def _status(self, re: int) -> Status:
        if (told := self._redeemer.status(re)) is not None:
            return told
        if self._claiming is not None and self._claiming.key_refused:
            return Failed(re, code=FailureCode.CREDENTIALS_REFUSED)
        if self._claiming is not None and self._claiming.is_claimed:
            return Provisioned(re, device_id=self._device_id or 0)
        return Idle(re, state=self._coarse_state())

    def _actions(self) -> tuple[Action, ...]:
        offered = {
            Action.PROVISION: self._claiming is None,
            Action.CLAIM: self._claiming is not None,
            Action.IDENTIFY: bool(self._config.identify_command),
            Action.STATUS: True,
            Action.UNLOCK: self._label.pin is not None,
        }
        return tuple(action for action, is_offered in offered.items() if is_offered)

    # What is known of the device -------------------------------------------------------------------------------------

    @property
    def _device_id(self) -> int | None:
        return self._redeemer.credentials.device_id if self._redeemer.credentials else None

    @property
    def _is_provisioned(self) -> bool:
        return self._device_id is not None and (self._claiming is None or self._claiming.is_claimed)

    def _coarse_state(self) -> CoarseState:
        return redemption.coarse_state(
            self._redeemer.journal,
            has_credentials=self._device_id is not None,
            is_claimable=self._claiming is not None and not self._claiming.is_claimed,
        )

    # Claim mode ------------------------------------------------------------------------------------------------------

    def _claiming_of(self, record: "ClaimRecord | None") -> "Claiming | None":
        """What a pre-provisioned device has; any other has none."""
        if record is None:
            return None
        credentials = self._redeemer.credentials
        if credentials is None:
            raise StorageError(
                f"{self._folder.path} has a claim code and no device id and key: init was not finished; run it again"
            )
        if self._redeemer.journal is not None:
            raise StorageError(
                f"{self._folder.path} has both a claim code and a token's journal; {RUN_RESET} --erase-key"
            )
        from bletoken_peripheral.claiming import Claiming

        return Claiming(
            record,
            credentials,
            save=self._folder.write_claim,
            tell=self._tell,
            report=self._report,
            changed=self._claim_changed,
            announce=lambda api: trigger_event(api, credentials, self._config, self._report),
            retry_s=self._config.retry_s,
            clock=_now,
        )

    def _claim_changed(self) -> None:
        if self._is_provisioned:
            self._claim_window_until = 0.0
            if self._server is not None:
                self._window_until = _now() + self._config.announced_window_s
        else:
            # Whoever opened it meant this.
            self._window_until = max(self._window_until, self._claim_window_until)
        self._state_changed()

    # What comes of it ------------------------------------------------------------------------------------------------

    def _redemption_changed(self, event: Event | None) -> None:
        announced_until = _now() + self._config.announced_window_s
        if event is Event.CREDENTIALS_STORED:
            self._window_until = max(self._window_until, announced_until)
        elif event is Event.ANNOUNCED:
            self._window_until = announced_until
        self._state_changed()

    def _state_changed(self) -> None:
        if self._server is not None:
            # Only what is open stays open: nothing but a person opens a window.
            self._linger_until = _now() + _LAST_ANSWER_S
        if self._made_machine is not None:
            self._made_machine.set_state(self._coarse_state())
        self._changed.set()
        self._tell_watchers()

    def _tell_watchers(self) -> None:
        for session, re in list(self._watchers.items()):
            self._tell(session, self._status(re))

    async def _serve_mode(self) -> None:
        # Loading an HTTP client takes longer than everything before the first advert, so it comes after that.
        await self._on_air.wait()
        module = await asyncio.to_thread(importlib.import_module, "bletoken.mode.device_api")
        async with module.DeviceApi(self._config.mode_url, ca_file=self._config.mode_ca) as api:
            if self._claiming is not None:
                await self._claiming.run(api)
            await self._redeemer.run(api)


async def _raise_what_comes_of(failed: asyncio.Future[None]) -> None:
    await failed


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error]


def _now() -> float:
    """Seconds of the boot clock: it goes on while the device sleeps, so a delay cannot be slept through."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
