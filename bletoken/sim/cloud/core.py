"""What MODE's endpoints share: settings, memory, clock and listeners; it answers nothing by itself."""

from collections.abc import Callable
from dataclasses import dataclass, field

from bletoken.sim.cloud.answers import timestamp
from bletoken.sim.cloud.events import EventHub
from bletoken.sim.cloud.settings import Settings
from bletoken.sim.cloud.store import Store


@dataclass(frozen=True)
class Core:
    """One local MODE.

    Attributes:
        settings: How it behaves.
        store: What it remembers.
        clock: Nanoseconds since the epoch.
        events: Who listens for events.
    """

    settings: Settings
    store: Store
    clock: Callable[[], int]
    events: EventHub = field(default_factory=EventHub)

    def later(self, seconds: float) -> int:
        """The time so many seconds from now."""
        return self.clock() + int(seconds * 10**9)

    def time(self, time_ns: int) -> str:
        """A time as MODE writes it."""
        return timestamp(time_ns, digits=self.settings.timestamp_digits)
