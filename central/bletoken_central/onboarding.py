"""The companion as a library: scan, ask a device, push a token, provision or claim a device. It prints nothing.

async with Companion("system", session_key=key) as companion:
    onboarded = await companion.provision(code, home_id=7, device_class="lamp")
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from bletoken.errors import NotSignedInError, OutcomeUnknownError, UsageError
from bletoken.protocol.setup_code import SetupCode
from bletoken.protocol.wire import (
    LONGEST_CLAIM_S,
    SHORTEST_CLAIM_S,
    AskStatus,
    Claimable,
    Identify,
    Offer,
    Provisioned,
    Status,
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
from bletoken_central.provisioning import Choose, Onboarded, Provisioning, Stopwatch, patiently
from bletoken_central.recovery import Notes

if TYPE_CHECKING:
    from bletoken.mode.user_api import UserApi

DEFAULT_MODE_URL: Final = "https://api.tinkermode.com"
"""MODE's own API."""

DEFAULT_CLAIM_S: Final = 300
"""Seconds for which a device may be claimed, unless told otherwise."""

_LATEST: Final = 2**32
"""A second that every platform can show as a date; what a device tells is not to be trusted."""

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
        watch = Stopwatch(self._report)
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
        Where an earlier run ended without having heard what became of its token, the device is asked for that first.

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
        api, watch = self._signed_in(), Stopwatch(self._report)
        home = await _only_home(api) if home_id is None else home_id
        run = Provisioning(api, self._notes(), self._mode_url, home, device_class, tag, watch)
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
        watch = Stopwatch(self._report)

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

        return await self._claim(ask, home_id, Stopwatch(self._report))

    async def _claim(
        self,
        ask: Callable[[asyncio.Future[Any]], Awaitable[tuple[str, datetime | None]]],
        home_id: int | None,
        watch: Stopwatch,
    ) -> Onboarded:
        api = self._signed_in()
        home = await _only_home(api) if home_id is None else home_id
        async with Events(api) as events:
            looking = asyncio.create_task(patiently(lambda: api.devices(home)))
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


async def _only_home(api: "UserApi") -> int:
    identity = await patiently(api.identity)
    if (user_id := identity.user_id) is None:
        raise NotSignedInError("MODE does not accept this session key", status=401)
    homes = await patiently(lambda: api.homes(user_id))
    if len(homes) != 1:
        which = ", ".join(str(home.id) for home in homes[:10]) or "none"
        raise UsageError(f"name the home; this user's homes are: {which}")
    return homes[0].id
