"""A device's own connection to MODE: commands come in and events go out, for as long as the device's program runs.

It reconnects for ever, and never sends an event again that may have taken effect.

async with DeviceConnection(credentials.load(path)) as mode:
    await mode.trigger_event("temperature", {"value": 21})
    async for command in mode.commands():
        ...
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from bletoken.errors import CloudError, CloudRefusedError, DeviceRemovedError
from bletoken.mode.credentials import Credentials
from bletoken.mode.device_api import DeviceApi
from bletoken.mode.http import PING_S, TIMEOUT_S
from bletoken.mode.models import Command
from bletoken.mode.retry import RetryPolicy, retrying
from bletoken.mode.web_socket import Inbox

RECONNECT: Final = RetryPolicy(first_delay_s=1.0, longest_delay_s=60.0, deadline_s=math.inf)
"""How to pause between two connections, for ever. After one that lasted `longest_delay_s` it begins anew."""

_log: Final = logging.getLogger(__name__)


class DeviceConnection:
    """Keeps a device connected to its MODE, while inside; an async context manager.

    Entering waits for no connection: a device works without a network as well. A peer that is gone is noticed within
    twice `ping_s`, and whatever loses the connection, another is made. Only a key that MODE does not accept any more
    ends that.

    Args:
        credentials: What MODE gave the device; `credentials.load` reads them.
        ca_file: A file of CA certificates to trust instead of the system's.
        on_change: Is told from the event loop when the device gets connected (None), and when it is not any more, or
            not at first (why). What it raises ends the connection.
        timeout_s: Seconds that each request, and the opening of the connection, may take in all.
        ping_s: Seconds after which MODE is asked for a sign of life, and again that it has to give one.
        retry: How long and how often to repeat an event that had no effect.
        reconnect: How to pause between two connections; its deadline does not count.
        sleep: Waits so many seconds.
        clock: Seconds that never go back.
        jitter: A random number from 0 to 1; no secret hangs on it.

    Raises:
        UsageError: The credentials' URL, or when entered the file, is not usable.
        BletokenError: On leaving: the connection has ended early, and nobody was in `commands` to be told.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        ca_file: Path | None = None,
        on_change: Callable[[CloudError | None], None] = lambda _: None,
        timeout_s: float = TIMEOUT_S,
        ping_s: float = PING_S,
        retry: RetryPolicy | None = None,
        reconnect: RetryPolicy = RECONNECT,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._device_id: Final = credentials.device_id
        self._key: Final = credentials.api_key
        self._api: Final = DeviceApi(credentials.mode_url, ca_file=ca_file, timeout_s=timeout_s)
        self._on_change: Final = on_change
        self._ping_s: Final = ping_s
        self._retry: Final = retry or RetryPolicy()
        self._reconnect: Final = reconnect
        self._sleep: Final = sleep
        self._clock: Final = clock
        self._jitter: Final = jitter
        self._inbox: Final[Inbox[Command]] = Inbox()
        self._is_connected: bool | None = None
        self._told = False

    async def __aenter__(self) -> Self:
        await self._api.__aenter__()
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.cancel()
        self._inbox.end(None)
        await asyncio.wait({self._running})
        await self._api.__aexit__(kind, error, trace)
        ended_by = None if self._running.cancelled() else self._running.exception()
        if ended_by is not None and error is None and not self._told:
            raise ended_by

    async def commands(self) -> AsyncIterator[Command]:
        """What the device is to do, in order of arrival, over all connections; ends when the connection is left.

        MODE keeps nothing for a device that is not connected, and neither are more than `web_socket.MOST_WAITING`
        commands kept here while they are not taken: then the oldest are dropped. Each is given to one taker.

        Raises:
            DeviceRemovedError: MODE does not accept the device's key any more.
            UsageError: The key is not usable.
        """
        try:
            async for command in self._inbox:
                yield command
        except Exception:
            self._told = True
            raise

    async def trigger_event(self, event_type: str, event_data: Mapping[str, Any] | None = None) -> None:
        """Tell the home that something happened; needs no connection, for it is a request of its own.

        It is repeated for a while where it had no effect: it provably never left, or MODE said "later" (429, 503).

        Args:
            event_type: What happened.
            event_data: More about it; anything that JSON can say.

        Raises:
            CloudNoAnswerError: Nobody can tell whether the home was told; it is not repeated.
            CloudUnreachableError, CloudRetryLaterError: The home was not told.
            CloudRefusedError: MODE refused the event.
            DeviceRemovedError: MODE does not accept the device's key any more.
        """
        try:
            await retrying(
                self._retry,
                lambda: self._api.trigger_event(self._device_id, self._key, event_type, event_data),
                sleep=self._sleep,
                clock=self._clock,
                jitter=self._jitter,
            )
        except CloudRefusedError:
            await self._check_key()
            raise

    async def _run(self) -> None:
        try:
            await self._stay_connected()
        except Exception as e:
            self._inbox.end(e)
            raise

    async def _stay_connected(self) -> None:
        failures = 0
        while True:
            opened_at: float | None = None
            try:
                async with self._api.commands(self._device_id, self._key, ping_s=self._ping_s) as commands:
                    opened_at = self._clock()
                    self._change(None)
                    async for command in commands:
                        self._inbox.put(command)
            except CloudError as e:
                error = e
            self._change(error)
            if opened_at is not None and self._clock() - opened_at >= self._reconnect.longest_delay_s:
                failures = 0
            elif opened_at is not None or isinstance(error, CloudRefusedError):
                # A key that is not accepted may be told so, or by hanging up.
                await self._check_key()
            failures += 1
            pause_s = self._reconnect.pause_s(error, failures=failures, jitter=self._jitter())
            _log.info("device %d is not connected to MODE, again in %.1f s: %s", self._device_id, pause_s, error)
            await self._sleep(pause_s)

    async def _check_key(self) -> None:
        """Raise `DeviceRemovedError` where MODE says that this key is not this device's."""
        try:
            is_accepted = await self._api.accepts(self._device_id, self._key)
        except CloudError:
            # Nothing is known then.
            return
        if not is_accepted:
            raise DeviceRemovedError(f"MODE does not accept the key of device {self._device_id} any more")

    def _change(self, error: CloudError | None) -> None:
        if self._is_connected is not (error is None):
            self._is_connected = error is None
            self._on_change(error)
