import pytest
from hypothesis import given
from hypothesis import strategies as st

from bletoken.errors import (
    CloudError,
    CloudNoAnswerError,
    CloudRefusedError,
    CloudRetryLaterError,
    CloudUnreachableError,
    NotSignedInError,
)
from bletoken.mode.retry import RetryPolicy, retrying

POLICY = RetryPolicy(first_delay_s=1, longest_delay_s=8, deadline_s=60)


def later(wait_s: float | None = None) -> CloudRetryLaterError:
    return CloudRetryLaterError("later", status=429, retry_after_s=wait_s)


@pytest.mark.parametrize(
    "error",
    [
        CloudNoAnswerError("lost"),
        CloudRefusedError("no", status=403),
        NotSignedInError("who", status=401),
        CloudUnreachableError("expired", certificate_time=True),
        CloudError("other"),
    ],
)
def test_what_may_have_had_an_effect_or_will_not_change_is_not_repeated(error: CloudError) -> None:
    assert POLICY.delay_s(error, failures=1, elapsed_s=0, jitter=0) is None


def test_the_pause_doubles_up_to_its_limit() -> None:
    error = CloudUnreachableError("down")
    pauses = [POLICY.delay_s(error, failures=n, elapsed_s=0, jitter=1) for n in range(1, 7)]
    assert pauses == [1, 2, 4, 8, 8, 8]


def test_nobody_comes_back_before_the_time_that_mode_named() -> None:
    assert POLICY.delay_s(later(30), failures=1, elapsed_s=0, jitter=0) == 30
    assert POLICY.delay_s(later(30), failures=1, elapsed_s=0, jitter=1) == 30.5


def test_a_time_beyond_the_deadline_ends_it_at_once() -> None:
    assert POLICY.delay_s(later(30), failures=1, elapsed_s=30, jitter=0) == 30
    assert POLICY.delay_s(later(30), failures=1, elapsed_s=31, jitter=0) is None


@given(
    failures=st.integers(1, 10**6),
    elapsed_s=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
    told_s=st.none() | st.floats(0, 3600),
)
def test_every_pause_is_within_the_deadline(
    failures: int, elapsed_s: float, jitter: float, told_s: float | None
) -> None:
    delay_s = POLICY.delay_s(later(told_s), failures=failures, elapsed_s=elapsed_s, jitter=jitter)
    assert delay_s is None or ((told_s or 0) <= delay_s and elapsed_s + delay_s <= POLICY.deadline_s)


class World:
    """A call that ends in these ways one after the other, and a clock that only sleeping moves."""

    def __init__(self, *ends: CloudError | str) -> None:
        self._ends = ends
        self.calls = 0
        self.now_s = 100.0
        self.slept_s: list[float] = []

    async def call(self) -> str:
        end = self._ends[min(self.calls, len(self._ends) - 1)]
        self.calls += 1
        if isinstance(end, CloudError):
            raise end
        return end

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds

    async def run(self) -> str:
        return await retrying(POLICY, self.call, sleep=self.sleep, clock=lambda: self.now_s, jitter=lambda: 1.0)


async def test_a_call_is_repeated_until_it_succeeds() -> None:
    world = World(CloudUnreachableError("down"), later(5), "done")
    assert await world.run() == "done"
    assert world.slept_s == [1, 6]


async def test_a_refusal_ends_the_call_at_once() -> None:
    world = World(CloudRefusedError("no", status=404))
    with pytest.raises(CloudRefusedError):
        await world.run()
    assert world.calls == 1


async def test_the_last_error_is_raised_when_the_deadline_is_over() -> None:
    world = World(CloudUnreachableError("down"))
    with pytest.raises(CloudUnreachableError):
        await world.run()
    assert world.now_s - 100 <= POLICY.deadline_s
    assert world.calls == len(world.slept_s) + 1


async def test_success_at_the_first_attempt_sleeps_never() -> None:
    world = World("done")
    assert await world.run() == "done"
    assert world.slept_s == []
