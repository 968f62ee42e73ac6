"""What a run of the torture is asked to do, and what a family of faults is."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from torture.report import Trial

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """One run.

    Attributes:
        folder: For whatever the run writes; each trial makes a folder of its own in it.
        seed: Everything that is chosen at random comes from it.
        quick: A sample of every kind of fault instead of all of them.
        without: The defence to take out, or None: then the family must find something wrong, or it proves nothing.
        only: Only faults with this text in their name, to try one alone again.
        remarks: What a family adds to be told under the table, beside what its trials tell.
    """

    folder: Path
    seed: int = 1
    quick: bool = False
    without: str | None = None
    only: str = ""
    remarks: list[str] = field(default_factory=list)

    def wants(self, fault: str) -> bool:
        return self.only in fault


class NotPossibleError(Exception):
    """A family, or some of it, could not be tried; the message says why."""


class Family(Protocol):
    """A module with one kind of trouble."""

    NAME: str
    """Its name in the table and on the command line."""

    DEFENCES: tuple[str, ...]
    """Which defences may be taken out, by their names in `sabotage`."""

    @staticmethod
    def trials(plan: Plan) -> AsyncIterator[Trial]:
        """Try one fault after the other."""


async def side_by_side(trials: Iterable[Callable[[], Awaitable[T]]]) -> AsyncIterator[T]:
    """Try faults, as many at a time as there are processors for; each comes when it is done."""
    waiting = iter(trials)
    most = int(os.environ.get("BLETOKEN_TEST_PROCESSES") or os.cpu_count() or 1)
    running = {asyncio.ensure_future(trial()) for trial in itertools.islice(waiting, most)}
    try:
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            running |= {asyncio.ensure_future(trial()) for trial in itertools.islice(waiting, len(done))}
            for trial in done:
                yield trial.result()
    finally:
        for trial in running:
            trial.cancel()
        await asyncio.gather(*running, return_exceptions=True)
