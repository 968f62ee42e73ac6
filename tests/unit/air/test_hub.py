"""The hub: weather, records, control, processes that come and go."""

import asyncio
import contextlib
import json
import math
import signal
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bleak import BleakClient, BleakScanner
from bleak.exc import BleakError
from unit.air.station import HELLO, SERVICE, STATUS, TOKEN, Air, Recorder, server_on

from bletoken.errors import RadioUnavailableError, UsageError
from bletoken.sim.air.att_log import ATT_CID, AttLog, AttOpcode, Direction, handoff_requests
from bletoken.sim.air.bleak_backend import backends
from bletoken.sim.air.control import AirControl
from bletoken.sim.air.hub import Hub
from bletoken.sim.air.link import LinkModel

# Weather --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"connection_interval_s": -1.0},
        {"delay_s": math.inf},
        {"jitter_s": math.nan},
        {"advertising_loss": 1.1},
        {"drop_after": -1},
        {"drop_share": 1.1},
        {"drop_within": 0},
    ],
)
def test_a_model_that_cannot_be_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        LinkModel(**values)


@pytest.mark.parametrize("model", [LinkModel(connection_interval_s=0.01)])
async def test_a_response_comes_no_earlier_than_the_connection_event_after_its_request(air: Air) -> None:
    async with await air.client() as client:
        for _ in range(5):
            await client.read_gatt_char(HELLO)
    [connection] = air.hub.link.connections
    pdus = list(connection.log.pdus)
    requests = [index for index, pdu in enumerate(pdus) if pdu.opcode == AttOpcode.READ_REQUEST]
    assert len(requests) == 5
    for index in requests:
        event, next_event = (math.floor(pdu.time_s / 0.01 + 1e-6) for pdu in pdus[index : index + 2])
        assert next_event > event


@pytest.mark.parametrize("model", [LinkModel(connection_interval_s=0.004, jitter_s=0.02, seed=3)])
async def test_jitter_reorders_nothing(air: Air) -> None:
    async with await air.client() as client:
        for number in range(40):
            await client.write_gatt_char(TOKEN, bytes([number]), response=False)
        writes = await air.peers.until("write", 40)
    assert [value[0] for _, _, value in writes] == list(range(40))


async def test_one_bit_of_one_pdu_is_flipped(air: Air) -> None:
    air.hub.corrupt(Direction.TO_PERIPHERAL, AttOpcode.WRITE_REQUEST, bit=3 * 8 + 1, nth=2)
    async with await air.client() as client:
        for _ in range(3):
            await client.write_gatt_char(TOKEN, b"\x00\x00", response=True)
    assert [value for _, _, value in air.peers.of("write")] == [b"\x00\x00", b"\x02\x00", b"\x00\x00"]


async def broken_after(air: Air, connections: int) -> list[int | None]:
    """After how many PDUs each of some connections broke; None for those that did not."""
    for _ in range(connections):
        client = await air.client()
        with contextlib.suppress(BleakError):
            async with client:
                for _ in range(10):
                    await client.read_gatt_char(HELLO)
    made = list(air.hub.link.connections)[-connections:]
    assert [connection.end_reason == 0x08 for connection in made] == [c.breaks_after is not None for c in made]
    return [connection.breaks_after for connection in made]


async def test_a_share_of_the_connections_breaks_early_and_the_same_ones_for_the_same_seed(air: Air) -> None:
    seen = []
    for seed in (1, 1, 2):
        # Only a new seed starts the random numbers again.
        air.hub.set_link(drop_share=0.5, drop_within=15, seed=0)
        air.hub.set_link(seed=seed)
        seen.append(await broken_after(air, 8))
    assert seen[0] == seen[1] != seen[2]
    broken = [count for count in seen[0] if count is not None]
    assert 0 < len(broken) < 8
    assert all(0 <= count < 15 for count in broken)


# Records --------------------------------------------------------------------------------------------------------------


def records(path: Path) -> list[tuple[int, int, bytes]]:
    """Read a btsnoop file: flags, microseconds and HCI packet of each record."""
    content = path.read_bytes()
    assert content[:16] == b"btsnoop\0" + struct.pack(">LL", 1, 1002)
    found, offset = [], 16
    while offset < len(content):
        original, included, flags, drops, timestamp = struct.unpack_from(">IIIIQ", content, offset)
        assert original == included
        assert not drops
        found.append((flags, timestamp, content[offset + 24 : offset + 24 + included]))
        offset += 24 + included
    return found


async def test_the_packet_log_holds_the_hand_off_as_each_host_saw_it(tmp_path: Path) -> None:
    path = tmp_path / "air.btsnoop"
    async with Hub.open(f"unix:{tmp_path}/air.sock", btsnoop=path, model=LinkModel(connection_interval_s=0)) as hub:
        async with (
            server_on(hub.radio, peers=Recorder()) as server,
            await Air(hub, server, Recorder()).client() as client,
        ):
            await client.read_gatt_char(HELLO)
            await client.write_gatt_char(TOKEN, bytes(508), response=True)
        [connection] = hub.link.connections
    recorded = records(path)
    assert [timestamp for _, timestamp, _ in recorded] == sorted(timestamp for _, timestamp, _ in recorded)
    # Each host's connection has its own handle, and ACL fragments reassemble to the same conversation.
    for handle, up in ((connection.central.handle, 0), (connection.peripheral.handle, 1)):
        log = AttLog()
        for flags, _, packet in recorded:
            if packet[0] == 0x02 and int.from_bytes(packet[1:3], "little") & 0x0FFF == handle:
                is_first = not packet[2] >> 4 & 0x01
                direction = Direction.TO_PERIPHERAL if flags & 1 == up else Direction.TO_CENTRAL
                log.add_acl(0.0, direction, packet[5:], is_first=is_first)
        assert handoff_requests(log, TOKEN) == 2
        assert [(pdu.opcode, pdu.length) for pdu in log.pdus] == [
            (pdu.opcode, pdu.length) for pdu in connection.log.pdus
        ]


async def test_a_packet_log_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="packet log"):
        async with Hub.open(f"unix:{tmp_path}/air.sock", btsnoop=tmp_path / "none" / "x"):
            pass


# Control --------------------------------------------------------------------------------------------------------------


async def test_the_control_client_sees_the_hand_off_and_breaks_the_air(air: Air) -> None:
    control = AirControl(air.spec)
    await control.corrupt(Direction.TO_PERIPHERAL, AttOpcode.WRITE_REQUEST, bit=24)
    client = await air.client()
    await client.connect()
    await client.write_gatt_char(TOKEN, b"\x00", response=True)
    assert air.peers.of("write")[0][2] == b"\x01"
    stats = await control.stats()
    assert stats.hosts == 2
    assert handoff_requests(stats.connections[-1].log, TOKEN) == 1
    assert stats.connections[-1].end_reason is None
    await control.set_link(delay_s=0.001, drop_after=None)
    assert air.hub.link.model == replace(LinkModel(connection_interval_s=0, supervision_timeout_s=0.1), delay_s=0.001)
    await control.drop_all()
    await air.peers.until("disconnected")
    assert (await control.stats()).connections[-1].end_reason == 0x08
    await client.disconnect()


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"{}",
        b'{"command": "fly"}',
        b'{"command": "set_link", "colour": 1}',
        b'{"command": "set_link", "delay_s": "long"}',
        b'{"command": "set_link", "delay_s": -1}',
        b'{"command": "corrupt", "direction": "up", "opcode": 1, "bit": 0}',
        b'{"command": "corrupt", "direction": "to_central", "opcode": 256, "bit": 0}',
        b'{"command": "corrupt"}',
        b'{"\xff": 1}',
    ],
)
async def test_a_command_that_makes_no_sense_is_answered_with_an_error(hub: Hub, line: bytes) -> None:
    assert set(hub.control(line)) == {"error"}
    assert hub.link.model == LinkModel(connection_interval_s=0, supervision_timeout_s=0.1)


async def test_the_control_client_raises_what_the_hub_refuses(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="colour"):
        await AirControl(f"unix:{tmp_path}/air.sock").set_link(colour=1)
    with pytest.raises(RadioUnavailableError):
        await AirControl(f"unix:{tmp_path}/none.sock").stats()


async def test_garbage_from_a_host_harms_nobody_else(air: Air) -> None:
    _, writer = await asyncio.open_unix_connection(air.hub.endpoint.path)
    writer.write(bytes(range(1, 256)) * 20)
    writer.write(b"\x02\x01\x00\xff\xff" + bytes(300))
    async with await air.client() as client:
        await client.read_gatt_char(HELLO)
    writer.close()
    await writer.wait_closed()


# Coming and going -----------------------------------------------------------------------------------------------------


async def test_a_hub_may_listen_on_tcp() -> None:
    async with Hub.open("tcp:127.0.0.1:0") as hub, server_on(hub.radio, peers=Recorder()) as server:
        assert not hub.radio.endswith(":0")
        async with await Air(hub, server, Recorder()).client() as client:
            assert client.is_connected


async def test_a_second_hub_does_not_take_the_firsts_place(hub: Hub) -> None:
    with pytest.raises(UsageError, match="already"):
        async with Hub.open(str(hub.endpoint)):
            pass
    async with server_on(hub.radio):
        pass


async def test_a_socket_file_that_a_dead_hub_left_is_no_obstacle(tmp_path: Path) -> None:
    for _ in range(2):
        async with Hub.open(f"unix:{tmp_path}/air.sock"):
            (tmp_path / "kept").hardlink_to(tmp_path / "air.sock")
        (tmp_path / "kept").rename(tmp_path / "air.sock")


async def test_a_path_too_long_for_a_socket_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot listen"):
        async with Hub.open(f"unix:{tmp_path}/{'x' * 120}"):
            pass


async def test_a_hub_that_goes_away_is_noticed_everywhere(tmp_path: Path) -> None:
    peers, lost, gone = Recorder(), [], []
    spec = f"air:unix:{tmp_path}/air.sock"
    scanner, backend = backends(spec)
    async with server_on(spec, peers=peers, is_started=False) as server:
        server.on_radio_lost = lambda: lost.append(peers.of("disconnected"))
        async with Hub.open(f"unix:{tmp_path}/air.sock", model=LinkModel(connection_interval_s=0)) as hub:
            await server.start()
            scan = BleakScanner(backend=scanner)
            await scan.start()
            device = await Air(hub, server, peers).find()
            client = BleakClient(device, lambda _client: gone.append(1), backend=backend)
            await client.connect()
            hub.set_link(delay_s=30.0)
            read = asyncio.create_task(client.read_gatt_char(HELLO))
            leave = asyncio.create_task(client.disconnect())
            await asyncio.sleep(0.01)
        with pytest.raises(BleakError):
            await read
        await leave
        await peers.until("disconnected")
        assert gone == [1]
        assert not client.is_connected
        assert not await server.is_advertising()
        assert not await server.is_connected()
        server.update_value(SERVICE, STATUS)
        assert lost == [peers.of("disconnected")]
        assert len(peers.of("disconnected")) == 1
        await server.set_name("still safe")
        await scan.stop()
        with pytest.raises(BleakError, match="no virtual radio"):
            await client.connect()
        async with Hub.open(f"unix:{tmp_path}/air.sock", model=LinkModel(connection_interval_s=0)):
            await server.start()
            await client.connect()
            await client.disconnect()
            await server.stop()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


_SERVER = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from unit.air.station import Recorder, server_on

async def main():
    async with server_on(sys.argv[1], peers=Recorder()):
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@asynccontextmanager
async def program(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        # asyncio closes the pipes one step later.
        await asyncio.sleep(0)


def is_socket(path: Path) -> bool:
    return path.is_socket()


async def line_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(30):
        return (await process.stdout.readline()).decode().strip()


async def test_processes_meet_on_the_air_and_one_that_is_killed_is_missed(tmp_path: Path) -> None:
    btsnoop = tmp_path / "log"
    async with program(
        "-m", "bletoken.sim.cli", "air", "--json", "--btsnoop", str(btsnoop), "--interval-ms", "7.5"
    ) as hub:
        ready = json.loads(await line_of(hub))
        assert ready["event"] == "listening"
        socket_file = Path(ready["control"].removeprefix("unix:"))
        assert is_socket(socket_file)
        scanner, backend = backends(ready["radio"])
        async with program("-c", _SERVER, ready["radio"]) as server:
            assert await line_of(server) == "ready"
            device = await BleakScanner.find_device_by_filter(lambda *_: True, backend=scanner)
            assert device is not None
            gone = asyncio.Event()
            client = BleakClient(device, lambda _client: gone.set(), services=[SERVICE], backend=backend)
            await client.connect()
            await client.write_gatt_char(TOKEN, b"frame", response=True)
            server.send_signal(signal.SIGKILL)
            async with asyncio.timeout(10):
                await gone.wait()
            assert not client.is_connected
        [connection] = (await AirControl(ready["control"]).stats()).connections
        assert connection.end_reason == 0x08
        assert connection.log.counts[Direction.TO_PERIPHERAL, AttOpcode.WRITE_REQUEST] == 1
        hub.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(hub.wait(), 10) == 0
    assert not is_socket(socket_file)
    assert any(packet[7:9] == struct.pack("<H", ATT_CID) for _, _, packet in records(btsnoop) if packet[0] == 0x02)
