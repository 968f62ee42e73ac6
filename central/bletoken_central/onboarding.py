"""The companion as a library: scan, push a token, or provision a device into a MODE home. It prints nothing.

async with Companion("system", session_key=key) as companion:
    onboarded = await companion.provision(code, home_id=7, device_class="lamp")
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from bletoken.errors import CloudError, NotInHomeError, UsageError
from bletoken.protocol.setup_code import SetupCode
from bletoken_central.handoff import Handoff, Limits, Progress, Report, Step, Token, by_address
from bletoken_central.link import Found, Radio

if TYPE_CHECKING:
    from bletoken.mode.models import Device, DeviceEvent
    from bletoken.mode.user_api import UserApi

DEFAULT_MODE_URL: Final = "https://api.tinkermode.com"
"""MODE's own API."""

_SUBSCRIBE_TIMEOUT_S: Final = 5
_EVENT_TIMEOUT_S: Final = 15
_HOME_LOOKS: Final = 4


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
    ) -> None:
        self._radio = Radio(radio)
        self._session_key = session_key
        self._mode_url = mode_url
        self._mode_ca = mode_ca
        self._report = report
        self._limits = limits or Limits()
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

    async def scan(self, seconds: float) -> AsyncIterator[Found]:
        """Each bletoken device in range, once, for so many seconds."""
        seen: set[str] = set()
        async with self._radio.scan() as heard:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    async for found in heard:
                        if found.address not in seen and found.name is not None:
                            seen.add(found.address)
                            yield found

    async def push(self, code: SetupCode, token: Token, *, address: str | None = None) -> Pushed:
        """Hand over a token that is there already.

        Args:
            code: The device's setup code.
            token: The token.
            address: The device's address, where a PIN leaves the choice open.

        Raises:
            BletokenError: As `Handoff.run`.
        """
        watch = _Stopwatch(self._report)
        given = asyncio.get_running_loop().create_future()
        given.set_result(token)
        handoff = Handoff(
            self._radio,
            code,
            given,
            wanted=by_address(address) if address else None,
            report=watch.report,
            limits=self._limits,
        )
        provisioned = await handoff.run()
        watch.report(Progress(Step.PROVISIONED, f"device {provisioned.device_id}"))
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

        Args:
            code: The device's setup code.
            home_id: The home; may be left out by a user who has one.
            device_class: MODE's device class of the device.
            tag: The tag the device is to have.
            address: The device's address, where a PIN leaves the choice open.

        Raises:
            BletokenError: As `Handoff.run`.
            NotInHomeError: MODE does not list the device in the home.
            UsageError: There is no session key, or the home is not clear.
        """
        if self._api is None:
            raise UsageError("provisioning needs the user's MODE session key")
        api, watch = self._api, _Stopwatch(self._report)
        home_id = await _only_home(api) if home_id is None else home_id
        events: asyncio.Queue[DeviceEvent] = asyncio.Queue()
        subscribed = asyncio.Event()
        listening = asyncio.create_task(_listen(api, events, subscribed))
        asking = asyncio.create_task(_ask_token(api, home_id, device_class, tag, subscribed))
        try:
            handoff = Handoff(
                self._radio,
                code,
                asking,
                wanted=by_address(address) if address else None,
                report=watch.report,
                limits=self._limits,
            )
            provisioned = await handoff.run()
            watch.report(Progress(Step.PROVISIONED, f"device {provisioned.device_id}"))
            watch.report(Progress(Step.EVENT))
            event = await _event_of(events, provisioned.device_id, listening)
            device = await _device_in_home(api, home_id, provisioned.device_id)
            watch.report(Progress(Step.IN_HOME, f"home {home_id}"))
        finally:
            for task in (listening, asking):
                task.cancel()
            await asyncio.gather(listening, asking, return_exceptions=True)
        return Onboarded(provisioned.device_id, home_id, event, device, watch.elapsed_s())


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
        # Facts take no time; what follows `token accepted` is waiting for the device to begin.
        if self._step is not None and self._step is not Step.IN_HOME:
            name = self._step.name.lower()
            self._elapsed[name] = self._elapsed.get(name, 0) + now - self._since
        self._since = now


async def _only_home(api: "UserApi") -> int:
    identity = await api.identity()
    if identity.user_id is None:
        raise UsageError("this MODE session key belongs to no user; sign in again")
    homes = await api.homes(identity.user_id)
    if len(homes) != 1:
        which = ", ".join(str(home.id) for home in homes[:10]) or "none"
        raise UsageError(f"name the home; this user's homes are: {which}")
    return homes[0].id


async def _ask_token(
    api: "UserApi", home_id: int, device_class: str, tag: str | None, subscribed: asyncio.Event
) -> Token:
    token = await api.start_provisioning(home_id, device_class, tag)
    # The device's event comes right after the redemption: whoever listens later misses it.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SUBSCRIBE_TIMEOUT_S):
            await subscribed.wait()
    return Token(token.token, token.expires_at)


async def _listen(api: "UserApi", events: "asyncio.Queue[DeviceEvent]", subscribed: asyncio.Event) -> None:
    # Events are a convenience: without them the home is asked, so their failure fails nothing.
    with contextlib.suppress(CloudError):
        try:
            async with api.events() as stream:
                subscribed.set()
                async for event in stream:
                    events.put_nowait(event)
        finally:
            subscribed.set()


async def _event_of(events: "asyncio.Queue[DeviceEvent]", device_id: int, listening: asyncio.Task[None]) -> str | None:
    """The device's own event; MODE's built-in ones begin with an underscore."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_EVENT_TIMEOUT_S):
            while not (listening.done() and events.empty()):
                event = await events.get()
                if event.origin_device_id == device_id and not event.event_type.startswith("_"):
                    return event.event_type
            listening.result()
    return None


async def _device_in_home(api: "UserApi", home_id: int, device_id: int) -> "Device":
    for look in range(_HOME_LOOKS):
        for device in await api.devices(home_id):
            if device.id == device_id:
                return device
        await asyncio.sleep(0.25 * 2**look)
    raise NotInHomeError(f"MODE does not list device {device_id} in home {home_id}")
