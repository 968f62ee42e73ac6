"""Improv over BLE: a device that keeps to its specification, and the client from the package index as it is.

https://www.improv-wifi.com/ble/. It hands over a Wi-Fi network and its password, unencrypted. The token takes the
password's place, as far as that goes: the client packs the length of a password into a signed octet.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any
from unittest import mock

import bleak
from bench.stage import HAS_TOKEN, RESULT, Stage
from bless.backends.attribute import GATTAttributePermissions
from bless.backends.characteristic import GATTCharacteristicProperties
from improv_ble_client import State
from improv_ble_client.client import ImprovBLEClient
from improv_ble_client.models import DisconnectReason

from bletoken.sim.air.bleak_backend import AirClient, backends
from bletoken.sim.air.bless_server import AirServer

_SERVICE = "00467768-6228-2272-4663-277478268000"
_STATE = "00467768-6228-2272-4663-277478268001"
_ERROR = "00467768-6228-2272-4663-277478268002"
_COMMAND = "00467768-6228-2272-4663-277478268003"
_RESULT = "00467768-6228-2272-4663-277478268004"
_CAPABILITIES = "00467768-6228-2272-4663-277478268005"

_AUTHORIZED, _PROVISIONING, _PROVISIONED = 2, 3, 4
_SEND_WIFI_SETTINGS = 1

LONGEST_PASSWORD = 127
"""Octets that the client takes; the specification's own limit is 255 for network, password and their lengths."""

_NETWORK = "home"


class Improv:
    """A network's name and password in plain sight, and the device's state in return."""

    name = "Improv BLE"
    is_replay = False

    @contextlib.asynccontextmanager
    async def prepare(self, stage: Stage) -> AsyncIterator[str]:
        yield "p" * min(stage.cell.token_size, LONGEST_PASSWORD)

    async def device(self, stage: Stage, password: str) -> None:
        device = _Device(stage.device_radio, password)
        await device.start()
        try:
            stage.on_air.set()
            await asyncio.Event().wait()
        finally:
            await device.server.stop()

    async def companion(self, stage: Stage, password: str) -> None:
        scanner, client_type = backends(stage.companion_radio)
        found = await bleak.BleakScanner.find_device_by_filter(
            lambda _, advert: _SERVICE in advert.service_uuids, service_uuids=[_SERVICE], backend=scanner
        )
        assert found is not None

        def state_changed(state: State) -> None:
            if state is State.PROVISIONING:
                stage.mark(HAS_TOKEN)

        with _on_the_air(client_type):
            client = ImprovBLEClient(found)
            await client.provision(_NETWORK, password, state_changed)
            stage.mark(RESULT)
            await client._execute_disconnect(DisconnectReason.TIMEOUT)


@contextlib.contextmanager
def _on_the_air(client_type: type[AirClient]) -> Iterator[None]:
    """Make the virtual radio bleak's backend for this platform: the client cannot be told to use another."""
    with mock.patch.object(bleak, "get_platform_client_backend_type", return_value=(client_type, "air")):
        yield


class _Device:
    """The device's side of the specification, for a network that is joined at once."""

    def __init__(self, radio: str, password: str) -> None:
        self.server = AirServer("improv", spec=radio)
        self._expected = password.encode()
        self._got = bytearray()

    async def start(self) -> None:
        self.server.write_request_func = self._written
        self.server.read_request_func = lambda characteristic: characteristic.value
        await self.server.add_new_service(_SERVICE)
        kinds, permissions = GATTCharacteristicProperties, GATTAttributePermissions
        told, taken = kinds.read | kinds.notify, kinds.write | kinds.write_without_response
        for uuid, properties, value in (
            (_STATE, told, bytes([_AUTHORIZED])),
            (_ERROR, told, bytes([0])),
            (_COMMAND, taken, b""),
            (_RESULT, told, b""),
            (_CAPABILITIES, kinds.read, bytes([0])),
        ):
            await self.server.add_new_characteristic(
                _SERVICE, uuid, properties, bytearray(value), permissions.readable | permissions.writeable
            )
        await self.server.start()

    def _written(self, _: Any, value: bytearray) -> None:
        """Take a part of a command: its number, its length, its strings with their lengths, and a check sum."""
        self._got += value
        if len(self._got) < 2 or len(self._got) < 3 + self._got[1]:
            return
        command, got = bytes(self._got), bytes(self._got[2:-1])
        network, rest = got[1 : 1 + got[0]], got[1 + got[0] :]
        assert command[0] == _SEND_WIFI_SETTINGS
        assert command[-1] == sum(command[:-1]) & 0xFF
        assert (network, rest[1:]) == (_NETWORK.encode(), self._expected)
        self._tell(_STATE, bytes([_PROVISIONING]))
        self._tell(_STATE, bytes([_PROVISIONED]))
        answer = bytes([_SEND_WIFI_SETTINGS, 0])
        self._tell(_RESULT, answer + bytes([sum(answer) & 0xFF]))

    def _tell(self, uuid: str, value: bytes) -> None:
        self.server.get_characteristic(uuid).value = bytearray(value)
        self.server.update_value(_SERVICE, uuid)
