"""Whose work the processor does: event loops that count it for each end of the air, with a real or a warped clock."""

import asyncio
import contextvars
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from enum import StrEnum
from typing import Any

from handoff.warp import WarpedLoop


class End(StrEnum):
    """Who works."""

    WORLD = "world"
    """The air, the cloud and the benchmark itself: there is nothing of it in a real hand-off."""
    DEVICE = "device"
    COMPANION = "companion"


_END: contextvars.ContextVar[End] = contextvars.ContextVar("end", default=End.WORLD)


def task_of(end: End, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """A task for one end; whatever comes of it, also in callbacks, is that end's work."""
    context = contextvars.copy_context()
    context.run(_END.set, end)
    return asyncio.get_running_loop().create_task(work, context=context)


class _Counting(asyncio.SelectorEventLoop):
    """Counts the processor time of every callback for the end that it belongs to."""

    def __init__(self) -> None:
        self.cpu_s: Counter[End] = Counter()
        self._running: tuple[End, float] | None = None
        super().__init__()

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        return super().call_soon(self._counted, callback, *args, context=context)

    def call_soon_threadsafe(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        return super().call_soon_threadsafe(self._counted, callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        return super().call_at(when, self._counted, callback, *args, context=context)

    def _add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> Any:
        return super()._add_reader(fd, self._counted, callback, *args)

    def _add_writer(self, fd: Any, callback: Callable[..., Any], *args: Any) -> Any:
        return super()._add_writer(fd, self._counted, callback, *args)

    def _counted(self, callback: Callable[..., Any], *args: Any) -> None:
        end, began_at = _END.get(), time.thread_time()
        self._running = end, began_at
        try:
            callback(*args)
        finally:
            self.cpu_s[end] += time.thread_time() - began_at
            self._running = None

    def spent_s(self, end: End) -> float:
        """Processor time of an end so far."""
        running_s = 0.0
        if self._running and self._running[0] is end:
            running_s = time.thread_time() - self._running[1]
        return self.cpu_s[end] + running_s


class RealLoop(_Counting):
    """On everybody's clock."""


class LinkLoop(_Counting, WarpedLoop):
    """On a clock of two parts: what the link makes everybody wait, exactly, and what the two ends compute meanwhile.

    Their work is added up, although two machines would do some of it at the same time; waiting for a disk or another
    process is not on this clock, and nor is the work of the air and the cloud.
    """

    def time(self) -> float:
        return super().time() + self.spent_s(End.DEVICE) + self.spent_s(End.COMPANION)
