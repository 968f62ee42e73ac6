"""Runs trials in processes of their own, one for each core; in each, time jumps, and a defence may be taken out."""

import asyncio
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from torture import warp
from torture.plan import Plan
from torture.report import Result, Trial
from torture.sabotage import DEFENCES

T = TypeVar("T")

HANG_S = 1800
"""Seconds of the world's own time after which a hand-off hangs: every limit of the products is well below."""

LOADED = (
    "bletoken.mode.device_api",
    "bletoken.mode.user_api",
    "bletoken.mode.web_socket",
    "bletoken.sim.air.bleak_backend",
    "bletoken.sim.air.bless_server",
    "bletoken.sim.air.hub",
    "bletoken.sim.cloud.server",
    "bletoken_central.onboarding",
    "bletoken_peripheral.onboarding",
)
"""What every trial needs, loaded once for all processes: it takes longer than a trial."""

IN_MEMORY = Path("/dev/shm")
"""Where Linux keeps files in memory: what is tried here is not about disks, which would take most of the time."""


@dataclass(frozen=True)
class Case:
    """One fault that waits to be tried.

    Attributes:
        fault: Its name.
        world: What happens in its world: a function of a module, for it goes to another process by its name. It gets
            an empty folder, the fault's name and the arguments.
        arguments: More about it.
        seed: What comes from chance in it comes from this.
        settle_s: See `warp.run`.
        hang_s: See `HANG_S`.
    """

    fault: str
    world: Callable[..., Coroutine[Any, Any, Trial]]
    arguments: tuple[Any, ...] = ()
    seed: int = 0
    settle_s: float = 0.0
    hang_s: float = HANG_S

    def run(self, folder: Path) -> Trial:
        """Try it, in this process."""
        try:
            with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else folder) as own:
                world = self.world(Path(own), self.fault, *self.arguments)
                return warp.run(_watched(world, self.hang_s), self.seed, settle_s=self.settle_s)
        except (TimeoutError, warp.StandstillError) as error:
            return Trial(self.fault, Result.HUNG, str(error) or "it came to no end")
        except AssertionError as error:
            # The bench's own patience ends with one.
            return Trial(self.fault, Result.HUNG if "in vain" in str(error) else Result.LOST, str(error))
        except Exception as error:  # noqa: BLE001 whatever nobody foresaw is a finding, and no reason to stop
            [*_, where] = traceback.extract_tb(error.__traceback__)
            return Trial(self.fault, Result.LOST, f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})")


async def _watched(world: Coroutine[Any, Any, Trial], hang_s: float) -> Trial:
    unheard: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(str(context)))
    async with asyncio.timeout(hang_s):
        trial = await world
    if trial.result is Result.SURVIVED and unheard:
        # An error in a callback, or of a task that nobody waited for.
        return replace(trial, result=Result.LOST, detail=f"nobody heard of {unheard[0]}")
    return trial


class Workers:
    """The processes.

    Args:
        plan: What is asked for.
        executor: Where they are.
    """

    def __init__(self, plan: Plan, executor: ProcessPoolExecutor) -> None:
        self._plan = plan
        self._executor = executor

    @classmethod
    @asynccontextmanager
    async def started(cls, plan: Plan) -> AsyncIterator["Workers"]:
        """As many processes as there are cores, for the length of the block."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(LOADED))
        processes = int(os.environ.get("BLETOKEN_TEST_PROCESSES") or os.cpu_count() or 1)
        with ProcessPoolExecutor(processes, context, _prepare, (plan.without,)) as executor:
            yield cls(plan, executor)

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Call a function in one of them."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    async def trials(self, cases: Sequence[Case]) -> AsyncIterator[Trial]:
        """Try the cases that the plan wants, and tell of each in order."""
        wanted = [case for case in cases if self._plan.wants(case.fault)]
        tasks = [asyncio.ensure_future(self.call(case.run, self._plan.folder)) for case in wanted]
        try:
            for task in tasks:
                yield await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _prepare(without: str | None) -> None:
    warp.install()
    if without is not None:
        DEFENCES[without]()
