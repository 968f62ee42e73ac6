"""BlueZ over D-Bus: adapters that come and go, and what it knows. Everything is waited for there; Linux only."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from bluez.stack import Daemon
from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from bletoken.sim.air.hub import Hub

WAIT_S = 60
"""How long anything may take before a test gives up; the machine is emulated, and shared."""

_NEEDED = {"org.bluez.Adapter1", "org.bluez.GattManager1", "org.bluez.LEAdvertisingManager1"}


class BlueZ:
    """What a test does with BlueZ, over D-Bus.

    Attributes:
        daemon: Its daemon.
    """

    def __init__(self, daemon: Daemon, bus: MessageBus) -> None:
        self.daemon = daemon
        self._bus = bus

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, daemon: Daemon) -> AsyncIterator["BlueZ"]:
        bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
        try:
            yield cls(daemon, bus)
        finally:
            bus.disconnect()
            await bus.wait_for_disconnect()

    async def ready(self, adapter: str) -> None:
        """Wait until the daemon has an adapter, and power it."""
        await self.until(lambda: self._has(adapter), f"{adapter} in BlueZ")
        await self.power(adapter, on=True)

    async def named(self, address: str) -> str:
        """The name of the adapter with an address; it has to be there, and switched on."""
        adapters = {
            str(interfaces["org.bluez.Adapter1"]["Address"].value): (path.rpartition("/")[2], interfaces)
            for path, interfaces in (await self.objects()).items()
            if "org.bluez.Adapter1" in interfaces
        }
        assert address in adapters, (
            f"this machine has no Bluetooth adapter {address}; it has {', '.join(adapters) or 'none'}"
        )
        name, interfaces = adapters[address]
        assert interfaces["org.bluez.Adapter1"]["Powered"].value, f"{name} ({address}) is off: bluetoothctl power on"
        return name

    async def power(self, adapter: str, *, on: bool) -> None:
        """Power an adapter on or off, and wait until it is."""

        async def powered() -> bool:
            answer = await self._set(adapter, "Powered", Variant("b", on))
            if answer.message_type is MessageType.ERROR:
                assert answer.error_name == "org.bluez.Error.Busy", answer.body
                return False
            return await self._get(adapter, "Powered") is on

        await self.until(powered, f"{adapter} powered {'on' if on else 'off'}")

    async def gone(self, adapter: str) -> None:
        """Wait until the daemon has forgotten an adapter that was pulled out."""

        async def is_gone() -> bool:
            return not await self._has(adapter)

        await self.until(is_gone, f"the end of {adapter}")

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        """Ask until it is so."""
        try:
            async with asyncio.timeout(WAIT_S):
                while not await condition():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"waited in vain for {what}") from None

    async def objects(self) -> dict[str, dict[str, Any]]:
        """Everything that the daemon knows; nothing when it is not there."""
        answer = await self._call("/", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects")
        return answer.body[0] if answer.message_type is MessageType.METHOD_RETURN else {}

    async def _has(self, adapter: str) -> bool:
        return (await self.objects()).get(f"/org/bluez/{adapter}", {}).keys() >= _NEEDED

    async def _get(self, adapter: str, name: str) -> object:
        return (await self.objects())[f"/org/bluez/{adapter}"]["org.bluez.Adapter1"][name].value

    async def _set(self, adapter: str, name: str, value: Variant) -> Message:
        body = ["org.bluez.Adapter1", name, value]
        return await self._call(f"/org/bluez/{adapter}", "org.freedesktop.DBus.Properties", "Set", "ssv", body)

    async def _call(
        self, path: str, interface: str, member: str, signature: str = "", body: list[Any] | None = None
    ) -> Message:
        message = Message(
            destination="org.bluez", path=path, interface=interface, member=member, signature=signature, body=body or []
        )
        answer = await self._bus.call(message)
        assert answer is not None
        return answer


@contextlib.asynccontextmanager
async def adapters(bluez: BlueZ, hub: Hub, count: int) -> AsyncIterator[list[str]]:
    """New adapters on an air, powered."""
    names = [await hub.plug_in() for _ in range(count)]
    try:
        for name in names:
            await bluez.ready(name)
        yield names
    finally:
        for name in names:
            if name in hub.adapters:
                hub.pull_out(name)
