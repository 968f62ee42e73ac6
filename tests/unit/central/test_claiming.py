"""What became of a claim, also where no answer came, and the devices' events: both against small MODEs."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from bletoken.errors import (
    AlreadyProvisionedError,
    BletokenError,
    ClaimCodeRefusedError,
    ClaimExpiredError,
    CloudError,
    CloudNoAnswerError,
    CloudRefusedError,
    CloudRetryLaterError,
    CloudUnreachableError,
    NotClaimableError,
    NotSignedInError,
)
from bletoken.mode.models import Device, DeviceEvent
from bletoken_central import claiming, events
from bletoken_central.claiming import claim
from bletoken_central.events import Events

HOME = 5
CODE = "CLAIM-ME"
OLD = Device(1, home_id=HOME)
NEW = Device(2, home_id=HOME)
OTHER = Device(3, home_id=HOME)
KNOWN = frozenset({OLD.id})

SILENCE = CloudNoAnswerError("nothing came", status=504)
UNREACHABLE = CloudUnreachableError("no route")
BUSY = CloudRetryLaterError("MODE answered 503", status=503)


def refused(reason: str = "", status: int = 403) -> CloudRefusedError:
    return CloudRefusedError(f"MODE answered {status} {reason}".rstrip(), status=status, reason=reason)


NOT_CLAIMABLE = refused("DEVICE_NOT_CLAIMABLE")
ALREADY_IN_HOME = refused("DEVICE_ALREADY_IN_HOME")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claiming, "_PAUSE_S", 0)


class Mode:
    """What a user's app asks of MODE: it answers claims one after the other, and then says who is in the home."""

    def __init__(self, *answers: Device | CloudError, home: Sequence[Device] | CloudError = ()) -> None:
        self.answers = list(answers)
        self.home = home
        self.claims = 0
        self.looks = 0

    async def claim_device(self, home_id: int, claim_code: str) -> Device:
        assert (home_id, claim_code) == (HOME, CODE)
        self.claims += 1
        return self._said(self.answers.pop(0))

    async def devices(self, home_id: int) -> list[Device]:
        assert home_id == HOME
        self.looks += 1
        if isinstance(self.home, CloudError):
            raise self.home
        return list(self.home)

    @staticmethod
    def _said(answer: Device | CloudError) -> Device:
        if isinstance(answer, CloudError):
            raise answer
        return answer


async def claimed(mode: Mode, *, until: datetime | None = None) -> Device:
    return await claim(mode, HOME, CODE, known=KNOWN, until=until)  # type: ignore[arg-type]


# Claiming -------------------------------------------------------------------------------------------------------------


async def test_an_answer_is_believed_without_a_look() -> None:
    mode = Mode(NEW, home=[OLD, NEW])
    assert await claimed(mode) is NEW
    assert (mode.claims, mode.looks) == (1, 0)


@pytest.mark.parametrize("silences", [1, 2])
async def test_a_request_without_an_answer_is_repeated_and_its_answer_is_believed(silences: int) -> None:
    mode = Mode(*[SILENCE] * silences, NEW)
    assert await claimed(mode) is NEW
    assert (mode.claims, mode.looks) == (silences + 1, 0)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (ALREADY_IN_HOME, AlreadyProvisionedError),
        (NOT_CLAIMABLE, NotClaimableError),
        (refused("INVALID_CLAIM_CODE"), ClaimCodeRefusedError),
        (refused(status=404), ClaimCodeRefusedError),
    ],
)
async def test_the_first_refusal_says_something_about_the_device(
    said: CloudRefusedError, meant: type[BletokenError]
) -> None:
    # Who is new in the home came in otherwise: this request had no effect.
    mode = Mode(said, home=[OLD, NEW])
    with pytest.raises(meant) as caught:
        await claimed(mode)
    assert type(caught.value) is meant
    assert caught.value.__cause__ is said
    assert CODE not in str(caught.value)
    assert (mode.claims, mode.looks) == (1, 0)


@pytest.mark.parametrize(
    "said",
    [
        refused("MEMBERS_ONLY"),
        refused("PERMISSION_DENIED"),
        refused("AUTHORIZATION_REQUIRED"),
        NotSignedInError("MODE answered 401", status=401),
        UNREACHABLE,
        BUSY,
    ],
)
async def test_what_says_nothing_about_the_device_is_told_as_it_is(said: CloudError) -> None:
    mode = Mode(said, home=[OLD, NEW])
    with pytest.raises(type(said)) as caught:
        await claimed(mode)
    assert caught.value is said
    assert (mode.claims, mode.looks) == (1, 0)


@pytest.mark.parametrize(
    ("reason", "told"), [("INVALID_CLAIM_CODE", "INVALID_CLAIM_CODE"), ("", "HTTP 404"), ("NEW_REASON", "NEW_REASON")]
)
async def test_a_refused_code_carries_modes_reason_or_shows_its_http_status(reason: str, told: str) -> None:
    with pytest.raises(ClaimCodeRefusedError) as caught:
        await claimed(Mode(refused(reason, status=404)))
    assert caught.value.reason == reason
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("left_s", "meant"), [(-1, ClaimExpiredError), (3600, NotClaimableError), (None, NotClaimableError)]
)
async def test_a_claim_mode_that_is_off_has_ended_where_its_end_is_known_and_over(
    left_s: int | None, meant: type[BletokenError]
) -> None:
    until = None if left_s is None else datetime.now(UTC) + timedelta(seconds=left_s)
    with pytest.raises(meant) as caught:
        await claimed(Mode(NOT_CLAIMABLE), until=until)
    assert type(caught.value) is meant


async def test_an_ended_session_is_told_also_after_a_request_without_an_answer() -> None:
    mode = Mode(SILENCE, NotSignedInError("MODE answered 401", status=401), home=[OLD, NEW])
    with pytest.raises(NotSignedInError):
        await claimed(mode)


UNCLEAR: list[tuple[CloudError, ...]] = [
    (SILENCE, NOT_CLAIMABLE),
    (SILENCE, ALREADY_IN_HOME),
    (SILENCE, refused(status=404)),
    (SILENCE, refused("INVALID_CLAIM_CODE")),
    (SILENCE, refused("MEMBERS_ONLY")),
    (SILENCE, UNREACHABLE),
    (SILENCE, BUSY),
    (SILENCE, SILENCE, NOT_CLAIMABLE),
    (SILENCE, SILENCE, UNREACHABLE),
    (SILENCE, SILENCE, SILENCE),
]


@pytest.mark.parametrize("said", UNCLEAR)
@pytest.mark.parametrize("home", [[NEW], [OLD, NEW], [NEW, OLD]])
async def test_after_a_request_without_an_answer_the_only_newcomer_is_the_device(
    said: tuple[CloudError, ...], home: list[Device]
) -> None:
    mode = Mode(*said, home=home)
    assert await claimed(mode, until=datetime.now(UTC) - timedelta(seconds=1)) is NEW
    assert (mode.claims, mode.looks) == (len(said), 1)


@pytest.mark.parametrize("said", UNCLEAR)
@pytest.mark.parametrize("home", [[], [OLD], [NEW, OTHER], [OLD, NEW, OTHER]])
async def test_after_a_request_without_an_answer_no_newcomer_or_two_leave_it_open(
    said: tuple[CloudError, ...], home: list[Device]
) -> None:
    mode = Mode(*said, home=home)
    with pytest.raises(CloudNoAnswerError) as caught:
        await claimed(mode)
    assert f"home {HOME}" in str(caught.value)
    assert caught.value.status == 504
    assert CODE not in str(caught.value)
    assert (mode.claims, mode.looks) == (len(said), 1)


# Events ---------------------------------------------------------------------------------------------------------------


def event(kind: str, device_id: int | None = NEW.id) -> DeviceEvent:
    return DeviceEvent(HOME, datetime.now(UTC), kind, origin_device_id=device_id)


class Stream:
    """The events of a user's devices: those it is given, and then its end, or silence."""

    def __init__(
        self, *to_send: DeviceEvent, ends: bool = False, fails: Exception | None = None, deaf: bool = False
    ) -> None:
        self.to_send = to_send
        self.ends = ends
        self.fails = fails
        self.deaf = deaf
        self.all_sent = asyncio.Event()
        self.closed = asyncio.Event()

    @asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[DeviceEvent]]:
        if self.deaf:
            await asyncio.Event().wait()
        if self.fails is not None:
            raise self.fails
        try:
            yield self._sent()
        finally:
            self.closed.set()

    async def _sent(self) -> AsyncIterator[DeviceEvent]:
        for one in self.to_send:
            yield one
        self.all_sent.set()
        if not self.ends:
            await asyncio.Event().wait()


def heard_from(stream: Stream) -> Events:
    return Events(stream)  # type: ignore[arg-type]


async def test_the_devices_own_event_is_heard() -> None:
    async with heard_from(Stream(event("button"))) as heard:
        await heard.ready()
        assert await heard.event_of(NEW.id) == "button"


async def test_modes_own_events_are_not_the_devices() -> None:
    async with heard_from(Stream(event("_deviceConnected_"), event("_x"), event("provisioned"))) as heard:
        assert await heard.event_of(NEW.id) == "provisioned"


async def test_the_events_of_others_are_not_the_devices() -> None:
    async with heard_from(Stream(event("hello", OTHER.id), event("hi", None), event("provisioned"))) as heard:
        assert await heard.event_of(NEW.id) == "provisioned"


async def test_no_event_in_time_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_EVENT_TIMEOUT_S", 0)
    async with heard_from(Stream(event("_deviceConnected_"), event("hello", OTHER.id))) as heard:
        assert await heard.event_of(NEW.id) is None


async def test_what_waits_is_bounded_and_the_oldest_goes() -> None:
    many = [event(f"number {number}") for number in range(1000)]
    stream = Stream(*many)
    async with heard_from(stream) as heard:
        await stream.all_sent.wait()
        assert heard._heard.qsize() == events._MOST_WAITING == 256
        assert [await heard.event_of(NEW.id) for _ in range(256)] == [one.event_type for one in many[-256:]]


async def test_modes_own_events_push_none_of_the_devices_out() -> None:
    stream = Stream(event("provisioned"), *[event("_deviceConnected_")] * 1000)
    async with heard_from(stream) as heard:
        await stream.all_sent.wait()
        assert await heard.event_of(NEW.id) == "provisioned"


async def test_the_end_of_the_events_is_no_error_and_what_came_before_is_told() -> None:
    async with heard_from(Stream(event("provisioned"), ends=True)) as heard:
        assert await heard.event_of(NEW.id) == "provisioned"
        assert await heard.event_of(NEW.id) is None


@pytest.mark.parametrize("error", [SILENCE, UNREACHABLE, NotSignedInError("MODE answered 401", status=401)])
async def test_events_that_mode_does_not_send_fail_nothing(error: CloudError) -> None:
    async with heard_from(Stream(fails=error)) as heard:
        await heard.ready()
        assert await heard.event_of(NEW.id) is None


async def test_a_defect_in_following_the_events_is_not_taken_for_their_end() -> None:
    async with heard_from(Stream(fails=ZeroDivisionError())) as heard:
        await heard.ready()
        with pytest.raises(ZeroDivisionError):
            await heard.event_of(NEW.id)


async def test_nobody_waits_for_ever_until_mode_sends_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_SUBSCRIBE_TIMEOUT_S", 0)
    async with heard_from(Stream(deaf=True)) as heard:
        await heard.ready()


async def test_leaving_ends_the_stream_and_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    stream = Stream()
    async with heard_from(stream) as heard:
        await heard.ready()
        assert not stream.closed.is_set()
    assert stream.closed.is_set()
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("trouble", [UNREACHABLE, BUSY, refused("X")])
async def test_a_home_that_cannot_be_looked_into_leaves_it_open(trouble: CloudError) -> None:
    with pytest.raises(CloudNoAnswerError):
        await claimed(Mode(SILENCE, SILENCE, SILENCE, home=trouble))


async def test_after_the_end_nobody_waits_a_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with heard_from(Stream(ends=True)) as heard:
        assert await heard.event_of(NEW.id) is None
        async with asyncio.timeout(1):
            assert await heard.event_of(NEW.id) is None
