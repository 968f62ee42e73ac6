"""A companion that asks for one thing at a time and shows the device's bare answer; it retries nothing."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator

from bleak import BleakClient, BleakScanner
from handoff.bench import WAIT_S, Bench

from bletoken.protocol import frames
from bletoken.protocol.companion import CompanionMachine
from bletoken.protocol.setup_code import SetupCode
from bletoken.protocol.states import State
from bletoken.protocol.wire import (
    HELLO_UUID,
    SERVICE_UUID,
    STATUS_UUID,
    TOKEN_UUID,
    ClearStatus,
    Offer,
    Request,
    Status,
)
from bletoken.sim.air.bleak_backend import backends


class RawCompanion:
    """One connection to the only device on the air."""

    def __init__(self, client: BleakClient, code: SetupCode) -> None:
        self._client = client
        self._machine = CompanionMachine(code, secrets.token_bytes)
        self._heard: asyncio.Queue[Status | ClearStatus | None] = asyncio.Queue()

    @property
    def is_connected(self) -> bool:
        return self._client.is_connected

    async def offer(self) -> Offer:
        return self._machine.offer_read(bytes(await self._client.read_gatt_char(HELLO_UUID)))

    async def send(self, request: Request) -> None:
        """Write a request; the first one proves the code."""
        if self._machine.state is State.START:
            await self.offer()
        if self._machine.state is State.OFFERED:
            message = self._machine.first_message(request)
        else:
            _, message = self._machine.request(request)
        for frame in frames.split(message, 244):
            await self._client.write_gatt_char(TOKEN_UUID, frame, response=True)

    async def ask(self, request: Request) -> Status | ClearStatus:
        await self.send(request)
        return await self.heard()

    async def heard(self) -> Status | ClearStatus:
        async with asyncio.timeout(WAIT_S):
            status = await self._heard.get()
        if status is None:
            raise ConnectionError("the device is gone")
        return status

    def gone(self) -> None:
        self._heard.put_nowait(None)

    def notified(self, _: object, frame: bytearray) -> None:
        if (status := self._machine.frame_received(bytes(frame), 0)) is not None:
            self._heard.put_nowait(status)


@contextlib.asynccontextmanager
async def connected(bench: Bench, code: SetupCode) -> AsyncIterator[RawCompanion]:
    """Connect to the only device on the air; whatever the end of the connection says is of no interest."""
    scanner, backend = backends(f"{bench.hub.radio}?mtu=247")
    device = await BleakScanner.find_device_by_filter(lambda *_: True, service_uuids=[SERVICE_UUID], backend=scanner)
    assert device is not None
    client = BleakClient(device, disconnected_callback=lambda _: companion.gone(), backend=backend)
    companion = RawCompanion(client, code)
    await client.connect()
    await client.start_notify(STATUS_UUID, companion.notified)
    try:
        yield companion
    finally:
        with contextlib.suppress(Exception):
            await client.disconnect()


async def ask(bench: Bench, code: SetupCode, request: Request) -> Status | ClearStatus:
    """One request on a connection of its own."""
    async with connected(bench, code) as companion:
        return await companion.ask(request)


async def name_on_air(bench: Bench) -> str:
    """The name of the first bletoken device that is heard."""
    scanner, _ = backends(bench.hub.radio)
    async with asyncio.timeout(WAIT_S), BleakScanner(service_uuids=[SERVICE_UUID], backend=scanner) as scan:
        async for _, advert in scan.advertisement_data():
            if advert.local_name:
                return advert.local_name
    raise AssertionError("the scan ended by itself")


async def is_anything_on_air(bench: Bench, seconds: float = 0.5) -> bool:
    """Whether any bletoken device is heard for a while."""
    scanner, _ = backends(bench.hub.radio)
    return bool(await BleakScanner.discover(seconds, service_uuids=[SERVICE_UUID], backend=scanner))
