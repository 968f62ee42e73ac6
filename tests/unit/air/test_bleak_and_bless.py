"""A real bleak client and a bless server through a hub."""

import asyncio
from typing import Any

import pytest
from bleak import BleakClient, BleakScanner
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData
from bleak.exc import BleakDeviceNotFoundError, BleakError, BleakGATTProtocolError
from bless.backends.attribute import GATTAttributePermissions
from bless.backends.characteristic import GATTCharacteristicProperties
from bless.backends.descriptor import GATTDescriptorProperties
from bless.exceptions import BlessError
from unit.air.station import HELLO, SERVICE, STATUS, TOKEN, Air, AppError, Recorder, server_on

from bletoken.errors import UsageError
from bletoken.sim.air.att_log import AttOpcode, Direction, handoff_requests
from bletoken.sim.air.bleak_backend import backends
from bletoken.sim.air.bless_server import AirServer
from bletoken.sim.air.hub import Hub
from bletoken.sim.air.link import LinkModel


async def subscribe(client: BleakClient) -> asyncio.Queue[bytes]:
    received: asyncio.Queue[bytes] = asyncio.Queue()
    await client.start_notify(STATUS, lambda _characteristic, value: received.put_nowait(bytes(value)))
    return received


def status(server: AirServer, value: bytes) -> None:
    server.get_characteristic(STATUS).value = bytearray(value)
    assert server.update_value(SERVICE, STATUS)


async def read_for_ever(client: BleakClient) -> None:
    async with client:
        while True:
            await client.read_gatt_char(HELLO)


async def next_of(queue: asyncio.Queue[bytes]) -> bytes:
    async with asyncio.timeout(10):
        return await queue.get()


# Scanning -------------------------------------------------------------------------------------------------------------


async def test_an_advertisement_carries_the_service_and_the_scan_response_the_name(air: Air) -> None:
    scanner, _ = backends(air.spec)
    async with BleakScanner(backend=scanner) as scan:
        device, data = await anext(scan.advertisement_data())
    assert data.service_uuids == [SERVICE]
    assert data.local_name == device.name == "BT1 device"
    assert data.rssi < 0
    structures = dict(data.platform_data[0].data.ad_structures)
    assert structures[0x01] == b"\x06"
    assert set(structures) == {0x01, 0x07, 0x09}


async def test_a_passive_scan_gets_no_name(air: Air) -> None:
    scanner, _ = backends(air.spec)
    async with BleakScanner(backend=scanner, scanning_mode="passive") as scan:
        _, data = await anext(scan.advertisement_data())
    assert data.local_name is None
    assert data.service_uuids == [SERVICE]


async def test_a_scanner_hears_only_the_services_it_asks_for(air: Air) -> None:
    heard: list[str] = []
    scanner, _ = backends(air.spec)

    def on_detection(device: BLEDevice, _data: AdvertisementData) -> None:
        heard.append(device.address)

    other = SERVICE.replace("b1e70000", "b1e7ffff")
    async with BleakScanner(on_detection, service_uuids=[other], backend=scanner):
        await air.find()
    assert not heard


async def test_the_name_may_change_while_advertising(air: Air) -> None:
    await air.server.set_name("BT1 other")
    device = await air.find()
    assert device.name == "BT1 other"
    with pytest.raises(BlessError, match="29"):
        await air.server.set_name("x" * 30)


async def test_advertising_stops_and_starts_again(air: Air) -> None:
    await air.server.set_advertising(False)
    assert not await air.server.is_advertising()
    scanner, _ = backends(air.spec)
    assert await BleakScanner.find_device_by_filter(lambda *_: True, timeout=0.3, backend=scanner) is None
    await air.server.set_advertising(True)
    assert await air.server.is_advertising()
    await air.find()


async def test_a_server_that_is_not_wanted_on_air_starts_silently(hub: Hub) -> None:
    async with server_on(hub.radio, is_started=False) as server:
        await server.set_advertising(False)
        await server.start()
        assert not await server.is_advertising()


@pytest.mark.parametrize("model", [LinkModel(connection_interval_s=0, advertising_loss=0.7, seed=7)])
async def test_lost_advertisements_only_make_it_slower(air: Air) -> None:
    async with await air.client() as client:
        assert client.is_connected


# Reading, writing, notifying ------------------------------------------------------------------------------------------


async def test_stock_bless_callbacks_serve_reads_and_writes(hub: Hub) -> None:
    async with server_on(hub.radio) as server:
        written: list[tuple[str, bytearray]] = []
        server.read_request_func = lambda characteristic: bytearray(characteristic.uuid.encode())
        server.write_request_func = lambda characteristic, value: written.append((characteristic.uuid, value))
        async with await Air(hub, server, Recorder()).client() as client:
            assert await client.read_gatt_char(HELLO) == HELLO.encode()
            await client.write_gatt_char(TOKEN, b"frame", response=True)
            assert await server.is_connected()
    assert written == [(TOKEN, b"frame")]


async def test_peers_are_told_who_connected_read_wrote_and_left(air: Air) -> None:
    air.peers.values[HELLO] = b"offer"
    async with await air.client() as client:
        assert client.mtu_size == 517
        assert await client.read_gatt_char(HELLO) == b"offer"
        await client.write_gatt_char(TOKEN, b"frame", response=True)
    await air.peers.until("disconnected")
    (peer,) = air.peers.of("connected")[0]
    assert air.peers.events == [
        ("connected", peer),
        ("mtu", peer, 517),
        ("read", peer, HELLO, 0),
        ("write", peer, TOKEN, b"frame"),
        ("disconnected", peer),
    ]


async def test_a_peer_that_comes_back_is_a_new_peer(air: Air) -> None:
    client = await air.client()
    for _ in range(2):
        await client.connect()
        await client.disconnect()
    await air.peers.until("disconnected", 2)
    (first,), (second,) = air.peers.of("connected")
    assert first != second


async def test_a_notification_goes_to_every_subscriber_and_to_nobody_else(air: Air) -> None:
    async with await air.client() as one, await air.client() as two, await air.client() as three:
        first, second = await subscribe(one), await subscribe(two)
        await three.read_gatt_char(STATUS)
        status(air.server, b"stored")
        assert await next_of(first) == b"stored"
        assert await next_of(second) == b"stored"
        await one.stop_notify(STATUS)
        status(air.server, b"announced")
        assert await next_of(second) == b"announced"
        assert first.empty()


async def test_a_notification_is_cut_to_each_subscribers_mtu(air: Air) -> None:
    async with await air.client(att_mtu=23) as small, await air.client() as large:
        first, second = await subscribe(small), await subscribe(large)
        status(air.server, b"x" * 100)
        assert await next_of(first) == b"x" * 20
        assert await next_of(second) == b"x" * 100


async def test_updating_an_unknown_characteristic_says_so(air: Air) -> None:
    assert not air.server.update_value(SERVICE, STATUS.replace("b1e7", "aaaa"))


@pytest.mark.parametrize("mtu", [23, 48, 517])
async def test_a_long_read_is_one_snapshot_of_a_changing_value(air: Air, mtu: int) -> None:
    class Changing(Recorder):
        def read(self, peer: str, uuid: str, offset: int) -> bytes:
            super().read(peer, uuid, offset)
            return bytes([len(self.of("read"))]) * 180

    air.server.peers = peers = Changing()
    async with await air.client(att_mtu=mtu) as client:
        assert client.mtu_size == mtu
        assert await client.read_gatt_char(HELLO) == b"\x01" * 180
        assert await client.read_gatt_char(HELLO) == b"\x02" * 180
    assert len(peers.of("read")) == 2


async def test_the_mtu_of_a_spec_is_offered_by_either_end(hub: Hub) -> None:
    async with server_on(f"{hub.radio}?mtu=100") as server:
        server.read_request_func = lambda _characteristic: bytearray(300)
        async with await Air(hub, server, Recorder()).client() as client:
            assert client.mtu_size == 100
            assert client.services.get_characteristic(TOKEN).max_write_without_response_size == 97
            assert await client.read_gatt_char(HELLO) == bytes(300)
        _, small = backends(f"{hub.radio}?mtu=48")
        async with BleakClient(await Air(hub, server, Recorder()).find(), backend=small) as client:
            assert client.mtu_size == 48


@pytest.mark.parametrize("size", [0, 20, 21, 200, 508, 512])
@pytest.mark.parametrize("mtu", [23, 517])
async def test_a_write_of_any_size_arrives_as_one(air: Air, mtu: int, size: int) -> None:
    async with await air.client(att_mtu=mtu) as client:
        await client.write_gatt_char(TOKEN, bytes(range(256)) * 2 if size == 512 else b"x" * size, response=True)
    [(_, uuid, value)] = air.peers.of("write")
    assert (uuid, len(value)) == (TOKEN, size)


@pytest.mark.parametrize("mtu", [23, 517])
async def test_a_write_of_513_octets_is_refused(air: Air, mtu: int) -> None:
    async with await air.client(att_mtu=mtu) as client:
        with pytest.raises(BleakGATTProtocolError) as caught:
            await client.write_gatt_char(TOKEN, bytes(513), response=True)
        assert caught.value.code == 0x0D
        await client.write_gatt_char(TOKEN, b"and on", response=True)
    assert len(air.peers.of("write")) == 1


async def test_a_write_command_reaches_a_characteristic_that_asks_for_requests(air: Air) -> None:
    async with await air.client() as client:
        await client.write_gatt_char(TOKEN, b"hostile", response=False)
        await air.peers.until("write")
        air.peers.failure = AppError(0x80)
        await client.write_gatt_char(TOKEN, b"again", response=False)
        await client.write_gatt_char(HELLO, b"not writable", response=False)
        await air.peers.until("write", 2)
        with pytest.raises(BleakError, match="514"):
            await client.write_gatt_char(TOKEN, bytes(515), response=False)
        assert client.is_connected
    assert [value for _, _, value in air.peers.of("write")] == [b"hostile", b"again"]


# Refusals -------------------------------------------------------------------------------------------------------------


async def test_reading_what_is_not_readable_is_refused(air: Air) -> None:
    async with await air.client() as client:
        with pytest.raises(BleakGATTProtocolError) as caught:
            await client.read_gatt_char(TOKEN)
    assert caught.value.code == 0x02
    assert not air.peers.of("read")


@pytest.mark.parametrize("size", [1, 300])
async def test_writing_what_is_not_writable_is_refused_short_or_long(air: Air, size: int) -> None:
    async with await air.client(att_mtu=23) as client:
        with pytest.raises(BleakGATTProtocolError) as caught:
            await client.write_gatt_char(HELLO, bytes(size), response=True)
    assert caught.value.code == 0x03
    assert not air.peers.of("write")


@pytest.mark.parametrize(
    ("hint", "code"), [(0x80, 0x80), (0x9F, 0x9F), (0x0D, 0x0E), (0xA0, 0x0E), ("0x81", 0x0E), (None, 0x0E)]
)
@pytest.mark.parametrize("size", [5, 100])
async def test_an_exception_answers_with_its_hint_or_as_unlikely(air: Air, hint: object, code: int, size: int) -> None:
    air.peers.failure = AppError(hint)
    async with await air.client(att_mtu=48) as client:
        with pytest.raises(BleakGATTProtocolError) as written:
            await client.write_gatt_char(TOKEN, bytes(size), response=True)
        with pytest.raises(BleakGATTProtocolError) as read:
            await client.read_gatt_char(HELLO)
        assert client.is_connected
    assert written.value.code == read.value.code == code


async def test_a_value_that_no_attribute_holds_is_unlikely(air: Air) -> None:
    air.peers.values[HELLO] = bytes(513)
    async with await air.client() as client:
        with pytest.raises(BleakGATTProtocolError) as caught:
            await client.read_gatt_char(HELLO)
    assert caught.value.code == 0x0E


@pytest.mark.parametrize("nth", [1, 2])
async def test_a_long_write_with_a_gap_or_a_bad_handle_is_refused(air: Air, nth: int) -> None:
    # Bit 24 is the lowest of the offset, bit 8 of the handle.
    bit = 24 if nth == 1 else 12
    air.hub.corrupt(Direction.TO_PERIPHERAL, AttOpcode.PREPARE_WRITE_REQUEST, bit, nth=nth)
    async with await air.client(att_mtu=23) as client:
        with pytest.raises(BleakGATTProtocolError) as caught:
            await client.write_gatt_char(TOKEN, bytes(100), response=True)
        assert caught.value.code in {0x01, 0x07}
    assert not air.peers.of("write")


# Left out: what makes a request a command, or a response a notification: nobody could answer, or miss, those.
@pytest.mark.parametrize(
    ("direction", "opcode", "bit"),
    [
        *((Direction.TO_PERIPHERAL, AttOpcode.READ_REQUEST, bit) for bit in (0, 1, 2, 3, 4, 5, 7)),
        *((Direction.TO_CENTRAL, AttOpcode.READ_RESPONSE, bit) for bit in (0, 1, 2, 3, 5, 6, 7)),
    ],
)
async def test_a_pdu_that_makes_no_sense_is_refused_or_ends_the_connection_and_never_hangs(
    air: Air, direction: Direction, opcode: AttOpcode, bit: int
) -> None:
    air.peers.values[HELLO] = b"offer"
    air.hub.corrupt(direction, opcode, bit)
    client = await air.client()
    await client.connect()
    with pytest.raises(BleakError):
        async with asyncio.timeout(5):
            await client.read_gatt_char(HELLO)
    await client.disconnect()


# Discovery ------------------------------------------------------------------------------------------------------------


async def test_only_the_services_asked_for_are_discovered(air: Air) -> None:
    async with await air.client() as client:
        assert [service.uuid for service in client.services] == [SERVICE]
        properties = {char.uuid: char.properties for char in client.services.characteristics.values()}
        assert properties == {HELLO: ["read"], TOKEN: ["write"], STATUS: ["read", "notify"]}
    async with await air.client(services=None) as client:
        assert len(list(client.services)) == 3
    async with await air.client(services=["1801", "180f"]) as client:
        assert [service.uuid[4:8] for service in client.services] == ["1801"]


async def test_descriptors_are_served_and_encryption_is_asked_for(hub: Hub) -> None:
    server = AirServer("with descriptor", spec=hub.radio)
    await server.add_new_service(SERVICE)
    await server.add_new_characteristic(
        SERVICE,
        HELLO,
        GATTCharacteristicProperties.read,
        bytearray(b"offer"),
        GATTAttributePermissions.readable | GATTAttributePermissions.read_encryption_required,
    )
    await server.add_new_descriptor(
        SERVICE,
        HELLO,
        "2901",
        GATTDescriptorProperties.read,
        bytearray(b"the offer"),
        GATTAttributePermissions.readable,
    )
    await server.start()
    async with await Air(hub, server, Recorder()).client() as client:
        characteristic = client.services.get_characteristic(HELLO)
        (descriptor,) = characteristic.descriptors
        assert await client.read_gatt_descriptor(descriptor) == b"the offer"
        with pytest.raises(BleakGATTProtocolError) as caught:
            await client.read_gatt_char(HELLO)
        assert caught.value.code == 0x0F
    await server.stop()


async def test_the_requests_of_a_hand_off_are_counted_exactly(air: Air) -> None:
    async with await air.client() as client:
        await client.read_gatt_char(HELLO)
        await subscribe(client)
        await client.write_gatt_char(TOKEN, bytes(200), response=True)
        await client.read_gatt_char(STATUS)
    [connection] = air.hub.link.connections
    assert handoff_requests(connection.log, TOKEN) == 3
    counts = connection.log.counts
    assert counts[Direction.TO_PERIPHERAL, AttOpcode.READ_REQUEST] == 2
    assert counts[Direction.TO_PERIPHERAL, AttOpcode.WRITE_REQUEST] == 2
    assert counts[Direction.TO_PERIPHERAL, AttOpcode.FIND_BY_TYPE_VALUE_REQUEST] > 0
    assert counts[Direction.TO_PERIPHERAL, AttOpcode.READ_BY_GROUP_TYPE_REQUEST] == 0


# Disconnection --------------------------------------------------------------------------------------------------------


class Gone:
    """A disconnected callback that counts."""

    def __init__(self) -> None:
        self.count = 0
        self.happened = asyncio.Event()

    def __call__(self, _client: BleakClient) -> None:
        self.count += 1
        self.happened.set()

    async def wait(self) -> None:
        async with asyncio.timeout(10):
            await self.happened.wait()


async def test_a_client_that_disconnects_is_told_once(air: Air) -> None:
    gone = Gone()
    client = await air.client(disconnected_callback=gone)
    await client.connect()
    await client.disconnect()
    await client.disconnect()
    assert gone.count == 1
    assert not client.is_connected
    with pytest.raises(BleakError):
        await client.read_gatt_char(16)
    await air.peers.until("disconnected")
    assert not await air.server.is_connected()


async def test_a_server_can_disconnect_one_peer_of_two(air: Air) -> None:
    gone = Gone()
    first = await air.client(disconnected_callback=gone)
    await first.connect()
    ((peer,),) = air.peers.of("connected")
    async with await air.client() as second:
        await air.server.disconnect_peer(peer)
        await air.server.disconnect_peer(peer)
        await gone.wait()
        assert not first.is_connected
        assert second.is_connected
        assert await air.server.is_advertising()
    assert gone.count == 1


async def test_stopping_the_server_disconnects_everybody(air: Air) -> None:
    gone = Gone()
    client = await air.client(disconnected_callback=gone)
    await client.connect()
    await air.server.stop()
    await gone.wait()
    assert len(air.peers.of("disconnected")) == 1
    assert not await air.server.is_advertising()
    await air.server.start()
    async with await air.client():
        pass


async def test_a_pending_operation_fails_with_a_bleak_error_when_the_connection_is_lost(air: Air) -> None:
    gone = Gone()
    client = await air.client(disconnected_callback=gone)
    await client.connect()
    air.hub.set_link(delay_s=30.0)
    reads = [asyncio.create_task(client.read_gatt_char(HELLO)) for _ in range(3)]
    await asyncio.sleep(0)
    air.hub.drop_all()
    results = await asyncio.gather(*reads, return_exceptions=True)
    assert [type(result) for result in results] == [BleakError] * 3
    assert gone.count == 1
    await air.peers.until("disconnected")


async def test_a_cancelled_operation_does_not_confuse_the_next_one(air: Air) -> None:
    air.peers.values = {HELLO: b"offer", STATUS: b"status"}
    async with await air.client() as client:
        air.hub.set_link(delay_s=0.05)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await client.read_gatt_char(HELLO)
        assert await client.read_gatt_char(STATUS) == b"status"


@pytest.mark.parametrize("drop_after", [0, 1, 3, 7, 11])
async def test_a_connection_breaks_after_so_many_packets_and_the_next_one_too(air: Air, drop_after: int) -> None:
    air.hub.set_link(drop_after=drop_after)
    for attempt in (1, 2):
        with pytest.raises(BleakError):
            await read_for_ever(await air.client())
        await air.peers.until("disconnected", attempt)
    air.hub.set_link(drop_after=None)
    async with await air.client() as client:
        await client.read_gatt_char(HELLO)
    assert [connection.end_reason for connection in air.hub.link.connections][:2] == [0x08, 0x08]


# Things that are not there --------------------------------------------------------------------------------------------


async def test_a_hub_that_is_not_there_is_a_bleak_error_with_words_for_a_person(tmp_path: Any) -> None:
    scanner, client = backends(f"air:unix:{tmp_path}/none.sock")
    with pytest.raises(BleakError, match="no virtual radio at"):
        await BleakScanner(backend=scanner).start()
    with pytest.raises(BleakError, match="no virtual radio at"):
        await BleakClient("C0:00:00:00:00:01", backend=client).connect()
    with pytest.raises(BlessError, match="no virtual radio at"):
        await AirServer("device", spec=f"air:unix:{tmp_path}/none.sock").start()


async def test_an_address_that_nobody_has_is_not_found(air: Air) -> None:
    _, client = backends(air.spec)
    with pytest.raises(BleakDeviceNotFoundError) as caught:
        await BleakClient("C0:00:00:00:00:01", backend=client, timeout=0.2).connect()
    assert caught.value.identifier == "C0:00:00:00:00:01"


async def test_an_address_in_any_case_is_found(air: Air) -> None:
    _, client = backends(air.spec)
    address = (await air.find()).address
    async with BleakClient(address.lower(), backend=client) as connected:
        assert connected.is_connected


async def test_a_device_that_went_away_times_out_and_may_come_back(air: Air) -> None:
    device = await air.find()
    _, backend = backends(air.spec)
    await air.server.set_advertising(False)
    with pytest.raises(TimeoutError):
        await BleakClient(device, backend=backend, timeout=0.2).connect()
    await air.server.set_advertising(True)
    async with BleakClient(device, backend=backend) as client:
        assert client.is_connected


async def test_connecting_may_be_cancelled_at_any_moment(air: Air) -> None:
    device = await air.find()
    _, backend = backends(air.spec)
    for step in range(1, 60, 3):
        client = BleakClient(device, backend=backend)
        attempt = asyncio.create_task(client.connect())
        for _ in range(step * step // 8):
            await asyncio.sleep(0)
        attempt.cancel()
        await asyncio.wait({attempt})
        await client.disconnect()
        assert not client.is_connected
    async with BleakClient(device, backend=backend) as client:
        assert client.is_connected
    connected = len(air.peers.of("connected"))
    await air.peers.until("disconnected", connected)


async def test_several_companions_connect_at_the_same_time(air: Air) -> None:
    clients = [await air.client() for _ in range(3)]
    await asyncio.gather(*(client.connect() for client in clients))
    assert len({peer for (peer,) in air.peers.of("connected")}) == 3
    await asyncio.gather(*(client.disconnect() for client in clients))


async def test_one_adapter_connects_to_several_devices_and_to_each_once(air: Air) -> None:
    scanner, backend = backends(air.spec)
    async with server_on(air.spec, name="BT1 second") as server:
        server.read_request_func = lambda _characteristic: bytearray(b"second")
        found: dict[str | None, BLEDevice] = {}
        async with BleakScanner(backend=scanner) as scan, asyncio.timeout(10):
            async for device, _ in scan.advertisement_data():
                found[device.name] = device
                if len(found) == 2:
                    break
        first, second = (BleakClient(found[name], backend=backend) for name in ("BT1 device", "BT1 second"))
        await asyncio.gather(first.connect(), second.connect())
        assert await second.read_gatt_char(HELLO) == b"second"
        with pytest.raises(BleakError, match="already connected"):
            await BleakClient(found["BT1 second"], backend=backend).connect()
        await first.disconnect()
        assert await second.read_gatt_char(HELLO) == b"second"
        await second.disconnect()


def test_a_spec_that_cannot_be_read_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        backends("hci0")
