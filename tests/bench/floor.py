"""The least that any design can do: connect, discover one service, subscribe, write the token, one notification."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from bench.stage import HAS_TOKEN, RESULT, Stage
from bleak import BleakClient, BleakScanner
from bless.backends.attribute import GATTAttributePermissions
from bless.backends.characteristic import GATTCharacteristicProperties

from bletoken.sim.air.bleak_backend import backends
from bletoken.sim.air.bless_server import AirServer

_SERVICE = "5a0e0000-3f6e-4f4b-9d5a-7f6d1a2b3c4d"
_TOKEN = "5a0e0001-3f6e-4f4b-9d5a-7f6d1a2b3c4d"
_LONGEST_VALUE = 512


class Floor:
    """A token in plain sight, for whoever is near."""

    name = "floor"
    is_replay = False

    @contextlib.asynccontextmanager
    async def prepare(self, stage: Stage) -> AsyncIterator[bytes]:
        yield bytes(stage.cell.token_size)

    async def device(self, stage: Stage, token: bytes) -> None:
        server = AirServer("floor", spec=stage.device_radio)
        got = bytearray()

        def written(characteristic: Any, value: bytearray) -> None:
            got.extend(value)
            if len(got) == len(token):
                characteristic.value = bytearray(b"\x01")
                server.update_value(_SERVICE, _TOKEN)

        server.write_request_func = written
        await server.add_new_service(_SERVICE)
        await server.add_new_characteristic(
            _SERVICE,
            _TOKEN,
            GATTCharacteristicProperties.write | GATTCharacteristicProperties.notify,
            None,
            GATTAttributePermissions.writeable,
        )
        await server.start()
        try:
            stage.on_air.set()
            await asyncio.Event().wait()
        finally:
            await server.stop()

    async def companion(self, stage: Stage, token: bytes) -> None:
        scanner, client_type = backends(stage.companion_radio)
        found = await BleakScanner.find_device_by_filter(
            lambda _, advert: _SERVICE in advert.service_uuids, service_uuids=[_SERVICE], backend=scanner
        )
        assert found is not None
        notified = asyncio.Event()
        async with BleakClient(found, services=[_SERVICE], backend=client_type) as client:
            await client.start_notify(_TOKEN, lambda *_: notified.set())
            size = min(client.mtu_size - 3, _LONGEST_VALUE)
            for start in range(0, len(token), size):
                await client.write_gatt_char(_TOKEN, token[start : start + size], response=True)
            await notified.wait()
            stage.mark(HAS_TOKEN)
            stage.mark(RESULT)
