"""What goes over ATT between any central and the device's GATT server on real BlueZ."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from bluez import bus, stack
from bluez.central import Central
from bumble import att, hci

from bletoken.errors import RemoteProtocolError
from bletoken.protocol.wire import HELLO_UUID, STATUS_UUID, TOKEN_UUID
from bletoken.sim.air.hub import Hub
from bletoken_peripheral.gatt_server import GattServer

VALUE = bytes(range(180))
FRAME = b"\xc0frame"


class Companions:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.connected_ones: list[str] = []
        self.gone: list[str] = []
        self.written: list[tuple[str, bytes]] = []
        self.value = VALUE
        self.hellos = 0
        self._anything = asyncio.Event()

    def _told(self) -> None:
        self._anything.set()

    def connected(self, peer: str) -> None:
        self.connected_ones.append(peer)
        self._told()

    def disconnected(self, peer: str) -> None:
        self.gone.append(peer)
        self._told()

    def hello(self, peer: str) -> bytes:
        self.hellos += 1
        return self.value

    def token_written(self, peer: str, frame: bytes) -> None:
        self.written.append((peer, frame))
        self._told()
        if frame.startswith(b"refuse"):
            raise RemoteProtocolError("refused", att_error_hint=0x85)

    def radio_lost(self) -> None: ...
    def radio_away(self, why: str) -> None: ...
    def radio_back(self) -> None: ...

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(bus.WAIT_S):
            while not condition():
                self._anything.clear()
                await self._anything.wait()


class World:
    """A GATT server on an adapter of BlueZ, and the air around it."""

    def __init__(self, hub: Hub, address: hci.Address, server: GattServer, companions: Companions) -> None:
        self.hub, self.address, self.server, self.companions = hub, address, server, companions


@pytest.fixture
async def world(bluez: bus.BlueZ, tmp_path: Path, records: Path) -> AsyncIterator[World]:
    companions = Companions()
    async with (
        Hub.open(f"unix:{tmp_path}/air", model=stack.BLUEZ_AIR, btsnoop=records / "air.btsnoop") as hub,
        bus.adapters(bluez, hub, 1) as (adapter,),
        GattServer(f"system:{adapter}", "BT1rABCDEFGHIJ", companions) as server,
    ):
        yield World(hub, hub.adapters[adapter].public_address, server, companions)


@pytest.mark.parametrize(
    "mtu", [23, pytest.param(48, marks=pytest.mark.thorough), pytest.param(247, marks=pytest.mark.thorough), 517]
)
async def test_values_and_frames_are_whole_at_any_mtu(world: World, mtu: int) -> None:
    size = max(20, min(mtu - 3, 508))
    async with Central.open(world.hub, mtu=mtu) as central:
        await central.connect(world.address)
        assert await central.read(HELLO_UUID) == VALUE
        assert world.companions.hellos == 1
        assert await central.write(TOKEN_UUID, b"\xc0" + bytes(size - 1)) == 0
        assert world.companions.written == [(world.companions.connected_ones[0], b"\xc0" + bytes(size - 1))]
        await central.subscribe(STATUS_UUID)
        world.server.send(world.companions.connected_ones[0], bytes(1200))
        async with asyncio.timeout(bus.WAIT_S):
            while sum(len(frame) - 1 for frame in central.notified) < 1200:
                await asyncio.sleep(0.01)
        assert max(map(len, central.notified)) == size
        world.server.send(world.companions.connected_ones[0], b"last message")
        assert await central.read(STATUS_UUID) == b"last message"


async def test_a_long_read_in_steps_of_one_octet_is_of_one_value(world: World) -> None:
    async with Central.open(world.hub) as central:
        await central.connect(world.address)
        world.companions.value = bytes(range(16))
        parts = [await central.read_part(HELLO_UUID, 0)]
        world.companions.value = b"another"
        parts += [await central.read_part(HELLO_UUID, offset) for offset in range(1, 17)]
        assert parts == [bytes(range(offset, 16)) for offset in range(17)]
        assert await central.read_part(HELLO_UUID, 17) == att.ATT_INVALID_OFFSET_ERROR
        assert await central.read(HELLO_UUID) == b"another"


async def test_what_is_not_allowed_has_its_att_error(world: World) -> None:
    async with Central.open(world.hub) as central:
        await central.connect(world.address)
        handle = central.handle(TOKEN_UUID)
        assert await central.ask(att.ATT_Read_Request(attribute_handle=handle)) == att.ATT_READ_NOT_PERMITTED_ERROR
        assert await central.write(HELLO_UUID, b"x") == att.ATT_WRITE_NOT_PERMITTED_ERROR
        assert await central.write(STATUS_UUID, b"x") == att.ATT_WRITE_NOT_PERMITTED_ERROR
        assert world.companions.written == []
        assert await central.write(TOKEN_UUID, b"refuse this") == 0x85
        assert await central.write(TOKEN_UUID, FRAME) == 0


async def test_a_write_command_is_looked_at_like_any_frame(world: World) -> None:
    async with Central.open(world.hub) as central:
        await central.connect(world.address)
        await central.command(TOKEN_UUID, b"refuse this")
        await central.command(TOKEN_UUID, FRAME)
        await world.companions.until(lambda: len(world.companions.written) == 2)
        assert await central.write(TOKEN_UUID, FRAME) == 0


async def test_a_long_write_arrives_in_one_piece_and_one_with_a_gap_does_not_arrive(world: World) -> None:
    async with Central.open(world.hub, mtu=23) as central:
        await central.connect(world.address)
        assert await central.long_write(TOKEN_UUID, (0, FRAME), (6, b"more")) == 0
        assert [frame for _, frame in world.companions.written] == [FRAME + b"more"]
        assert await central.long_write(TOKEN_UUID, (0, FRAME), (30, b"more")) != 0
        assert await central.long_write(TOKEN_UUID, (5, b"more")) == att.ATT_INVALID_OFFSET_ERROR
        assert b"more" not in [frame for _, frame in world.companions.written]
        assert await central.write(TOKEN_UUID, FRAME) == 0


async def test_companions_are_told_apart_and_their_coming_and_going_is_seen(world: World) -> None:
    async with Central.open(world.hub) as one, Central.open(world.hub) as other:
        await one.connect(world.address)
        # Nothing of ours has been asked for by then.
        await world.companions.until(lambda: len(world.companions.connected_ones) == 1)
        await other.connect(world.address)
        await world.companions.until(lambda: len(world.companions.connected_ones) == 2)
        await other.write(TOKEN_UUID, b"2")
        await one.write(TOKEN_UUID, b"1")
        first, second = world.companions.connected_ones
        assert world.companions.written == [(second, b"2"), (first, b"1")]
        await one.disconnect()
        await world.companions.until(lambda: world.companions.gone == [first])
        await one.connect(world.address)
        await world.companions.until(lambda: len(set(world.companions.connected_ones)) == 3)
        await world.server.disconnect(second)
        await asyncio.wait_for(other.gone.wait(), bus.WAIT_S)
        await world.companions.until(lambda: world.companions.gone == [first, second])
        assert await one.read(HELLO_UUID) == VALUE


async def test_a_companion_that_falls_silent_is_gone(world: World) -> None:
    async with Central.open(world.hub) as central:
        await central.connect(world.address)
        await world.companions.until(lambda: world.companions.connected_ones)
    await world.companions.until(lambda: world.companions.gone)
