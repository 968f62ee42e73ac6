"""Which devices wait for commands, on how many sockets; a command that no socket waits for is not kept."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

BACKLOG: Final = 1000
"""How many commands wait for a slow device; further ones are lost to it."""

END: Final = None
"""What a socket's inbox gives when the socket must close."""

Inbox = asyncio.Queue[str | None]


class CommandHub:
    """Passes commands on to the devices that are connected now."""

    def __init__(self) -> None:
        self._inboxes: defaultdict[int, list[Inbox]] = defaultdict(list)

    @contextlib.contextmanager
    def connected(self, device_id: int) -> Iterator[Inbox]:
        """Count as one socket of the device, and receive its commands, while the context lasts."""
        inbox = Inbox(BACKLOG)
        self._inboxes[device_id].append(inbox)
        try:
            yield inbox
        finally:
            remaining = [other for other in self._inboxes.pop(device_id) if other is not inbox]
            if remaining:
                self._inboxes[device_id] = remaining

    def sockets(self, device_id: int) -> int:
        """How many sockets the device has."""
        return len(self._inboxes.get(device_id, ()))

    def send(self, device_id: int, command: str) -> bool:
        """Give the command to every socket of the device; never waits. False if there is none."""
        for inbox in self._inboxes.get(device_id, ()):
            with contextlib.suppress(asyncio.QueueFull):
                inbox.put_nowait(command)
        return device_id in self._inboxes

    def disconnect(self, device_id: int) -> None:
        """Close every socket of the device; commands that still wait are lost."""
        for inbox in self._inboxes.get(device_id, ()):
            while not inbox.empty():
                inbox.get_nowait()
            inbox.put_nowait(END)
