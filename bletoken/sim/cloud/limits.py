"""How many requests each key, and each project, may make in a minute; it counts and refuses, and never delays."""

import math
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from typing import Final, assert_never

from bletoken.sim.cloud.answers import RefusedError
from bletoken.sim.cloud.records import Device, ProjectKey, Session
from bletoken.sim.cloud.settings import Refusal, Settings

MINUTE_NS: Final = 60 * 10**9


class RateLimits:
    """Counts requests in whole minutes of the clock.

    Args:
        settings: The limits, and how an answer says when to come back.
        clock: Nanoseconds since the epoch.
    """

    def __init__(self, settings: Settings, clock: Callable[[], int]) -> None:
        self._settings = settings
        self._clock = clock
        self._minute = 0
        self._counts = Counter[tuple[str, str]]()

    def take(self, caller: Session | Device | ProjectKey) -> None:
        """Count one request of this caller.

        Raises:
            RefusedError: The caller, or its project, has made all that it may in this minute.
        """
        minute = self._clock() // MINUTE_NS
        if minute != self._minute:
            self._minute = minute
            self._counts.clear()
        match caller:
            case Device():
                limit, name = self._settings.requests_of_device, f"device {caller.id}"
            case Session():
                limit, name = self._settings.requests_of_user, caller.key
            case ProjectKey():
                limit, name = self._settings.requests_of_project_key, caller.key
            case other:
                assert_never(other)
        entries = {("key", name): limit, ("project", str(caller.project_id)): self._settings.requests_of_project}
        if any(0 < limit <= self._counts[entry] for entry, limit in entries.items()):
            headers = {"Retry-After": self._retry_after((minute + 1) * MINUTE_NS)}
            raise RefusedError(Refusal(429, "RATE_LIMIT_EXCEEDED"), headers=headers)
        self._counts.update(entries.keys())

    def _retry_after(self, again_ns: int) -> str:
        if self._settings.retry_after_form == "http-date":
            return formatdate(again_ns // 10**9, usegmt=True)
        return str(math.ceil((again_ns - self._clock()) / 10**9))
