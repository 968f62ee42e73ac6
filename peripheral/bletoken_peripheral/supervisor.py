"""Tells systemd that the device is ready, alive and stopping (sd_notify(3)); without systemd it does nothing.

The sign of life comes from the event loop, so a loop that hangs is noticed, and the device is started anew.
"""

import asyncio
import contextlib
import math
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping


class Supervisor:
    """The line to systemd.

    Args:
        environment: Where systemd says whom to notify, and how often.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._interval_s = _interval_s(environment)

    def ready(self) -> None:
        """The device does what it is there for."""
        self._notify("READY=1")

    @property
    def interval_s(self) -> float:
        """Seconds between two signs of life; infinite where nobody wants any."""
        return self._interval_s if self._address and self._interval_s else math.inf

    @contextlib.asynccontextmanager
    async def watched(self, alive: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
        """Give signs of life while inside, twice as often as systemd wants at least; say at the end that it is one.

        Args:
            alive: Is called with each, for what can be done when the process is awake anyway.
        """
        living = asyncio.create_task(self._live(alive)) if math.isfinite(self.interval_s) else None
        try:
            yield
        finally:
            if living is not None:
                living.cancel()
                await asyncio.wait({living})
            self._notify("STOPPING=1")

    async def _live(self, alive: Callable[[], None]) -> None:
        while True:
            self._notify("WATCHDOG=1")
            alive()
            await asyncio.sleep(self._interval_s)

    def _notify(self, message: str) -> None:
        if not self._address or not hasattr(socket, "AF_UNIX"):
            return
        # A name in the abstract namespace begins with "@".
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        # Whether somebody listens changes nothing for the device.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.setblocking(False)
            line.sendto(message.encode("ascii"), address)


def _interval_s(environment: Mapping[str, str]) -> float:
    """Seconds between two signs of life; 0 for none."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0
    try:
        return max(0, int(environment.get("WATCHDOG_USEC", "0"))) / 2e6
    except ValueError:
        return 0
