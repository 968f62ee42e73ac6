"""A world in which time jumps: an event loop whose clock goes ahead to the next timer whenever nothing is left to do.

Everything that runs in it is real and none of it waits: the programs' own code, their libraries, their sockets. What
depends on nothing but a seed comes out the same each time, to the last digit of its times. The products have no switch
for it: what tells the time is replaced here, in a process that does nothing else.
"""

import asyncio
import datetime as dt
import importlib
import random
import selectors
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

BEGAN_AT = 1_767_225_600.0
"""The wall clock of every world when it begins: the first second of 2026, UTC."""

MOST_TURNS = 1_000_000
"""Turns of the loop in which no time passes; more than that, and somebody runs in circles."""

_WITH_DATETIME = (
    "bletoken.mode.http",
    "bletoken_central.claiming",
    "bletoken_central.handoff",
    "bletoken_central.session",
)
"""The modules that ask `datetime` what time it is; it belongs to the interpreter and cannot be changed there."""


class StandstillError(Exception):
    """Everybody waits for somebody else, or somebody runs in circles: nothing would ever happen again."""


class Clock:
    """Seconds since this world began, moved by hand."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    def monotonic(self) -> float:
        # Not from 0: a library may take that for "never".
        return 1000.0 + self.passed_s

    def time(self) -> float:
        return BEGAN_AT + self.passed_s

    def time_ns(self) -> int:
        return round(self.time() * 10**9)


_clock = Clock()


class _Datetime(dt.datetime):
    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> "_Datetime":
        return cls.fromtimestamp(_clock.time(), tz)


def install() -> None:
    """Let this process tell the time of its world, for good."""
    time.monotonic = lambda: _clock.monotonic()  # type: ignore[assignment]
    time.perf_counter = lambda: _clock.monotonic()  # type: ignore[assignment]
    time.clock_gettime = lambda _: _clock.monotonic()  # type: ignore[assignment]
    time.time = lambda: _clock.time()  # type: ignore[assignment]
    time.time_ns = lambda: _clock.time_ns()  # type: ignore[assignment]
    for name in _WITH_DATETIME:
        importlib.import_module(name).datetime = _Datetime  # type: ignore[attr-defined]
    # These took the function itself, when they were defined.
    importlib.import_module("bletoken.mode.retry").retrying.__kwdefaults__["clock"] = time.monotonic
    importlib.import_module("bletoken.sim.cloud.server").serve.__wrapped__.__kwdefaults__["clock"] = time.time_ns


def run(world: Coroutine[Any, Any, T], seed: int, *, settle_s: float = 0.0) -> T:
    """Run one world from its beginning to its end.

    Args:
        world: What happens in it.
        seed: What the products' jitter comes from.
        settle_s: Real seconds for which sockets are listened to before time jumps. With 0 no connection goes through
            the kernel's TCP, so that all that was sent is there at once, and nothing comes out differently.

    Raises:
        StandstillError: It would never end.
    """
    random.seed(seed)
    _clock.passed_s = 0.0
    with asyncio.Runner(loop_factory=lambda: WarpLoop(_clock, settle_s)) as runner:
        return runner.run(world)


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type] # it is another class on each platform
    def __init__(self, clock: Clock, settle_s: float) -> None:
        super().__init__()
        self._clock = clock
        self._settle_s = settle_s
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        is_idle = timeout is None or timeout > 0
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(self._settle_s if is_idle else 0)
        if ready or not is_idle:
            self._turns += 1
            if self._turns > MOST_TURNS:
                self._turns = 0
                raise StandstillError("somebody runs in circles")
            return ready
        if timeout is None:
            raise StandstillError("everybody waits for somebody else")
        self._turns = 0
        self._clock.passed_s += timeout
        return ready


class _Wire(socket.socket):
    """One end of a connection that looks as if it came from this machine over TCP."""

    def getpeername(self) -> tuple[str, int]:
        return "127.0.0.1", 1

    getsockname = getpeername


class WarpLoop(asyncio.SelectorEventLoop):
    """The loop of one world."""

    def __init__(self, clock: Clock, settle_s: float) -> None:
        super().__init__(_Selector(clock, settle_s))
        self._clock = clock
        self._goes_through_the_kernel = settle_s > 0
        self._listening: dict[int, tuple[asyncio.Server, Callable[[], asyncio.BaseProtocol]]] = {}

    def time(self) -> float:
        return self._clock.monotonic()

    def run_in_executor(self, executor: object, func: Callable[..., T], *args: object) -> "asyncio.Future[T]":
        """Call it here and now: a thread would finish when it likes."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 whatever it raises is for whoever awaits it
            future.set_exception(error)
        return future

    async def create_server(self, protocol_factory: Any, *args: Any, **options: Any) -> asyncio.Server:
        server = await super().create_server(protocol_factory, *args, **options)
        self._listening[server.sockets[0].getsockname()[1]] = server, protocol_factory
        return server

    async def create_connection(
        self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any
    ) -> tuple[asyncio.Transport, Any]:
        if self._goes_through_the_kernel or host is None:
            return await super().create_connection(protocol_factory, host, port, **options)
        server, factory = self._listening.get(port, (None, None))
        if server is None or not server.is_serving():
            raise ConnectionRefusedError(f"nobody listens on {port}")
        near, far = (_Wire(fileno=end.detach()) for end in socket.socketpair())
        for end in (near, far):
            end.setblocking(False)
        await self.connect_accepted_socket(factory, far)
        return await super().create_connection(protocol_factory, sock=near)
