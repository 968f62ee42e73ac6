"""The companion as a library: scan, ask a device, push a token, provision or claim a device. It prints nothing.

async with Companion("system", session_key=key) as companion:
    onboarded = await companion.provision(code, home_id=7, device_class="lamp")
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from bletoken.errors import (
    CloudError,
    CloudNoAnswerError,
    CloudRefusedError,
    HandoffTimeoutError,
    NotInHomeError,
    NotSignedInError,
    OutcomeUnknownError,
    StorageError,
    TokenDeniedError,
    UsageError,
)
from bletoken.protocol.setup_code import SetupCode
from bletoken.protocol.wire import (
    LONGEST_CLAIM_S,
    SHORTEST_CLAIM_S,
    Accepted,
    AskStatus,
    Claimable,
    Failed,
    FailureCode,
    Identify,
    Offer,
    Provisioned,
    Redeeming,
    Status,
    Stored,
    token_ref,
)
from bletoken_central import claiming
from bletoken_central.events import Events
from bletoken_central.handoff import (
    ClaimRequest,
    Exchange,
    HandOver,
    Limits,
    Progress,
    Question,
    Report,
    Step,
    Token,
    only_one,
)
from bletoken_central.link import Found, Radio
from bletoken_central.recovery import Note, Notes, new_note

if TYPE_CHECKING:
    from bletoken.mode.models import Device
    from bletoken.mode.user_api import UserApi

T = TypeVar("T")

DEFAULT_MODE_URL: Final = "https://api.tinkermode.com"
"""MODE's own API."""

Choose = Callable[[Sequence["Device"]], Awaitable[int | None]]
"""Asks a person which of these new devices is the one whose key got lost, and may be removed; None for none."""

DEFAULT_CLAIM_S: Final = 300
"""Seconds for which a device may be claimed, unless told otherwise."""

_LATEST: Final = 2**32
"""A second that every platform can show as a date; what a device tells is not to be trusted."""

_HOME_LOOKS: Final = 4
_PAUSES_S: Final = (0.5, 1.0)
"""Seconds before MODE is asked once more what may be asked again, where no usable answer came."""

_AT_WORK_PAUSE_S: Final = 1.0
"""Seconds before a device is asked once more that is at work on the token of an earlier run."""

_LONGEST_NOTE_S: Final = 30 * 86400
_MOST_RECOVERIES: Final = 2


@dataclass(frozen=True, slots=True)
class Info:
    """What a device says of itself.

    Attributes:
        found: Where it was heard.
        offer: Its offer. Anybody could have made it up, unless `status` is there.
        status: Its authenticated status; None without a setup code.
    """

    found: Found
    offer: Offer
    status: Status | None


@dataclass(frozen=True, slots=True)
class Pushed:
    """A token arrived and was redeemed.

    Attributes:
        device_id: MODE's id of the device, as the device told it over the authenticated link.
        elapsed_s: Seconds by phase.
    """

    device_id: int
    elapsed_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class Onboarded:
    """A device is in the home, and MODE says so.

    Attributes:
        device_id: MODE's id of the device.
        home_id: The home.
        event: The type of the event by which the device announced itself; None when none was seen in time.
        device: The device as MODE lists it.
        elapsed_s: Seconds by phase.
    """

    device_id: int
    home_id: int
    event: str | None
    device: "Device"
    elapsed_s: dict[str, float]


class Companion:
    """Finds devices and provisions them; an async context manager.

    Args:
        radio: `system`, `system:<adapter>` (such as `system:hci1`), or `air:...` for the virtual radio.
        session_key: The user's MODE session key; needed to provision. A secret.
        mode_url: MODE's base URL.
        mode_ca: A file of CA certificates to trust for it, instead of the system's.
        report: Is told of progress.
        limits: How long and how often.
        notes: Where notes about tokens are kept; by default in the user's state folder.
        choose: Asks a person where it is not certain what may be removed; by default nothing is.
    """

    def __init__(
        self,
        radio: str = "system",
        *,
        session_key: str | None = None,
        mode_url: str = DEFAULT_MODE_URL,
        mode_ca: Path | None = None,
        report: Report = lambda _: None,
        limits: Limits | None = None,
        notes: Path | None = None,
        choose: Choose | None = None,
    ) -> None:
        self._radio = Radio(radio)
        self._session_key = session_key
        self._mode_url = mode_url
        self._mode_ca = mode_ca
        self._report = report
        self._limits = limits or Limits()
        self._notes_folder = notes
        self._choose = choose
        self._api: UserApi | None = None
        self._open = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        if self._session_key is not None:
            # Scanning and pushing need no HTTP client, and loading one takes a while.
            from bletoken.mode.user_api import UserApi

            api = UserApi(self._mode_url, self._session_key, ca_file=self._mode_ca)
            self._api = await self._open.enter_async_context(api)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.__aexit__(kind, error, trace)

    async def scan(self, seconds: float) -> AsyncGenerator[Found, None]:
        """Each bletoken device in range, once, for so many seconds.

        Who may leave the loop early closes it with `contextlib.aclosing`, so that the radio stops scanning at once.
        """
        seen: set[str] = set()
        ends_at = asyncio.get_running_loop().time() + seconds
        async with self._radio.scan() as heard:
            while True:
                try:
                    # Only waiting is timed: what the caller does with a device must not be cancelled from here.
                    async with asyncio.timeout_at(ends_at):
                        found = await anext(heard)
                except TimeoutError:
                    return
                if found.address not in seen and found.name is not None:
                    seen.add(found.address)
                    yield found

    async def info(self, code: SetupCode | None = None, *, address: str | None = None) -> Info:
        """What a device says of itself.

        Args:
            code: Its setup code; without one, what anybody in the room may know.
            address: Its address, where the code leaves the choice open or there is none.

        Raises:
            BletokenError: As `Exchange.run`.
        """
        if code is not None:
            exchange = self._exchange(code, address, self._report)
            status = await exchange.run(Question(AskStatus()))
            assert exchange.offer is not None, "an answer comes after an offer"
            assert exchange.found is not None, "an answer comes from somewhere"
            return Info(exchange.found, exchange.offer, status)
        self._report(Progress(Step.FINDING))
        if address is None:
            found = await only_one(self._radio, self._limits)
        else:
            found = await self._radio.find(lambda f: f.address.upper() == address.upper(), self._limits.find_s)
        self._report(Progress(Step.CONNECTING, found.address))
        async with self._radio.connect(found) as link:
            return Info(found, Offer.decode(await link.read_hello()), None)

    async def identify(self, code: SetupCode, *, address: str | None = None) -> None:
        """Make the device show itself: blink, beep.

        Args:
            code: Its setup code.
            address: Its address, where a PIN leaves the choice open.

        Raises:
            BletokenError: As `Exchange.run`.
        """
        await self._exchange(code, address, self._report).run(Question(Identify()))

    async def push(self, code: SetupCode, token: Token, *, address: str | None = None) -> Pushed:
        """Hand over a token that is there already.

        Args:
            code: The device's setup code.
            token: The token.
            address: The device's address, where a PIN leaves the choice open.

        Raises:
            BletokenError: As `Exchange.run`.
        """
        watch = _Stopwatch(self._report)
        given = asyncio.get_running_loop().create_future()
        given.set_result(token)
        provisioned = await _hand_over(self._exchange(code, address, watch.report), given)
        return Pushed(provisioned.device_id, watch.elapsed_s())

    async def provision(
        self,
        code: SetupCode,
        *,
        home_id: int | None = None,
        device_class: str,
        tag: str | None = None,
        address: str | None = None,
    ) -> Onboarded:
        """Ask MODE for a token, hand it over, and see the device in the home.

        Where the device says that it got no usable answer from MODE, the device that may have come into the home
        without a holder of its key is removed, if there is no doubt which it is, and all is done once more.

        Args:
            code: The device's setup code.
            home_id: The home; may be left out by a user who has one.
            device_class: MODE's device class of the device.
            tag: The tag the device is to have.
            address: The device's address, where a PIN leaves the choice open.

        Raises:
            BletokenError: As `Exchange.run`.
            OutcomeUnknownError: It is not certain what may be removed.
            NotInHomeError: MODE does not list the device in the home.
            UsageError: There is no session key, or the home is not clear.
        """
        api, watch = self._signed_in(), _Stopwatch(self._report)
        home = await _only_home(api) if home_id is None else home_id
        run = _Provisioning(api, self._notes(), self._mode_url, home, device_class, tag, watch)
        # The same one for all that is asked: a PIN was typed once.
        exchange = self._exchange(code, address, watch.report)
        earlier = await run.look_at_leftovers(lambda: exchange.run(Question(AskStatus())), self._limits.total_s)
        if earlier is not None:
            return await run.end(earlier)
        for recovery in range(_MOST_RECOVERIES + 1):
            try:
                return await run.once(lambda token: _hand_over(exchange, token))
            except OutcomeUnknownError:
                await run.recover(self._choose)
                if recovery == _MOST_RECOVERIES:
                    raise
        raise AssertionError("the last try returns or raises")

    async def claim(
        self,
        code: SetupCode,
        *,
        home_id: int | None = None,
        duration_s: int = DEFAULT_CLAIM_S,
        address: str | None = None,
    ) -> Onboarded:
        """Have a pre-provisioned device turn its claim mode on and tell its claim code, and claim it into the home.

        Args:
            code: The device's setup code.
            home_id: The home; may be left out by a user who has one.
            duration_s: Seconds for which the device may be claimed, 60 to 900.
            address: The device's address, where a PIN leaves the choice open.

        Raises:
            BletokenError: As `Exchange.run` and `claiming.claim`.
            UsageError: There is no session key, or the home or the duration is not usable.
        """
        if not SHORTEST_CLAIM_S <= duration_s <= LONGEST_CLAIM_S:
            raise UsageError(f"a claim mode lasts {SHORTEST_CLAIM_S} to {LONGEST_CLAIM_S} seconds")
        watch = _Stopwatch(self._report)

        async def ask(allowed: asyncio.Future[Any]) -> tuple[str, datetime]:
            status = await self._exchange(code, address, watch.report).run(ClaimRequest(duration_s, allowed))
            assert isinstance(status, Claimable), "nothing else ends a claim request well"
            ends = datetime.fromtimestamp(min(status.until, _LATEST), UTC)
            watch.report(Progress(Step.CLAIMABLE, f"until {ends.astimezone():%H:%M:%S}"))
            return status.claim_code, ends

        return await self._claim(ask, home_id, watch)

    async def claim_typed(self, claim_code: str, *, home_id: int | None = None) -> Onboarded:
        """Claim a device whose claim mode is on already, by its claim code; this needs no Bluetooth.

        Args:
            claim_code: The claim code. A secret.
            home_id: The home; may be left out by a user who has one.

        Raises:
            BletokenError: As `claiming.claim`.
            UsageError: There is no session key, or the home is not clear.
        """

        async def ask(allowed: asyncio.Future[Any]) -> tuple[str, None]:
            await allowed
            return claim_code, None

        return await self._claim(ask, home_id, _Stopwatch(self._report))

    async def _claim(
        self,
        ask: Callable[[asyncio.Future[Any]], Awaitable[tuple[str, datetime | None]]],
        home_id: int | None,
        watch: "_Stopwatch",
    ) -> Onboarded:
        api = self._signed_in()
        home = await _only_home(api) if home_id is None else home_id
        async with Events(api) as events:
            looking = asyncio.create_task(_patiently(lambda: api.devices(home)))
            try:
                claim_code, until = await ask(looking)
                known = frozenset(device.id for device in await looking)
            finally:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)
            await events.ready()
            watch.report(Progress(Step.CLAIMING))
            device = await claiming.claim(api, home, claim_code, known=known, until=until)
            watch.report(Progress(Step.IN_HOME, f"home {home}"))
            event = await events.event_of(device.id)
            watch.report(Progress(Step.EVENT, event or "none came"))
        return Onboarded(device.id, home, event, device, watch.elapsed_s())

    def _signed_in(self) -> "UserApi":
        if self._api is None:
            raise UsageError("this needs the user's MODE session key")
        return self._api

    def _exchange(self, code: SetupCode, address: str | None, report: Report) -> Exchange:
        return Exchange(self._radio, code, address=address, report=report, limits=self._limits)

    def _notes(self) -> Notes:
        if self._notes_folder is None:
            import platformdirs

            self._notes_folder = platformdirs.user_state_path("bletoken") / "tokens"
        return Notes(self._notes_folder)


async def _hand_over(exchange: Exchange, token: asyncio.Future[Token]) -> Provisioned:
    status = await exchange.run(HandOver(token))
    assert isinstance(status, Provisioned), "nothing else ends a hand-off well"
    return status


class _Provisioning:
    """One `provision` call: a token, a hand-off, and what may have to be put right in between."""

    def __init__(
        self,
        api: "UserApi",
        notes: Notes,
        mode_url: str,
        home_id: int,
        device_class: str,
        tag: str | None,
        watch: "_Stopwatch",
    ) -> None:
        self._api = api
        self._notes = notes
        self._mode_url = mode_url
        self._home_id = home_id
        self._device_class = device_class
        self._tag = tag
        self._watch = watch
        self._note: Note | None = None

    async def look_at_leftovers(
        self, ask_device: Callable[[], Awaitable[Status]], patience_s: float
    ) -> Provisioned | None:
        """Put right what earlier runs left in a home, and forget tokens that can bring no device any more.

        Args:
            ask_device: Asks the device what became of its last token. That may be one of an earlier run that ended
                without having heard of it.
            patience_s: Seconds to wait for the outcome of such a token.

        Returns:
            What the earlier run would have heard, where all went well; None where the device needs a token.

        Raises:
            HandoffTimeoutError: The device is still at work on the token of an earlier run.
        """
        unheard: dict[str, Note] = {}
        for note in self._notes.all():
            if note.mode_url != self._mode_url:
                continue
            if await self._is_settled(note):
                self._notes.forget(note)
            elif note.token_ref and not note.outcome_unknown:
                unheard[note.token_ref] = note
        if not unheard:
            return None
        status, about = await self._heard_at_last(ask_device, unheard, patience_s)
        if about is None:
            return None
        match status:
            case Provisioned() if (about.home_id, about.device_class) == (self._home_id, self._device_class):
                self._note = about
                return status
            case Failed(code=FailureCode.OUTCOME_UNKNOWN):
                unknown = replace(about, outcome_unknown=True)
                self._notes.keep(unknown)
                if await self._is_settled(unknown):
                    self._notes.forget(unknown)
            case Failed():
                # The token is gone, and nothing came of it.
                self._notes.forget(about)
        return None

    async def _heard_at_last(
        self, ask_device: Callable[[], Awaitable[Status]], unheard: dict[str, Note], patience_s: float
    ) -> tuple[Status, Note | None]:
        """The device's status, and which of these notes it is about, once the device is at work on none of them."""
        try:
            async with asyncio.timeout(patience_s):
                while True:
                    status = await ask_device()
                    about = unheard.get(status.token_ref.hex()) if status.token_ref else None
                    if about is None or not isinstance(status, Accepted | Redeeming | Stored):
                        return status, about
                    self._watch.report(Progress(Step.WAITING, "an earlier run's token"))
                    await asyncio.sleep(_AT_WORK_PAUSE_S)
        except TimeoutError:
            raise HandoffTimeoutError("the device is still at work on the token of an earlier run; try later") from None

    async def _is_settled(self, note: Note) -> bool:
        """Whether nothing more can come of a token. What came of one of unknown outcome is removed first."""
        now = time.time()
        is_over = note.is_over(now)
        if not note.outcome_unknown and not (is_over and note.token_ref):
            return is_over
        try:
            came = note.came_of(await self._devices(note.home_id))
            if came is None:
                return is_over
            if note.outcome_unknown:
                await self._remove(note.home_id, came.id)
                return True
        except NotSignedInError:
            raise
        except CloudError as e:
            # Another user's home is put right by that user's next run; nor are other homes' troubles this one's.
            if note.home_id == self._home_id and not isinstance(e, CloudRefusedError):
                raise
        # The device knows whether it has the key: it is asked for as long as somebody may come back to it.
        return is_over and now - note.asked_at >= _LONGEST_NOTE_S

    async def once(self, hand_over: Callable[[asyncio.Future[Token]], Awaitable[Provisioned]]) -> Onboarded:
        """Ask for a token, hand it over, see the device in the home."""
        async with Events(self._api) as events:
            asking = asyncio.create_task(self._ask_token(events))
            try:
                return await self.end(await hand_over(asking), events)
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)

    async def end(self, provisioned: Provisioned, events: Events | None = None) -> Onboarded:
        """See the device in the home, and its event come; the event of an earlier run's token came back then."""
        device = await self._device_in_home(provisioned.device_id)
        self._watch.report(Progress(Step.IN_HOME, f"home {self._home_id}"))
        event = await events.event_of(provisioned.device_id) if events else None
        self._watch.report(Progress(Step.EVENT, event or "none came"))
        self._forget_in_passing()
        return Onboarded(provisioned.device_id, self._home_id, event, device, self._watch.elapsed_s())

    def _forget_in_passing(self) -> None:
        """Remove a note that is of no use. Should it stay, a later run finds it of no use as well."""
        if self._note is not None:
            with contextlib.suppress(StorageError):
                self._notes.forget(self._note)

    async def recover(self, choose: Choose | None) -> None:
        """Put right what an unknown outcome may have left in the home.

        Raises:
            OutcomeUnknownError: It is not certain what may be removed, and nobody said.
        """
        assert self._note is not None, "an outcome is unknown only of a token that was asked for"
        self._watch.report(Progress(Step.RECOVERING))
        self._note = note = replace(self._note, outcome_unknown=True)
        self._notes.keep(note)
        devices = await self._devices(self._home_id)
        newcomers = note.newcomers(devices)
        orphan = note.orphan(devices)
        if orphan is not None:
            await self._remove(note.home_id, orphan.id)
        elif note.tag not in [kept.tag for kept in self._notes.all()]:
            # Another run of this user's has put it right meanwhile.
            return
        elif newcomers:
            chosen = await choose(newcomers) if choose is not None else None
            if chosen not in [device.id for device in newcomers]:
                listed = ", ".join(str(device.id) for device in newcomers[:10])
                raise OutcomeUnknownError(
                    f"the device got no usable answer from MODE, and it is not certain whether device {listed}, new in"
                    f" home {self._home_id}, came of it; nothing was removed"
                )
            await self._remove(note.home_id, chosen)
        else:
            # Nothing came of the token so far. It may still, until it expires; the note makes the next run look.
            return
        self._notes.forget(note)

    async def _remove(self, home_id: int, device_id: int) -> None:
        self._watch.report(Progress(Step.RECOVERING, f"removing device {device_id}, whose key nobody has"))

        async def remove() -> None:
            # A removal without an answer may have been carried out. What is to go was decided once, before.
            if await is_there():
                try:
                    await self._api.delete_device(device_id)
                except CloudRefusedError:
                    # Another run of this user's may have been faster.
                    if await is_there():
                        raise

        async def is_there() -> bool:
            return any(device.id == device_id for device in await self._api.devices(home_id))

        await _patiently(remove)

    async def _ask_token(self, events: Events) -> Token:
        devices = await self._devices(self._home_id)
        tag = secrets.token_hex(16)
        self._note = new_note(tag, self._mode_url, self._home_id, self._device_class, devices)
        self._notes.keep(self._note)
        try:
            # A token that nobody got brings no device, so asking for another is harmless.
            issued = await _patiently(lambda: self._api.start_provisioning(self._home_id, self._device_class, tag))
        except NotSignedInError:
            raise
        except CloudRefusedError as e:
            # There is no token, so there is nothing to keep a note of.
            self._forget_in_passing()
            raise TokenDeniedError(
                f"MODE gives no provisioning token for class {self._device_class!r} in home {self._home_id}:"
                f" {e.reason or e.status}",
                status=e.status,
                reason=e.reason,
            ) from e
        ends = issued.expires_at.timestamp() if issued.expires_at else None
        self._note = replace(self._note, token_ref=token_ref(issued.token).hex(), expires_at=ends)
        self._notes.keep(self._note)
        # The device's event comes right after the redemption: whoever listens later misses it.
        await events.ready()
        return Token(issued.token, issued.expires_at)

    async def _devices(self, home_id: int) -> "list[Device]":
        return await _patiently(lambda: self._api.devices(home_id))

    async def _device_in_home(self, device_id: int) -> "Device":
        assert self._note is not None, "a device comes of a token that was asked for"
        if device_id in self._note.known:
            raise NotInHomeError(f"device {device_id} was in home {self._home_id} before; this one cannot be it")
        for look in range(_HOME_LOOKS):
            for device in await self._devices(self._home_id):
                if device.id == device_id:
                    return await self._tagged(device)
            await asyncio.sleep(0.25 * 2**look)
        raise NotInHomeError(f"MODE does not list device {device_id} in home {self._home_id}")

    async def _tagged(self, device: "Device") -> "Device":
        """The device under the tag it is to have; the one it came with was ours."""
        tag = self._tag or ""
        try:
            await self._api.update_device(device.id, tag=tag)
        except CloudError:
            # The device is in the home all the same, and the result shows which tag it has.
            return device
        return replace(device, tag=tag)


class _Stopwatch:
    """Passes progress on and adds up how long each step took."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._began_at = self._since = time.monotonic()
        self._step: Step | None = None
        self._elapsed: dict[str, float] = {}

    def report(self, progress: Progress) -> None:
        self._lap()
        self._step = progress.step
        self._report(progress)

    def elapsed_s(self) -> dict[str, float]:
        self._lap()
        total = time.monotonic() - self._began_at
        return {name: round(seconds, 4) for name, seconds in {**self._elapsed, "total": total}.items()}

    def _lap(self) -> None:
        now = time.monotonic()
        if self._step is not None:
            name = self._step.name.lower()
            self._elapsed[name] = self._elapsed.get(name, 0) + now - self._since
        self._since = now


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask MODE what may be asked again even where no usable answer came.

    Raises:
        CloudError: How the last try ended.
    """
    for pause_s in _PAUSES_S:
        with contextlib.suppress(CloudNoAnswerError):
            return await ask()
        await asyncio.sleep(pause_s)
    return await ask()


async def _only_home(api: "UserApi") -> int:
    identity = await _patiently(api.identity)
    if (user_id := identity.user_id) is None:
        raise NotSignedInError("MODE does not accept this session key", status=401)
    homes = await _patiently(lambda: api.homes(user_id))
    if len(homes) != 1:
        which = ", ".join(str(home.id) for home in homes[:10]) or "none"
        raise UsageError(f"name the home; this user's homes are: {which}")
    return homes[0].id
