"""Traffic replays: what others send over the air to hand over as much, in size, order and round trips, and no more.

Nothing here encrypts or understands anything: the octets are zeros. Where an implementation has a choice, the replay
takes what costs less.

- Espressif's protocomm over BLE, security 1 and 2: the messages of components/protocomm/proto/*.proto in esp-idf, each
  a write to a characteristic and a read of the same one, as tools/esp_prov (transport/ble_cli.py, security/*.py,
  prov/custom_prov.py) sends them: `proto-ver` once, two exchanges for the session, then the token as `custom-data`.
  An attribute holds 512 octets, so a longer token goes in pieces. The tool's own pauses of 5 s are left out.
- Matter: BTP as in the Matter core specification, 4.19 (and src/ble/BtpEngine.cpp in connectedhomeip): handshake,
  segments written and indicated, acknowledgements that ride along where they can and at the latest when a window of 6
  is down to 1. Then PASE (4.14.1; src/protocols/secure_channel/PASESession.cpp), and one invoke request that carries
  the token, with its response. Fail-safe, attestation and the operational certificate, which commissioning needs
  too, are left out.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Any

from bench.stage import HAS_TOKEN, RESULT, Stage
from bleak import BleakClient, BleakScanner
from bleak.uuids import normalize_uuid_16
from bless.backends.attribute import GATTAttributePermissions
from bless.backends.characteristic import GATTCharacteristicProperties
from bless.backends.descriptor import GATTDescriptorProperties
from bumble import gatt
from bumble.core import UUID, AdvertisingData
from bumble.data_types import CompleteListOf16BitServiceUUIDs, CompleteLocalName, Flags
from bumble.device import Connection

from bletoken.sim.air.bleak_backend import AirClient, backends
from bletoken.sim.air.bless_server import AirServer
from bletoken.sim.air.radio import Radio
from bletoken.sim.air.spec import RadioSpec

_USER_DESCRIPTION = normalize_uuid_16(0x2901)
_LONGEST_VALUE = 512


async def _found(radio: str, service: str) -> tuple[Any, type[AirClient]]:
    scanner, client_type = backends(radio)
    found = await BleakScanner.find_device_by_filter(
        lambda _, advert: service in advert.service_uuids, service_uuids=[service], backend=scanner
    )
    assert found is not None
    return found, client_type


# Espressif ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Exchange:
    """One write to an endpoint and the read of its answer, in octets."""

    endpoint: str
    request: int
    response: int


def _varint(number: int) -> int:
    return max(1, (number.bit_length() + 6) // 7)


def _field(number: int, content: int) -> int:
    """Octets of a field of protobuf that holds so many octets."""
    return _varint(number << 3) + _varint(content) + content


_ENUM = 2
"""Octets of an enumeration's field with a small number, where it is not the default."""


def _session(security: int, message: int, *, is_first: bool) -> int:
    """Octets of `SessionData` around a message of the handshake."""
    return _ENUM + _field(10 + security, (0 if is_first else _ENUM) + _field(20, message))


_VERSION = _Exchange("proto-ver", 3, len('{"prov":{"ver":"v1.1","sec_ver":2,"sec_patch_ver":1,"cap":["wifi_scan"]}}'))

_KEY, _RANDOM, _VERIFY = 32, 16, 32
_SECURITY_1 = (
    _Exchange(
        "prov-session",
        _session(1, _field(1, _KEY), is_first=True),
        _session(1, _field(2, _KEY) + _field(3, _RANDOM), is_first=False),
    ),
    _Exchange(
        "prov-session",
        _session(1, _field(2, _VERIFY), is_first=False),
        _session(1, _field(3, _VERIFY), is_first=False),
    ),
)

_USER, _SRP_KEY, _SALT, _PROOF, _NONCE, _TAG = len("wifiprov"), 384, 16, 64, 12, 16
_SECURITY_2 = (
    _Exchange(
        "prov-session",
        _session(2, _field(1, _USER) + _field(2, _SRP_KEY), is_first=True),
        _session(2, _field(2, _SRP_KEY) + _field(3, _SALT), is_first=False),
    ),
    _Exchange(
        "prov-session",
        _session(2, _field(1, _PROOF), is_first=False),
        _session(2, _field(2, _PROOF) + _field(3, _NONCE), is_first=False),
    ),
)

_ENDPOINTS = ("prov-ctrl", "prov-scan", "prov-session", "prov-config", "proto-ver", "custom-data")
_ESP_SERVICE = "1775244d-6b43-439b-877c-060f2d9bed07"


def _endpoint_uuid(name: str) -> str:
    return f"1775ff{0x4F + _ENDPOINTS.index(name):02x}{_ESP_SERVICE[8:]}"


class Espressif:
    """protocomm over BLE.

    Args:
        security: 1 (X25519, AES-CTR) or 2 (SRP6a, AES-GCM).
    """

    is_replay = True

    def __init__(self, security: int) -> None:
        self.name = f"Espressif security {security} (replay)"
        self._handshake, self._overhead = ((_SECURITY_1, 0), (_SECURITY_2, _TAG))[security - 1]

    @contextlib.asynccontextmanager
    async def prepare(self, stage: Stage) -> AsyncIterator[list[_Exchange]]:
        piece = _LONGEST_VALUE - self._overhead
        pieces = [min(piece, stage.cell.token_size - start) for start in range(0, stage.cell.token_size, piece)]
        answer = len("SUCCESS") + self._overhead
        yield [
            _VERSION,
            *self._handshake,
            *(_Exchange("custom-data", size + self._overhead, answer) for size in pieces),
        ]

    async def device(self, stage: Stage, exchanges: list[_Exchange]) -> None:
        server = AirServer("espressif", spec=stage.device_radio)
        coming = iter(exchanges)

        def written(characteristic: Any, value: bytearray) -> None:
            exchange = next(coming)
            assert (characteristic.uuid, len(value)) == (_endpoint_uuid(exchange.endpoint), exchange.request)
            characteristic.value = bytearray(exchange.response)

        server.write_request_func = written
        server.read_request_func = lambda characteristic: characteristic.value
        await server.add_new_service(_ESP_SERVICE)
        kinds, permissions = GATTCharacteristicProperties, GATTAttributePermissions
        for name in _ENDPOINTS:
            uuid = _endpoint_uuid(name)
            await server.add_new_characteristic(
                _ESP_SERVICE, uuid, kinds.read | kinds.write, None, permissions.readable | permissions.writeable
            )
            await server.add_new_descriptor(
                _ESP_SERVICE,
                uuid,
                _USER_DESCRIPTION,
                GATTDescriptorProperties.read,
                bytearray(name.encode()),
                permissions.readable,
            )
        await server.start()
        try:
            stage.on_air.set()
            await asyncio.Event().wait()
        finally:
            await server.stop()

    async def companion(self, stage: Stage, exchanges: list[_Exchange]) -> None:
        found, client_type = await _found(stage.companion_radio, _ESP_SERVICE)
        async with BleakClient(found, backend=client_type) as client:
            by_name: dict[str, Any] = {}
            for characteristic in client.services.get_service(_ESP_SERVICE).characteristics:
                for descriptor in characteristic.descriptors:
                    if descriptor.uuid == _USER_DESCRIPTION:
                        by_name[(await client.read_gatt_descriptor(descriptor.handle)).decode()] = characteristic
            for exchange in exchanges:
                characteristic = by_name[exchange.endpoint]
                await client.write_gatt_char(characteristic, bytes(exchange.request), response=True)
                assert len(await client.read_gatt_char(characteristic)) == exchange.response
            stage.mark(HAS_TOKEN)
            stage.mark(RESULT)


# Matter -------------------------------------------------------------------------------------------------------------


class _Sender(Enum):
    """Who sends, and by what: the commissioner writes, the device indicates."""

    COMMISSIONER = 0
    DEVICE = 1


_HANDSHAKE_REQUEST, _HANDSHAKE_RESPONSE = 9, 6
_LONGEST_SEGMENT = 244
_WINDOW = 6
_ACK_SEGMENT = 3
_ATT_HEADER = 3

_UNSECURED = 8 + 8 + 6
"""A message's header with the ephemeral node id, and the protocol's own."""
_SECURED = 8 + 6 + 16
"""Header, the protocol's own, and the integrity check."""

_STRUCT = 2
"""Beginning and end of an anonymous structure; a tagged one has one octet more."""


def _octets(size: int) -> int:
    """A tagged octet string in Matter's TLV."""
    return 2 + (1 if size < 256 else 2) + size


_INT8, _INT16, _BOOL = 3, 4, 2

_PASE = (
    _STRUCT + _octets(32) + _INT16 + _INT8 + _BOOL,
    _STRUCT + 2 * _octets(32) + _INT16 + (_STRUCT + 1 + _INT16 + _octets(16)),
    _STRUCT + _octets(65),
    _STRUCT + _octets(65) + _octets(32),
    _STRUCT + _octets(32),
    8,
)
"""PBKDFParamRequest and -Response, Pake1, Pake2, Pake3, StatusReport."""

_COMMAND_PATH = _STRUCT + 1 + 3 * _INT8
_INVOKE = _STRUCT + 2 * _BOOL + _STRUCT + 1 + _STRUCT + _COMMAND_PATH + _STRUCT + 1 + _INT8
_INVOKE_RESPONSE = _STRUCT + _BOOL + _STRUCT + 1 + _STRUCT + _STRUCT + 1 + _COMMAND_PATH + _STRUCT + 1 + _INT8 + _INT8


def _messages(token_size: int) -> list[int]:
    """What both say in turn, the commissioner first."""
    invoke = _SECURED + _INVOKE + _octets(token_size)
    return [*(_UNSECURED + size for size in _PASE), invoke, _SECURED + _INVOKE_RESPONSE]


def btp(messages: list[int], segment: int) -> Iterator[tuple[_Sender, int]]:
    """Cut messages into segments, with the acknowledgements that they need.

    Args:
        messages: The octets of each, sent in turn.
        segment: The largest segment.
    """
    unacknowledged = {_Sender.COMMISSIONER: 1, _Sender.DEVICE: 0}  # The handshake's response is one to acknowledge.
    for number, message in enumerate(messages):
        sender = _Sender(number % 2)
        other = _Sender(1 - number % 2)
        left, header = message, 4
        while left > 0:
            rides = unacknowledged[sender] > 0
            unacknowledged[sender] = 0
            payload = min(left, segment - header - rides)
            yield sender, header + rides + payload
            left, header = left - payload, 2
            unacknowledged[other] += 1
            if unacknowledged[other] == _WINDOW - 1 and left > 0:
                unacknowledged[other] = 0
                unacknowledged[sender] += 1
                yield other, _ACK_SEGMENT


_MATTER = normalize_uuid_16(0xFFF6)
_C1, _C2 = "18ee2ef5-263d-4559-959f-4f9c429f9d11", "18ee2ef5-263d-4559-959f-4f9c429f9d12"


class Matter:
    """PASE over BTP, and one invoke request."""

    name = "Matter PASE (replay)"
    is_replay = True

    @contextlib.asynccontextmanager
    async def prepare(self, stage: Stage) -> AsyncIterator[list[tuple[_Sender, int]]]:
        segment = min(stage.cell.mtu - _ATT_HEADER, _LONGEST_SEGMENT)
        yield [
            (_Sender.COMMISSIONER, _HANDSHAKE_REQUEST),
            (_Sender.DEVICE, _HANDSHAKE_RESPONSE),
            *btp(_messages(stage.cell.token_size), segment),
        ]

    async def device(self, stage: Stage, script: list[tuple[_Sender, int]]) -> None:
        # Not on bless: that has no way to indicate here.
        radio = await Radio.open(RadioSpec.parse(stage.device_radio).endpoint, name="matter")
        device, steps = radio.device, iter(script)
        turn: asyncio.Queue[Connection] = asyncio.Queue()

        def written(connection: Connection, value: bytes) -> None:
            assert next(steps) == (_Sender.COMMISSIONER, len(value))
            turn.put_nowait(connection)

        properties, permissions = gatt.Characteristic.Properties, gatt.Characteristic.Permissions
        c1: gatt.Characteristic[bytes] = gatt.Characteristic(
            UUID(_C1), properties.WRITE, permissions.WRITEABLE, gatt.CharacteristicValue(write=written)
        )
        c2: gatt.Characteristic[bytes] = gatt.Characteristic(UUID(_C2), properties.INDICATE, permissions.READABLE, b"")
        subscribed = asyncio.Event()
        c2.on(gatt.Characteristic.EVENT_SUBSCRIPTION, lambda *_: subscribed.set())
        device.add_default_services()
        device.add_service(gatt.Service(UUID.from_16_bits(0xFFF6), [c1, c2]))
        kinds = AdvertisingData.Flags
        advert = [
            Flags(kinds.LE_GENERAL_DISCOVERABLE_MODE | kinds.BR_EDR_NOT_SUPPORTED),
            CompleteListOf16BitServiceUUIDs([UUID.from_16_bits(0xFFF6)]),
        ]
        await device.start_advertising(
            advertising_data=bytes(AdvertisingData(advert)),
            # Without one, Bumble's host reports an advert of an active scan only when it hears the next.
            scan_response_data=bytes(AdvertisingData([CompleteLocalName("matter")])),
            advertising_interval_min=100.0,
            advertising_interval_max=100.0,
        )
        try:
            stage.on_air.set()
            for before, (sender, size) in pairwise(script):
                if before[0] is _Sender.COMMISSIONER:
                    connection = await turn.get()
                    await subscribed.wait()
                if sender is _Sender.DEVICE:
                    assert next(steps) == (sender, size)
                    await device.gatt_server.indicate_subscriber(connection, c2, bytes(size))
            await asyncio.Event().wait()
        finally:
            await radio.close()

    async def companion(self, stage: Stage, script: list[tuple[_Sender, int]]) -> None:
        found, client_type = await _found(stage.companion_radio, _MATTER)
        indicated: asyncio.Queue[int] = asyncio.Queue()
        async with BleakClient(found, services=[_MATTER], backend=client_type) as client:
            for number, (sender, size) in enumerate(script):
                if sender is _Sender.COMMISSIONER:
                    await client.write_gatt_char(_C1, bytes(size), response=True)
                else:
                    assert await indicated.get() == size
                if number == 0:
                    await client.start_notify(_C2, lambda _, value: indicated.put_nowait(len(value)))
            stage.mark(HAS_TOKEN)
            stage.mark(RESULT)
