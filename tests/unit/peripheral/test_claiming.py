"""The claim mode against a small MODE and a clock that jumps: a wait of minutes takes no time, and none is left out."""

import asyncio
import functools
import itertools
import selectors
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ParamSpec

import pytest

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
from bletoken.mode.credentials import Credentials
from bletoken.mode.models import Device
from bletoken.mode.retry import RetryPolicy, retrying
from bletoken.protocol.device import SessionId
from bletoken.protocol.wire import LONGEST_CLAIM_S, LONGEST_REASON, Accepted, Claimable, Failed, FailureCode, Status
from bletoken_peripheral import claiming
from bletoken_peripheral.claiming import Claiming, ClaimRecord
from bletoken_peripheral.progress import Progress

if TYPE_CHECKING:
    from bletoken.mode.device_api import DeviceApi

P = ParamSpec("P")

ME = Credentials(7, "key-of-the-device")
CODE = "CLAIM-ME"
FRESH = ClaimRecord(CODE)
IN_HOME = ClaimRecord(CODE, is_claimed=True, was_opened=True)
UNTIL = datetime(2030, 1, 1, tzinfo=UTC)
ANNA = SessionId("anna", b"\x01" * 8)
BORIS = SessionId("boris", b"\x02" * 8)

UNREACHABLE = CloudUnreachableError("no route")
SILENCE = CloudNoAnswerError("nothing came")
KEY_REFUSED = NotSignedInError("MODE answered 401", status=401)


def busy(retry_after_s: float | None = None, reason: str = "") -> CloudRetryLaterError:
    return CloudRetryLaterError("MODE answered 503", status=503, reason=reason, retry_after_s=retry_after_s)


def refused(reason: str = "", status: int = 403) -> CloudRefusedError:
    return CloudRefusedError(f"MODE answered {status}", status=status, reason=reason)


# A clock that jumps ---------------------------------------------------------------------------------------------------


class _Jumping(selectors.DefaultSelector):
    """Waits for nothing: where the loop would wait, it is that much later at once."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits for somebody else"
        self.now += max(0.0, timeout)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def jumping(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test on a clock that jumps from one thing that is to happen to the next."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=_Loop) as runner:
            runner.run(test(*args, **kwargs))

    return run


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture(autouse=True)
def _no_luck(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses are the longest that the jitter allows."""
    monkeypatch.setattr(claiming, "random", SimpleNamespace(uniform=lambda _low, high: high))
    monkeypatch.setattr(claiming, "time", SimpleNamespace(monotonic=now))


# The device and its MODE ----------------------------------------------------------------------------------------------


class Mode:
    """What a device asks of MODE: it does as it was told beforehand, and writes down when it was asked what."""

    def __init__(self) -> None:
        self.home: int | None = None
        self.answer_s = 0.0
        self.to_say: list[CloudError] = []
        """What it says to the next who want the claim mode on."""
        self.always_says: CloudError | None = None
        """And to all after them."""
        self.hides: CloudError | None = None
        """What it says to those who look."""
        self.registrations: list[tuple[float, int]] = []
        self.looks: list[float] = []
        self.asked = asyncio.Event()

    async def open_claim_window(self, device_id: int, api_key: str, duration_s: int) -> datetime:
        assert (device_id, api_key) == (ME.device_id, ME.api_key)
        self.registrations.append((now(), duration_s))
        self.asked.set()
        await asyncio.sleep(self.answer_s)
        error = self.to_say.pop(0) if self.to_say else self.always_says
        if error is not None:
            raise error
        return UNTIL

    async def device(self, device_id: int, api_key: str) -> Device:
        assert (device_id, api_key) == (ME.device_id, ME.api_key)
        self.looks.append(now())
        if self.hides is not None:
            raise self.hides
        return Device(device_id, home_id=self.home)

    @property
    def asked_at(self) -> list[float]:
        return [at for at, _ in self.registrations]

    @property
    def durations(self) -> list[int]:
        return [duration_s for _, duration_s in self.registrations]


@dataclass(frozen=True)
class Told:
    at: float
    session: SessionId
    status: Status


class Bench:
    """One device that runs, its MODE, and all that came of it."""

    def __init__(self, record: ClaimRecord = FRESH, *, retry_s: float = 60) -> None:
        self.mode = Mode()
        self.told: list[Told] = []
        self.reports: list[tuple[float, str]] = []
        self.durable = record
        self.happened: list[str] = []
        """What must have its order: events and records."""
        self.changes: list[tuple[bool, bool]] = []
        self.event_fails: list[CloudError] = []
        self.save_fails: list[StorageError] = []
        self._news = asyncio.Event()
        self.device = Claiming(
            record,
            ME,
            save=self._save,
            tell=self._tell,
            report=self._report,
            changed=self._changed,
            announce=self._announce,
            retry_s=retry_s,
            clock=now,
        )

    @asynccontextmanager
    async def _running(self) -> Any:
        running = asyncio.create_task(self.device.run(self.mode))  # type: ignore[arg-type]
        try:
            yield self
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    def running(self) -> AbstractAsyncContextManager["Bench"]:
        return self._running()

    async def until(self, holds: Callable[[], object], *, within_s: float = 3600) -> None:
        """Wait until this holds, which something that the device says or does has to bring about."""
        async with asyncio.timeout(within_s):
            while not holds():
                self._news.clear()
                await self._news.wait()

    def answers(self, session: SessionId) -> list[Status]:
        return [told.status for told in self.told if told.session == session]

    def last(self, session: SessionId) -> Told:
        return [told for told in self.told if told.session == session][-1]

    async def answered(self, *sessions: SessionId) -> None:
        """Wait until what each was told last is more than that it goes on."""
        for session in sessions:
            await self.until(
                lambda session=session: (  # type: ignore[misc]
                    self.answers(session) and not isinstance(self.answers(session)[-1], Accepted)
                )
            )

    async def reported(self, step: str) -> float:
        await self.until(lambda: step in self.steps)
        return next(at for at, reported in self.reports if reported == step)

    @property
    def steps(self) -> list[str]:
        return [step for _, step in self.reports]

    def _save(self, record: ClaimRecord) -> None:
        if self.save_fails:
            raise self.save_fails.pop(0)
        self.happened.append(f"saved: {'in a home' if record.is_claimed else 'in none'}")
        self.durable = record
        self._news.set()

    def _tell(self, session: SessionId, status: Status) -> None:
        self.told.append(Told(now(), session, status))
        self._news.set()

    def _report(self, progress: Progress) -> None:
        self.reports.append((now(), progress.step))
        self._news.set()

    def _changed(self) -> None:
        self.changes.append((self.device.is_claimed, self.device.key_refused))
        self._news.set()

    async def _announce(self, _api: "DeviceApi") -> None:
        await asyncio.sleep(0.2)
        if self.event_fails:
            raise self.event_fails.pop(0)
        self.happened.append("event")


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(times)]


# What is asked of MODE ------------------------------------------------------------------------------------------------


async def test_turning_it_on_tells_when_modes_window_ends() -> None:
    mode = Mode()
    assert await claiming.turn_on(mode, ME, 300) == UNTIL  # type: ignore[arg-type]
    assert mode.durations == [300]


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (KEY_REFUSED, DeviceRemovedError),
        (NotSignedInError("MODE answered 401", status=401, reason="DEVICE_ALREADY_IN_HOME"), DeviceRemovedError),
        (refused("DEVICE_ALREADY_IN_HOME"), AlreadyProvisionedError),
        (refused("MATCHING_DEVICE_ONLY"), ClaimRefusedError),
        (refused(), ClaimRefusedError),
    ],
)
async def test_each_refusal_to_turn_it_on_is_an_error_of_its_own(
    said: CloudRefusedError, meant: type[Exception]
) -> None:
    mode = Mode()
    mode.always_says = said
    with pytest.raises(meant) as caught:
        await claiming.turn_on(mode, ME, 300)  # type: ignore[arg-type]
    assert type(caught.value) is meant
    assert caught.value.__cause__ is said


@pytest.mark.parametrize(("reason", "told"), [("MATCHING_DEVICE_ONLY", "MATCHING_DEVICE_ONLY"), ("", "HTTP 403")])
async def test_a_refusal_carries_modes_reason_or_else_its_http_status(reason: str, told: str) -> None:
    mode = Mode()
    mode.always_says = refused(reason)
    with pytest.raises(ClaimRefusedError) as caught:
        await claiming.turn_on(mode, ME, 300)  # type: ignore[arg-type]
    assert caught.value.reason == told
    assert told in str(caught.value)


@pytest.mark.parametrize("error", [UNREACHABLE, SILENCE, busy(3)])
async def test_that_mode_cannot_be_asked_is_no_refusal(error: CloudError) -> None:
    mode = Mode()
    mode.always_says = error
    with pytest.raises(type(error)) as caught:
        await claiming.turn_on(mode, ME, 300)  # type: ignore[arg-type]
    assert caught.value is error


class Asked:
    """Raises one after the other, and then answers."""

    def __init__(self, *errors: CloudError) -> None:
        self.errors = list(errors)
        self.times = 0

    async def __call__(self) -> str:
        self.times += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


@jumping
async def test_patience_asks_three_times_where_no_answer_comes() -> None:
    asked = Asked(SILENCE, SILENCE)
    assert await claiming.patiently(asked) == "done"
    assert asked.times == 3
    asked = Asked(SILENCE, SILENCE, SILENCE)
    with pytest.raises(CloudNoAnswerError):
        await claiming.patiently(asked)
    assert asked.times == 3


@jumping
async def test_patience_waits_as_long_as_mode_says_and_ends_at_the_policys_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claiming, "retrying", functools.partial(retrying, clock=now, jitter=lambda: 1.0))
    began_at = now()
    assert await claiming.patiently(Asked(UNREACHABLE, busy(9))) == "done"
    assert now() - began_at >= 9
    began_at = now()
    with pytest.raises(CloudUnreachableError):
        await claiming.patiently(Asked(*[UNREACHABLE] * 1000))
    assert now() - began_at <= RetryPolicy().deadline_s


async def test_patience_takes_a_refusal_at_its_word() -> None:
    asked = Asked(refused("NO"))
    with pytest.raises(CloudRefusedError):
        await claiming.patiently(asked)
    assert asked.times == 1


async def test_the_home_is_what_mode_says_and_a_refused_key_means_that_the_device_was_removed() -> None:
    mode = Mode()
    assert await claiming.home_of(mode, ME) is None  # type: ignore[arg-type]
    mode.home = 5
    assert await claiming.home_of(mode, ME) == 5  # type: ignore[arg-type]
    mode.hides = KEY_REFUSED
    with pytest.raises(DeviceRemovedError):
        await claiming.home_of(mode, ME)  # type: ignore[arg-type]
    mode.hides = refused("NO")
    with pytest.raises(CloudRefusedError):
        await claiming.home_of(mode, ME)  # type: ignore[arg-type]


@jumping
async def test_waiting_for_the_claim_ends_with_the_home() -> None:
    mode = Mode()
    asyncio.get_running_loop().call_later(30, setattr, mode, "home", 5)
    began_at = now()
    assert await claiming.claimed(mode, ME, 60) == 5  # type: ignore[arg-type]
    assert 30 <= now() - began_at <= 32


@jumping
async def test_waiting_for_the_claim_looks_once_more_after_its_end_and_a_bit_as_modes_clock_is_another() -> None:
    mode = Mode()
    began_at = now()
    with pytest.raises(ClaimExpiredError):
        await claiming.claimed(mode, ME, 60)  # type: ignore[arg-type]
    assert now() - began_at == pytest.approx(65)
    assert mode.looks[-1] == pytest.approx(now())


@jumping
async def test_waiting_for_the_claim_outlives_trouble_that_ends_in_time() -> None:
    mode = Mode()
    mode.home, mode.hides = 5, UNREACHABLE
    asyncio.get_running_loop().call_later(30, setattr, mode, "hides", None)
    assert await claiming.claimed(mode, ME, 60) == 5  # type: ignore[arg-type]


@jumping
async def test_waiting_for_the_claim_tells_trouble_that_does_not_end() -> None:
    mode = Mode()
    mode.hides = busy()
    with pytest.raises(CloudRetryLaterError):
        await claiming.claimed(mode, ME, 60)  # type: ignore[arg-type]


@jumping
async def test_waiting_for_the_claim_comes_back_no_earlier_than_mode_says_nor_later_than_its_end() -> None:
    mode = Mode()
    mode.hides = busy(40)
    with pytest.raises(CloudRetryLaterError):
        await claiming.claimed(mode, ME, 60)  # type: ignore[arg-type]
    assert gaps(mode.looks) == [pytest.approx(40), pytest.approx(25)]


@jumping
async def test_waiting_for_the_claim_of_a_removed_device_ends_at_once() -> None:
    mode = Mode()
    mode.hides = KEY_REFUSED
    began_at = now()
    with pytest.raises(DeviceRemovedError):
        await claiming.claimed(mode, ME, 60)  # type: ignore[arg-type]
    assert now() == began_at


# Turning it on for companions -----------------------------------------------------------------------------------------


@jumping
async def test_the_code_is_told_after_modes_confirmation_as_the_answer_to_the_request() -> None:
    async with Bench().running() as bench:
        bench.mode.answer_s = 3
        bench.device.ask(ANNA, 4, 300)
        assert bench.answers(ANNA) == [Accepted(4)]
        assert bench.device.is_asked
        began_at = now()
        await bench.answered(ANNA)
        assert now() - began_at >= 3
        assert bench.answers(ANNA)[1:] == [Claimable(4, claim_code=CODE, until=int(UNTIL.timestamp()))]
        # It is counted from before the request: MODE may have begun then.
        assert bench.device.on_s == pytest.approx(297, abs=1)


@jumping
async def test_whoever_asks_while_mode_is_asked_gets_a_request_of_its_own() -> None:
    async with Bench().running() as bench:
        bench.mode.answer_s = 3
        bench.device.ask(ANNA, 4, 300)
        await bench.mode.asked.wait()
        bench.device.ask(BORIS, 9, 600)
        await bench.answered(ANNA)
        assert bench.answers(BORIS) == [Accepted(9)]
        await bench.answered(BORIS)
        assert [type(status) for status in bench.answers(BORIS)] == [Accepted, Claimable]
        assert bench.answers(BORIS)[-1].re == 9
        assert len(bench.answers(ANNA)) == 2
        assert bench.mode.durations == [300, 600]


@jumping
async def test_those_who_ask_together_share_one_request_for_the_longest_and_each_gets_its_own_answer() -> None:
    bench = Bench()
    bench.device.ask(ANNA, 4, 600)
    bench.device.ask(BORIS, 9, 60)
    async with bench.running():
        await bench.answered(ANNA, BORIS)
        assert bench.mode.durations == [600]
        assert bench.answers(ANNA)[-1].re == 4
        assert bench.answers(BORIS)[-1].re == 9


@jumping
async def test_a_second_request_in_a_session_is_answered_busy_and_the_first_goes_on() -> None:
    async with Bench().running() as bench:
        bench.mode.answer_s = 3
        bench.device.ask(ANNA, 4, 300)
        await bench.mode.asked.wait()
        bench.device.ask(ANNA, 5, 900)
        assert bench.answers(ANNA) == [Accepted(4), Failed(5, code=FailureCode.BUSY)]
        await bench.until(lambda: len(bench.answers(ANNA)) == 3)
        last = bench.answers(ANNA)[-1]
        assert isinstance(last, Claimable)
        assert last.re == 4
        assert bench.mode.durations == [300]


@jumping
async def test_nobody_is_told_on_behalf_of_one_who_left_and_the_others_are() -> None:
    async with Bench().running() as bench:
        bench.mode.answer_s = 3
        bench.device.ask(ANNA, 4, 300)
        bench.device.ask(BORIS, 9, 300)
        await bench.mode.asked.wait()
        bench.device.left(ANNA.peer)
        await bench.answered(BORIS)
        await bench.reported("claim mode on")
        assert bench.answers(ANNA) == [Accepted(4)]
        assert isinstance(bench.answers(BORIS)[-1], Claimable)


@jumping
async def test_mode_is_not_asked_on_behalf_of_those_who_left() -> None:
    async with Bench(retry_s=600).running() as bench:
        bench.mode.always_says = UNREACHABLE
        bench.device.ask(ANNA, 4, 300)
        await bench.reported("waiting for MODE")
        bench.device.left(ANNA.peer)
        assert not bench.device.is_asked
        bench.mode.always_says = None
        await asyncio.sleep(300)
        assert len(bench.mode.registrations) == 1
        assert bench.answers(ANNA) == [Accepted(4)]


@jumping
async def test_an_answer_is_for_the_request_that_mode_was_asked_for_and_for_no_later_one() -> None:
    async with Bench().running() as bench:
        bench.mode.answer_s = 3
        bench.device.ask(ANNA, 4, 60)
        await bench.mode.asked.wait()
        bench.device.left(ANNA.peer)
        bench.device.ask(ANNA, 5, 900)
        first = await bench.reported("claim mode on")
        assert bench.answers(ANNA) == [Accepted(4), Accepted(5)]
        await bench.answered(ANNA)
        assert bench.mode.durations == [60, 900]
        assert bench.last(ANNA).status.re == 5
        assert bench.last(ANNA).at > first


@jumping
async def test_asking_again_never_takes_away_from_what_somebody_was_told() -> None:
    async with Bench().running() as bench:
        bench.device.ask(ANNA, 4, 900)
        await bench.answered(ANNA)
        await asyncio.sleep(100)
        bench.device.ask(BORIS, 9, 60)
        await bench.answered(BORIS)
        assert bench.mode.durations[0] == 900
        assert 800 <= bench.mode.durations[1] <= 802
        assert bench.device.on_s >= 799


@jumping
async def test_asking_again_makes_it_last_longer() -> None:
    async with Bench().running() as bench:
        bench.device.ask(ANNA, 4, 60)
        await bench.answered(ANNA)
        bench.device.ask(BORIS, 9, 900)
        await bench.answered(BORIS)
        assert bench.mode.durations == [60, 900]
        assert bench.device.on_s == pytest.approx(900, abs=1)


@jumping
async def test_what_was_turned_on_somewhere_else_is_not_shortened_either() -> None:
    async with Bench().running() as bench:
        bench.device.turned_on(600)
        bench.device.ask(ANNA, 4, 60)
        await bench.answered(ANNA)
        assert bench.mode.durations == [600]


@jumping
async def test_the_code_is_not_told_when_the_device_came_into_a_home_while_mode_was_asked() -> None:
    async with Bench().running() as bench:
        bench.mode.answer_s = 3
        bench.device.ask(ANNA, 4, 300)
        await bench.mode.asked.wait()
        bench.mode.home = 5
        bench.device.look()
        await bench.reported("claimed")
        assert bench.answers(ANNA) == [Accepted(4)]
        await bench.answered(ANNA)
        assert bench.answers(ANNA)[1:] == [Failed(4, code=FailureCode.ALREADY_PROVISIONED)]
        assert "claim mode on" not in bench.steps
        assert bench.device.on_s == 0


@pytest.mark.parametrize("again", [False, True])
@jumping
async def test_two_registrations_are_a_second_apart_whoever_asks(again: bool) -> None:
    async with Bench().running() as bench:
        if again:
            bench.mode.to_say = [refused("NO")] * 3
        for number in range(4):
            session = SessionId(f"companion {number}", bytes([number]) * 8)
            bench.device.ask(session, 1, 60)
            await bench.answered(session)
        assert len(bench.mode.registrations) == 4
        assert min(gaps(bench.mode.asked_at)) >= 1


@jumping
async def test_no_wait_is_longer_than_ten_seconds_while_mode_does_not_say_how_long() -> None:
    async with Bench(retry_s=600).running() as bench:
        bench.mode.to_say = [UNREACHABLE, SILENCE, busy(), UNREACHABLE, SILENCE, busy(), UNREACHABLE]
        bench.device.ask(ANNA, 4, 300)
        await bench.answered(ANNA)
        assert gaps(bench.mode.asked_at) == pytest.approx([1, 2, 4, 8, 10, 10, 10])


@jumping
async def test_whoever_waits_hears_after_each_put_off_that_it_goes_on() -> None:
    async with Bench(retry_s=600).running() as bench:
        bench.mode.to_say = [UNREACHABLE, SILENCE, busy(5)]
        bench.device.ask(ANNA, 4, 300)
        bench.device.ask(BORIS, 9, 300)
        await bench.answered(ANNA, BORIS)
        for session, re in ((ANNA, 4), (BORIS, 9)):
            *accepted, last = bench.answers(session)
            assert accepted == [Accepted(re)] * 4
            assert isinstance(last, Claimable)
        assert [told.at for told in bench.told if told.session == ANNA][1:4] == bench.mode.asked_at[1:4]


@jumping
async def test_mode_is_asked_again_no_earlier_than_it_says() -> None:
    async with Bench(retry_s=600).running() as bench:
        bench.mode.to_say = [busy(45), busy(0)]
        bench.device.ask(ANNA, 4, 300)
        await bench.answered(ANNA)
        assert gaps(bench.mode.asked_at)[0] == pytest.approx(45)
        assert gaps(bench.mode.asked_at)[1] < 10


@jumping
async def test_each_asker_gives_up_in_its_own_time() -> None:
    async with Bench(retry_s=60).running() as bench:
        bench.mode.always_says = UNREACHABLE
        began_at = now()
        bench.device.ask(ANNA, 4, 300)
        await asyncio.sleep(40)
        bench.device.ask(BORIS, 9, 300)
        await bench.answered(ANNA)
        assert bench.answers(ANNA)[-1] == Failed(4, code=FailureCode.CLOUD_UNREACHABLE)
        assert 50 <= bench.last(ANNA).at - began_at <= 60
        assert set(bench.answers(BORIS)) == {Accepted(9)}
        await bench.answered(BORIS)
        assert bench.answers(BORIS)[-1] == Failed(9, code=FailureCode.CLOUD_UNREACHABLE)
        assert 90 <= bench.last(BORIS).at - began_at <= 100
        assert not bench.device.is_asked


@jumping
async def test_one_who_asks_late_gets_the_code_although_the_first_gave_up() -> None:
    async with Bench(retry_s=60).running() as bench:
        bench.mode.always_says = UNREACHABLE
        bench.device.ask(ANNA, 4, 300)
        await asyncio.sleep(40)
        bench.device.ask(BORIS, 9, 300)
        await bench.answered(ANNA)
        bench.mode.always_says = None
        await bench.answered(BORIS)
        assert isinstance(bench.answers(BORIS)[-1], Claimable)
        assert isinstance(bench.answers(ANNA)[-1], Failed)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UNREACHABLE, Failed(4, code=FailureCode.CLOUD_UNREACHABLE)),
        (
            CloudUnreachableError("expired", certificate_time=True),
            Failed(4, code=FailureCode.CLOUD_UNREACHABLE, reason="certificate"),
        ),
        (SILENCE, Failed(4, code=FailureCode.CLOUD_ERROR, reason="no answer")),
        (busy(reason="BUSY"), Failed(4, code=FailureCode.CLOUD_ERROR, reason="BUSY")),
        (busy(100, "R" * 100), Failed(4, code=FailureCode.CLOUD_ERROR, reason="R" * LONGEST_REASON, retry_after_s=100)),
    ],
)
@jumping
async def test_who_gives_up_is_told_why(error: CloudError, told: Failed) -> None:
    async with Bench(retry_s=60).running() as bench:
        bench.mode.always_says = error
        bench.device.ask(ANNA, 4, 300)
        await bench.answered(ANNA)
        assert bench.answers(ANNA)[-1] == told
        assert "failed" in bench.steps


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KEY_REFUSED, Failed(4, code=FailureCode.CREDENTIALS_REFUSED)),
        (refused("DEVICE_ALREADY_IN_HOME"), Failed(4, code=FailureCode.ALREADY_PROVISIONED)),
        (refused("NO"), Failed(4, code=FailureCode.CLAIM_REFUSED, reason="NO")),
        (refused("R" * 65), Failed(4, code=FailureCode.CLAIM_REFUSED, reason="R" * 64)),
        # Half a letter is none, and a lone surrogate has no octets.
        (refused("€" * 22), Failed(4, code=FailureCode.CLAIM_REFUSED, reason="€" * 21)),
        (refused("\ud800!"), Failed(4, code=FailureCode.CLAIM_REFUSED, reason="?!")),
        (refused(status=404), Failed(4, code=FailureCode.CLAIM_REFUSED, reason="HTTP 404")),
    ],
)
@jumping
async def test_a_refusal_is_told_at_once_with_a_bounded_reason(error: CloudError, told: Failed) -> None:
    async with Bench().running() as bench:
        bench.mode.to_say = [error]
        began_at = now()
        bench.device.ask(ANNA, 4, 300)
        await bench.answered(ANNA)
        assert now() - began_at < 1
        assert bench.answers(ANNA)[1:] == [told]
        assert len(told.reason.encode()) <= LONGEST_REASON == 64
        assert not bench.device.is_asked
        assert bench.device.on_s == 0


@jumping
async def test_a_refusal_makes_a_settled_device_look() -> None:
    async with Bench().running() as bench:
        await asyncio.sleep(2 * LONGEST_CLAIM_S)
        looks = len(bench.mode.looks)
        bench.mode.home, bench.mode.to_say = 5, [refused("DEVICE_ALREADY_IN_HOME")]
        bench.device.ask(ANNA, 4, 300)
        await bench.reported("provisioned")
        assert len(bench.mode.looks) > looks


# Looking at MODE ------------------------------------------------------------------------------------------------------


@jumping
async def test_a_device_in_a_home_announces_itself_once_and_then_keeps_that() -> None:
    async with Bench().running() as bench:
        bench.mode.home = 5
        await bench.reported("provisioned")
        assert bench.happened == ["event", "saved: in a home"]
        assert bench.durable == replace(FRESH, is_claimed=True, was_opened=True)
        assert bench.changes == [(True, False)]
        assert bench.steps.count("claimed") == 1


@jumping
async def test_no_further_look_sends_the_event_again() -> None:
    async with Bench().running() as bench:
        bench.mode.home = 5
        await bench.reported("provisioned")
        for _ in range(5):
            looks = len(bench.mode.looks)
            bench.device.look()
            await asyncio.sleep(60)
            assert len(bench.mode.looks) == looks + 1
        assert bench.happened == ["event", "saved: in a home"]


@jumping
async def test_a_device_that_was_in_its_home_when_it_was_started_sends_no_event() -> None:
    async with Bench(IN_HOME).running() as bench:
        assert bench.device.is_claimed
        bench.mode.home = 5
        await asyncio.sleep(600)
        assert bench.happened == []
        assert bench.changes == []
        assert len(bench.mode.looks) == 1


@jumping
async def test_power_that_goes_before_the_event_leaves_it_for_the_next_start() -> None:
    async with Bench().running() as bench:
        bench.mode.home = 5
        bench.event_fails = [UNREACHABLE] * 1000
        await bench.reported("claimed")
        await asyncio.sleep(60)
        assert bench.device.is_claimed
        assert not bench.durable.is_claimed
    async with Bench(bench.durable).running() as restarted:
        restarted.mode.home = 5
        await restarted.reported("provisioned")
        assert restarted.happened == ["event", "saved: in a home"]


@jumping
async def test_an_event_that_mode_did_not_take_is_sent_again_until_it_does() -> None:
    async with Bench().running() as bench:
        bench.mode.home = 5
        bench.event_fails = [UNREACHABLE, SILENCE, busy(30)]
        await bench.reported("provisioned")
        assert bench.happened == ["event", "saved: in a home"]
        assert bench.steps.count("claimed") == 1
        assert bench.changes == [(True, False)]
        assert max(gaps(bench.mode.looks)) >= 30


@jumping
async def test_a_record_that_cannot_be_saved_is_told_and_tried_again_without_a_second_event() -> None:
    async with Bench().running() as bench:
        bench.mode.home = 5
        bench.save_fails = [StorageError("disk full")] * 3
        await bench.reported("provisioned")
        assert bench.steps.count("cannot write the record") == 3
        assert bench.happened == ["event", "saved: in a home"]
        assert bench.durable.is_claimed
        assert bench.device.record == bench.durable


@pytest.mark.parametrize("was_opened", [False, True])
@jumping
async def test_a_device_that_lost_its_home_waits_for_a_person_to_open_its_window(was_opened: bool) -> None:
    async with Bench(replace(IN_HOME, was_opened=was_opened)).running() as bench:
        await bench.reported("in no home any more")
        assert bench.durable == ClaimRecord(CODE, is_claimed=False, was_opened=True)
        assert bench.changes == [(False, False)]
        assert not bench.device.open_first_window()


@jumping
async def test_a_home_that_was_lost_and_found_again_gets_an_event_again() -> None:
    async with Bench().running() as bench:
        bench.mode.home = 5
        await bench.reported("provisioned")
        bench.mode.home = None
        bench.device.look()
        await bench.reported("in no home any more")
        bench.mode.home = 6
        await bench.until(lambda: bench.steps.count("provisioned") == 2)
        assert bench.happened == ["event", "saved: in a home", "saved: in none", "event", "saved: in a home"]


@jumping
async def test_a_lost_home_that_cannot_be_saved_is_tried_again() -> None:
    bench = Bench(IN_HOME)
    bench.save_fails = [StorageError("disk full")] * 2
    async with bench.running():
        await bench.reported("in no home any more")
        assert bench.steps.count("cannot write the record") == 2
        assert bench.happened == ["saved: in none"]
        assert bench.changes == [(False, False)]


@jumping
async def test_a_claimed_device_is_seen_soon_while_its_claim_mode_is_on() -> None:
    async with Bench().running() as bench:
        await asyncio.sleep(300)
        bench.device.turned_on(600)
        await asyncio.sleep(300)
        bench.mode.home = 5
        began_at = now()
        assert await bench.reported("claimed") - began_at <= 5
        await bench.reported("provisioned")
        # Only once it is settled: who is in a home is not claimed again.
        await asyncio.sleep(1)
        assert bench.device.on_s == 0


@jumping
async def test_a_companion_that_claims_at_once_is_seen_at_once() -> None:
    async with Bench().running() as bench:
        await asyncio.sleep(300)
        bench.device.ask(ANNA, 4, 300)
        await bench.answered(ANNA)
        bench.mode.home = 5
        began_at = now()
        assert await bench.reported("claimed") - began_at <= 0.5


@jumping
async def test_nobody_is_looked_for_once_no_claim_mode_can_be_on() -> None:
    async with Bench().running() as bench:
        began_at = now()
        await asyncio.sleep(3 * LONGEST_CLAIM_S)
        # An earlier process may have turned it on.
        assert LONGEST_CLAIM_S <= bench.mode.looks[-1] - began_at <= LONGEST_CLAIM_S + 30
        looks = len(bench.mode.looks)
        bench.device.turned_on(600)
        began_at = now()
        await asyncio.sleep(3 * LONGEST_CLAIM_S)
        assert len(bench.mode.looks) > looks
        assert 600 <= bench.mode.looks[-1] - began_at <= 640


@jumping
async def test_the_end_of_a_claim_mode_is_told_once() -> None:
    async with Bench().running() as bench:
        bench.device.turned_on(60)
        began_at = now()
        assert 60 <= await bench.reported("claim mode ended") - began_at <= 66
        assert bench.device.on_s == 0
        await asyncio.sleep(1200)
        assert bench.steps.count("claim mode ended") == 1


@jumping
async def test_a_claim_mode_turned_off_somewhere_else_is_off() -> None:
    async with Bench().running() as bench:
        bench.device.turned_on(600)
        assert bench.device.on_s == 600
        bench.device.turned_on(0)
        assert bench.device.on_s == 0
        await asyncio.sleep(1200)
        assert bench.steps == ["claim mode on", "claim mode off"]


@pytest.mark.parametrize("trouble", [UNREACHABLE, SILENCE, busy(), refused("NO")])
@jumping
async def test_looks_become_rare_once_the_claim_mode_has_ended_also_where_mode_is_not_seen(trouble: CloudError) -> None:
    async with Bench().running() as bench:
        bench.mode.hides = trouble
        bench.device.turned_on(60)
        began_at = now()
        await asyncio.sleep(1200)
        during = [at for at in bench.mode.looks if at - began_at <= 60]
        long_after = [at for at in bench.mode.looks if at - began_at >= 600]
        assert max(gaps(during)) <= 5
        assert min(gaps(long_after)) == pytest.approx(60)
        assert await bench.reported("claim mode ended") - began_at <= 66
        assert bench.device.on_s == 0


@jumping
async def test_a_device_that_cannot_see_mode_goes_on_looking_and_finds_its_home() -> None:
    async with Bench().running() as bench:
        bench.mode.hides = UNREACHABLE
        await asyncio.sleep(3 * LONGEST_CLAIM_S)
        bench.mode.hides, bench.mode.home = None, 5
        began_at = now()
        assert await bench.reported("provisioned") - began_at <= 61


@pytest.mark.parametrize(("said_s", "kept_s"), [(45, 45), (300, 300), (100_000, 3600)])
@jumping
async def test_a_look_comes_no_earlier_than_mode_says_for_an_hour_at_most(said_s: float, kept_s: float) -> None:
    async with Bench().running() as bench:
        bench.mode.hides = busy(said_s)
        bench.device.turned_on(600)
        await asyncio.sleep(10)
        bench.mode.hides, bench.mode.home = None, 5
        await bench.reported("provisioned")
        assert bench.mode.looks[-1] - bench.mode.looks[-2] == pytest.approx(kept_s, abs=0.01)


@jumping
async def test_a_key_that_is_refused_for_a_while_does_not_end_the_looking_while_the_claim_mode_may_be_on() -> None:
    async with Bench().running() as bench:
        await asyncio.sleep(2 * LONGEST_CLAIM_S)
        bench.mode.hides = KEY_REFUSED
        bench.device.turned_on(600)
        await bench.reported("removed in MODE")
        assert bench.changes == [(False, True)]
        await asyncio.sleep(60)
        bench.mode.hides, bench.mode.home = None, 5
        began_at = now()
        assert await bench.reported("provisioned") - began_at <= 6
        assert not bench.device.key_refused
        assert bench.steps.count("removed in MODE") == 1
        assert bench.changes == [(False, True), (True, False)]


@jumping
async def test_a_key_that_stays_refused_is_not_tried_for_ever() -> None:
    async with Bench().running() as bench:
        bench.mode.hides = KEY_REFUSED
        began_at = now()
        await asyncio.sleep(3 * LONGEST_CLAIM_S)
        assert bench.mode.looks[-1] - began_at <= LONGEST_CLAIM_S + 30
        assert bench.steps.count("removed in MODE") == 1
        bench.mode.hides = None
        bench.device.look()
        await bench.until(lambda: not bench.device.key_refused)
        assert bench.changes == [(False, True), (False, False)]


# Its first window, and its end ----------------------------------------------------------------------------------------


async def test_the_first_window_opens_once_and_that_is_durable_before_it_does() -> None:
    bench = Bench()
    assert bench.device.open_first_window()
    assert bench.durable == ClaimRecord(CODE, was_opened=True)
    assert bench.device.record == bench.durable
    assert not bench.device.open_first_window()
    assert bench.happened == ["saved: in none"]
    assert not Bench(bench.durable).device.open_first_window()


async def test_the_first_window_stays_shut_while_it_cannot_be_kept_that_it_was_opened() -> None:
    bench = Bench()
    bench.save_fails = [StorageError("disk full")]
    with pytest.raises(StorageError):
        bench.device.open_first_window()
    assert not bench.device.record.was_opened
    assert bench.device.open_first_window()


@pytest.mark.parametrize("moment", ["settled", "asking", "put off", "apart", "announcing"])
@jumping
async def test_whoever_cancels_it_leaves_no_task(moment: str) -> None:
    before = asyncio.all_tasks()
    bench = Bench(retry_s=600)
    async with bench.running():
        match moment:
            case "settled":
                bench.mode.home = 5
                await bench.reported("provisioned")
            case "asking":
                bench.mode.answer_s = 3
                bench.device.ask(ANNA, 4, 300)
                await bench.mode.asked.wait()
            case "put off":
                bench.mode.always_says = UNREACHABLE
                bench.device.ask(ANNA, 4, 300)
                await bench.reported("waiting for MODE")
            case "apart":
                bench.device.ask(ANNA, 4, 300)
                await bench.answered(ANNA)
            case "announcing":
                bench.mode.home = 5
                await bench.reported("claimed")
        running = asyncio.all_tasks() - before
        assert running
    assert asyncio.all_tasks() == before
    assert all(task.done() for task in running)
    told, looks = list(bench.told), list(bench.mode.looks)
    await asyncio.sleep(3600)
    assert (bench.told, bench.mode.looks) == (told, looks)


def test_neither_the_record_nor_an_answer_shows_the_claim_code() -> None:
    assert CODE not in repr(FRESH)
    assert CODE not in repr(Claimable(1, claim_code=CODE, until=0))


@jumping
async def test_a_put_off_that_nobody_waits_for_keeps_registrations_apart_too() -> None:
    async with Bench(retry_s=60).running() as bench:
        bench.mode.always_says = busy(100)
        for number in range(5):
            session = SessionId(f"companion {number}", bytes([number]) * 8)
            bench.device.ask(session, 1, 60)
            await bench.answered(session)
        assert min(gaps(bench.mode.asked_at)) >= 1


@jumping
async def test_the_jitter_takes_nothing_from_the_second_between_registrations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claiming, "random", SimpleNamespace(uniform=lambda low, _high: low))
    async with Bench(retry_s=60).running() as bench:
        bench.mode.to_say = [busy()]
        bench.device.ask(ANNA, 1, 60)
        await bench.answered(ANNA)
        assert min(gaps(bench.mode.asked_at)) >= 1


@jumping
async def test_modes_confirmation_counts_more_than_a_record_of_a_home_that_was_lost() -> None:
    async with Bench(IN_HOME).running() as bench:
        bench.mode.hides = busy(30)
        await asyncio.sleep(5)
        bench.device.ask(ANNA, 4, 300)
        await bench.answered(ANNA)
        assert isinstance(bench.answers(ANNA)[-1], Claimable)


@jumping
async def test_whoever_waits_hears_from_the_device_before_its_30_s_patience_ends() -> None:
    async with Bench(retry_s=120).running() as bench:
        bench.mode.to_say = [busy(45)]
        bench.device.ask(ANNA, 4, 300)
        await bench.answered(ANNA)
        assert max(gaps([t.at for t in bench.told])) < 30


@jumping
async def test_a_home_lost_unsaved_then_a_new_home_gets_its_event() -> None:
    bench = Bench(IN_HOME)
    bench.save_fails = [StorageError("disk full")]
    async with bench.running():
        await bench.reported("cannot write the record")
        bench.mode.home = 6
        bench.device.look()
        await asyncio.sleep(60)
        assert "event" in bench.happened
