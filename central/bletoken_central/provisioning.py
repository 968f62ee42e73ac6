"""One `provision` call: a token, a hand-off, and what may have to be put right, of this run and of earlier ones.

Which device is found where, and how it is spoken to, is `handoff`'s; what is noted of a token is `recovery`'s.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

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
)
from bletoken.protocol.wire import Accepted, Failed, FailureCode, Provisioned, Redeeming, Status, Stored, token_ref
from bletoken_central.events import Events
from bletoken_central.handoff import Progress, Report, Step, Token
from bletoken_central.recovery import Note, Notes, new_note

if TYPE_CHECKING:
    from bletoken.mode.models import Device
    from bletoken.mode.user_api import UserApi

T = TypeVar("T")

Choose = Callable[[Sequence["Device"]], Awaitable[int | None]]
"""Asks a person which of these new devices is the one whose key got lost, and may be removed; None for none."""

_HOME_LOOKS: Final = 4
_PAUSES_S: Final = (0.5, 1.0)
"""Seconds before MODE is asked once more what may be asked again, where no usable answer came."""

_AT_WORK_PAUSE_S: Final = 1.0
"""Seconds before a device is asked once more that is at work on the token of an earlier run."""

_LONGEST_NOTE_S: Final = 30 * 86400


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


class Provisioning:
    """One call.

    Args:
        api: MODE, as the user.
        notes: What is known of tokens.
        mode_url: MODE's base URL.
        home_id: The home.
        device_class: MODE's device class of the device.
        tag: The tag the device is to have.
        watch: Is told of progress.
    """

    def __init__(
        self,
        api: "UserApi",
        notes: Notes,
        mode_url: str,
        home_id: int,
        device_class: str,
        tag: str | None,
        watch: "Stopwatch",
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
            async with asyncio.timeout(patience_s) as scope:
                while True:
                    status = await ask_device()
                    about = unheard.get(status.token_ref.hex()) if status.token_ref else None
                    if about is None or not isinstance(status, Accepted | Redeeming | Stored):
                        return status, about
                    self._watch.report(Progress(Step.WAITING, "an earlier run's token"))
                    await asyncio.sleep(_AT_WORK_PAUSE_S)
        except TimeoutError:
            if not scope.expired():
                raise
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

        await patiently(remove)

    async def _ask_token(self, events: Events) -> Token:
        devices = await self._devices(self._home_id)
        tag = secrets.token_hex(16)
        self._note = new_note(tag, self._mode_url, self._home_id, self._device_class, devices)
        self._notes.keep(self._note)
        try:
            # A token that nobody got brings no device, so asking for another is harmless.
            issued = await patiently(lambda: self._api.start_provisioning(self._home_id, self._device_class, tag))
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
        return await patiently(lambda: self._api.devices(home_id))

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


class Stopwatch:
    """Passes progress on and adds up how long each step took."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._began_at = self._since = time.monotonic()
        self._step: Step | None = None
        self._elapsed: dict[str, float] = {}

    def report(self, progress: Progress) -> None:
        """Pass a step on; the one before it ends."""
        self._lap()
        self._step = progress.step
        self._report(progress)

    def elapsed_s(self) -> dict[str, float]:
        """Seconds of each step so far, and in all."""
        self._lap()
        total = time.monotonic() - self._began_at
        return {name: round(seconds, 4) for name, seconds in {**self._elapsed, "total": total}.items()}

    def _lap(self) -> None:
        now = time.monotonic()
        if self._step is not None:
            name = self._step.name.lower()
            self._elapsed[name] = self._elapsed.get(name, 0) + now - self._since
        self._since = now


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask MODE what may be asked again even where no usable answer came.

    Raises:
        CloudError: How the last try ended.
    """
    for pause_s in _PAUSES_S:
        with contextlib.suppress(CloudNoAnswerError):
            return await ask()
        await asyncio.sleep(pause_s)
    return await ask()
