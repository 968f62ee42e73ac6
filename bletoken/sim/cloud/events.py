"""Who listens for the events of homes; nothing is kept for those who do not."""

import asyncio
import contextlib
from collections.abc import Iterator, Set
from typing import Final

BACKLOG: Final = 1000
"""How many events wait for a slow listener; further ones are lost to it."""


class EventHub:
    """Passes events on to the users who listen now."""

    def __init__(self) -> None:
        self._inboxes: list[tuple[int, asyncio.Queue[str]]] = []

    @contextlib.contextmanager
    def listening(self, user_id: int) -> Iterator[asyncio.Queue[str]]:
        """Receive this user's events while the context lasts."""
        entry = (user_id, asyncio.Queue[str](BACKLOG))
        self._inboxes.append(entry)
        try:
            yield entry[1]
        finally:
            # By identity: two sessions of one user are different listeners.
            self._inboxes[:] = [other for other in self._inboxes if other is not entry]

    def publish(self, event: str, user_ids: Set[int]) -> None:
        """Give the event to every listener among these users; never waits."""
        for user_id, inbox in self._inboxes:
            if user_id in user_ids:
                with contextlib.suppress(asyncio.QueueFull):
                    inbox.put_nowait(event)
