"""What is under way on the virtual radio ends with it."""

import asyncio
from contextlib import suppress

import pytest

from bletoken.sim.air.radio import AbandonedError, Operations


async def _of_two_requests(answers: list[asyncio.Future[None]]) -> None:
    for answer in answers:
        with suppress(asyncio.CancelledError):  # As `asyncio.wait_for` until Python 3.11, where the answer has come.
            await answer
    await asyncio.Event().wait()


async def test_an_operation_answered_in_the_very_turn_in_which_it_is_abandoned_ends_too() -> None:
    operations = Operations()
    answers: list[asyncio.Future[None]] = [asyncio.get_running_loop().create_future() for _ in range(2)]
    caller = asyncio.create_task(operations.run(_of_two_requests(answers)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    answers[0].set_result(None)
    operations.abandon()
    async with asyncio.timeout(5):
        await operations.drained()
        with pytest.raises(AbandonedError):
            await caller
