"""What MODE's endpoints share: settings, memory, clock, and who is connected; it answers nothing by itself."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bletoken.sim.cloud.answers import timestamp, to_json
from bletoken.sim.cloud.commands import CommandHub
from bletoken.sim.cloud.events import EventHub
from bletoken.sim.cloud.limits import RateLimits
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
        commands: Which devices are connected.
        limits: How much each caller may ask.
    """

    settings: Settings
    store: Store
    clock: Callable[[], int]
    events: EventHub = field(default_factory=EventHub)
    commands: CommandHub = field(default_factory=CommandHub)
    limits: RateLimits = field(init=False)

    def __post_init__(self) -> None:
        # The way to set a field of a frozen dataclass.
        object.__setattr__(self, "limits", RateLimits(self.settings, self.clock))

    def later(self, seconds: float) -> int:
        """The time so many seconds from now."""
        return self.clock() + int(seconds * 10**9)

    def time(self, time_ns: int) -> str:
        """A time as MODE writes it."""
        return timestamp(time_ns, digits=self.settings.timestamp_digits)

    def announce(self, device_id: int, event_type: str, event_data: dict[str, Any] | None = None) -> bool:
        """Tell the members of the device's home who listen. False if it is in none, or is no more."""
        device = self.store.device(device_id)
        if device is None or device.home_id is None:
            return False
        event = {
            "homeId": device.home_id,
            "timestamp": self.time(self.clock()),
            "eventType": event_type,
            "eventData": event_data or {},
            "originDeviceId": device.id,
        }
        self.events.publish(to_json(event), self.store.members(device.home_id).keys())
        return True

    def remove_device(self, device_id: int) -> None:
        """Take the device out of its home; one that was made on demand is gone then. Its sockets close."""
        self.store.remove_device(device_id, keep=self.settings.removed_device_kept)
        self.commands.disconnect(device_id)
