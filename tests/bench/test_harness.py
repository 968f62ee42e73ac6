"""The benchmark measures what it says: its clock, its bound, and that nobody is missing from a report."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from bench import bound
from bench.clock import End, LinkLoop, task_of
from bench.floor import Floor
from bench.ours import Bletoken
from bench.stage import HAS_TOKEN, RESULT, Cell, Contender, DidNotFinishError, Stage, Trial, run
from handoff.warp import WarpedLoop

CELLS = pytest.mark.parametrize(
    "cell", [Cell(0.0075, 23, 60), Cell(0.015, 185, 200), Cell(0.05, 517, 1000)], ids=lambda cell: f"mtu-{cell.mtu}"
)


@CELLS
@pytest.mark.parametrize(
    ("contender", "requests"),
    [(Floor(), bound.floor_requests), (Bletoken(), bound.our_requests)],
    ids=["floor", "bletoken"],
)
def test_the_link_takes_the_requests_of_the_bound_and_their_time(
    cell: Cell, contender: Contender, requests: Callable[[Cell], int]
) -> None:
    trial = run(contender, cell, seed=1)
    assert trial.requests == requests(cell), trial.opcodes
    assert trial.events == 2 * trial.requests
    assert trial.connected_s == trial.advert_wait_s
    least_s = trial.advert_wait_s + bound.seconds(cell, requests(cell))
    # Computing may cost events, but each is one interval: the link's own time is exact.
    assert least_s <= trial.has_token_s
    assert least_s <= trial.result_s


@pytest.mark.parametrize("mtu", [185, 247, 517])
@pytest.mark.parametrize("token_size", [60, 200, 1000])
def test_bletoken_takes_one_round_trip_more_than_the_floor_and_the_frames_that_the_sizes_force(
    mtu: int, token_size: int
) -> None:
    cell = Cell(0.015, mtu, token_size)
    assert run(Bletoken(), cell, seed=1).requests == bound.goal_requests(cell)


def test_all_meet_adverts_at_the_same_moments() -> None:
    cell = Cell(0.015, 247, 60)

    def wait_s(trial: Trial) -> float:
        return round(trial.advert_wait_s, 3)

    floor, ours = (wait_s(run(contender, cell, seed=7)) for contender in (Floor(), Bletoken()))
    assert floor == ours
    assert 0.1 <= floor < 0.112


class Silent(Floor):
    """Takes the token and never says so."""

    name = "silent"

    async def device(self, stage: Stage, token: bytes) -> None:
        await super().device(stage, token + b"more")


class Absent(Floor):
    """Never comes on the air."""

    name = "absent"

    async def device(self, stage: Stage, token: bytes) -> None:
        raise OSError("no radio")


class Boastful(Floor):
    """Says that it has finished, and has not heard so."""

    name = "boastful"

    async def companion(self, stage: Stage, token: bytes) -> None:
        await super().companion(replace(stage, marks={HAS_TOKEN: 0.0, RESULT: 0.0}), token)


@pytest.mark.parametrize(
    ("contender", "why"),
    [
        (Silent(), "TimeoutError"),
        (Absent(), "no radio"),
        (Boastful(), "does not know what became of the token"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_contender_that_did_not_finish_fails_the_run(contender: Contender, why: str) -> None:
    with pytest.raises(DidNotFinishError, match=why):
        run(contender, Cell(0.015, 247, 60), seed=1)


def on(loop_class: type[asyncio.AbstractEventLoop], work: Any) -> Any:
    with asyncio.Runner(loop_factory=loop_class) as runner:
        return runner.run(work)


def test_the_warped_loop_does_not_wait_and_keeps_the_order() -> None:
    heard: list[float] = []

    async def sleeper(seconds: float) -> None:
        await asyncio.sleep(seconds)
        heard.append(asyncio.get_running_loop().time())

    async def work() -> None:
        await asyncio.gather(*(sleeper(seconds) for seconds in (86400.0, 7.5, 3600.0)))

    on(WarpedLoop, work())
    assert heard == [7.5, 3600.0, 86400.0]


def test_the_warped_loop_waits_for_threads() -> None:
    async def work() -> float:
        loop = asyncio.get_running_loop()
        sleeping = asyncio.create_task(asyncio.sleep(3600))
        await asyncio.to_thread(time.sleep, 0.05)
        assert not sleeping.done()
        sleeping.cancel()
        return loop.time()

    assert 0 < on(WarpedLoop, work()) < 3600


def test_what_the_ends_compute_is_on_the_clock_and_what_the_world_computes_is_not() -> None:
    def compute() -> None:
        began_at = time.thread_time()
        while time.thread_time() - began_at < 0.02:
            pass

    async def turn(seconds: float) -> None:
        await asyncio.sleep(seconds)
        # A callback belongs to whoever made it.
        asyncio.get_running_loop().call_soon(compute)

    async def work() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, LinkLoop)
        await turn(1)
        await asyncio.sleep(1)
        between_s = loop.time()
        await task_of(End.DEVICE, turn(1))
        await asyncio.sleep(1)
        assert loop.spent_s(End.DEVICE) >= 0.02 > loop.spent_s(End.COMPANION)
        assert loop.spent_s(End.WORLD) >= 0.02
        assert loop.time() - between_s >= 2.02
        return between_s

    assert on(LinkLoop, work()) == 2.0
