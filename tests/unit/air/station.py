"""What the tests of the virtual radio are made of: a GATT table, an application, a server and its clients."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from bleak import BleakClient, BleakScanner
from bleak.backends.device import BLEDevice
from bless.backends.attribute import GATTAttributePermissions
from bless.backends.characteristic import GATTCharacteristicProperties

from bletoken.sim.air.bleak_backend import backends
from bletoken.sim.air.bless_server import AirServer
from bletoken.sim.air.hub import Hub

SERVICE = "b1e70000-0c99-46dc-baf4-a8712fe5a5d4"
HELLO = "b1e70001-0c99-46dc-baf4-a8712fe5a5d4"
TOKEN = "b1e70002-0c99-46dc-baf4-a8712fe5a5d4"
STATUS = "b1e70003-0c99-46dc-baf4-a8712fe5a5d4"

GATT = {
    SERVICE: {
        HELLO: {
            "Properties": GATTCharacteristicProperties.read,
            "Permissions": GATTAttributePermissions.readable,
        },
        TOKEN: {
            "Properties": GATTCharacteristicProperties.write,
            "Permissions": GATTAttributePermissions.writeable,
        },
        STATUS: {
            "Properties": GATTCharacteristicProperties.read | GATTCharacteristicProperties.notify,
            "Permissions": GATTAttributePermissions.readable,
        },
    }
}


class AppError(Exception):
    """What an application raises in a callback."""

    def __init__(self, att_error_hint: object) -> None:
        self.att_error_hint = att_error_hint


@dataclass
class Recorder:
    """A peer delegate that remembers what it was told, and answers as it is told to."""

    events: list[tuple[Any, ...]] = field(default_factory=list)
    values: dict[str, bytes] = field(default_factory=dict)
    failure: Exception | None = None
    happened: asyncio.Event = field(default_factory=asyncio.Event)

    def connected(self, peer: str) -> None:
        self._note("connected", peer)

    def disconnected(self, peer: str) -> None:
        self._note("disconnected", peer)

    def mtu_changed(self, peer: str, mtu: int) -> None:
        self._note("mtu", peer, mtu)

    def read(self, peer: str, uuid: str, offset: int) -> bytes:
        self._note("read", peer, uuid, offset)
        if self.failure:
            raise self.failure
        return self.values.get(uuid, b"")

    def write(self, peer: str, uuid: str, value: bytes) -> None:
        self._note("write", peer, uuid, value)
        if self.failure:
            raise self.failure

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        return [event[1:] for event in self.events if event[0] == kind]

    async def until(self, kind: str, count: int = 1) -> list[tuple[Any, ...]]:
        async with asyncio.timeout(10):
            while len(self.of(kind)) < count:
                self.happened.clear()
                await self.happened.wait()
        return self.of(kind)

    def _note(self, *event: Any) -> None:
        self.events.append(event)
        self.happened.set()


@dataclass
class Air:
    """A hub with one server on it."""

    hub: Hub
    server: AirServer
    peers: Recorder

    @property
    def spec(self) -> str:
        return self.hub.radio

    async def find(self) -> BLEDevice:
        scanner, _ = backends(self.spec)
        device = await BleakScanner.find_device_by_filter(
            lambda _device, data: SERVICE in data.service_uuids, backend=scanner, service_uuids=[SERVICE]
        )
        assert device is not None
        return device

    async def client(self, **options: Any) -> BleakClient:
        """Return a client, not yet connected, for the server."""
        _, client = backends(self.spec)
        options = {"services": [SERVICE], **options}
        return BleakClient(await self.find(), backend=client, **options)


@asynccontextmanager
async def server_on(
    spec: str, *, peers: Recorder | None = None, name: str = "BT1 device", is_started: bool = True
) -> AsyncIterator[AirServer]:
    server = AirServer(name, spec=spec)
    server.peers = peers
    await server.add_gatt(GATT)
    if is_started:
        await server.start()
    try:
        yield server
    finally:
        await server.stop()
