"""An event loop that never waits: where nothing is ready, its clock jumps to the next timer.

What runs on it keeps its order and its durations, and takes the time of its computations alone. All ends of every
socket must be on the same loop; what threads do is waited for.
"""

import asyncio
import selectors
import time
from collections.abc import Callable
from typing import Any


class WarpedLoop(asyncio.SelectorEventLoop):
    """A loop with a clock of its own, which begins at 0 and stands still while something runs."""

    def __init__(self) -> None:
        self._ahead_s = 0.0
        self._in_threads = 0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        """Seconds on the loop's clock."""
        return self._ahead_s

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Have a thread do something; the clock goes on like everybody's meanwhile."""
        future = super().run_in_executor(executor, func, *args)
        self._in_threads += 1
        future.add_done_callback(self._thread_done)
        return future

    def _thread_done(self, _: object) -> None:
        self._in_threads -= 1

    def nothing_ready(self, timeout_s: float | None) -> float | None:
        """Jump ahead if nobody else works.

        Returns:
            Seconds for which the loop has to wait after all; None for as long as it takes.
        """
        if self._in_threads or timeout_s is None:
            return timeout_s
        self._ahead_s += timeout_s
        return 0.0

    def waited(self, seconds: float) -> None:
        """Count what was really waited."""
        self._ahead_s += seconds


class _Jumping(selectors.DefaultSelector):
    """Looks whether anything is ready, and has the loop jump instead of waiting."""

    def __init__(self, loop: WarpedLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        wait_s = self._loop.nothing_ready(timeout)
        if wait_s == 0:
            return []
        began_at = time.monotonic()
        ready = super().select(wait_s)
        self._loop.waited(time.monotonic() - began_at)
        return ready
