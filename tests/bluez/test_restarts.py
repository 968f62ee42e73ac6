"""What goes away under the device on real BlueZ, and comes back: the hand-off ends well each time."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from bluez import bus, stack
from handoff import raw_companion
from handoff.bench import Bench, Device, Ends, InProcess, Outcome, open_bench, until

from bletoken.errors import RadioUnavailableError
from bletoken.protocol.wire import AskStatus
from bletoken.sim.cloud.faults import Fault

# What the daemon is asked to do is asked from another thread: the adapters' controllers live in this one, and must
# answer it meanwhile.

PATIENCE = {"find_s": 60.0, "total_s": 300.0}


@pytest.fixture
async def bench(bluetoothd: stack.Daemon, tmp_path: Path, records: Path) -> AsyncIterator[Bench]:
    """The device on BlueZ, the companion on a radio of its own: what happens to one does not happen to the other."""
    async with open_bench(
        InProcess(), tmp_path, ends=Ends(device=True), daemon=bluetoothd, btsnoop=records / "air.btsnoop"
    ) as opened:
        yield opened
        # Whatever became of it: the next test needs it.
        await asyncio.to_thread(bluetoothd.start)


Trouble = Callable[[Bench, bus.BlueZ], Awaitable[None]]


async def daemon_killed(bench: Bench, bluez: bus.BlueZ) -> None:
    await asyncio.to_thread(bluez.daemon.kill)
    await bench.devices[0].saw("radio away")
    await asyncio.to_thread(bluez.daemon.start)
    (adapter,) = bench.hub.adapters
    await bluez.ready(adapter)


async def daemon_restarted(bench: Bench, bluez: bus.BlueZ) -> None:
    await asyncio.to_thread(bluez.daemon.restart)
    await bench.devices[0].saw("radio away")
    (adapter,) = bench.hub.adapters
    await bluez.ready(adapter)


async def adapter_off_and_on(bench: Bench, bluez: bus.BlueZ) -> None:
    (adapter,) = bench.hub.adapters
    await bluez.power(adapter, on=False)
    await bench.devices[0].saw("radio away")
    await bluez.power(adapter, on=True)


every_trouble = pytest.mark.parametrize(
    "trouble", [daemon_killed, pytest.param(daemon_restarted, marks=pytest.mark.thorough), adapter_off_and_on]
)


async def well_ended(bench: Bench, device: Device, outcome: Outcome) -> None:
    assert outcome.exit_code == 0, outcome
    assert bench.redemptions == [201]
    await device.saw("provisioned")
    assert device.credentials is not None
    assert await bench.devices_in_home() == [device.credentials.device_id]


@every_trouble
async def test_while_it_advertises(bench: Bench, bluez: bus.BlueZ, trouble: Trouble) -> None:
    device = bench.device()
    await device.start()
    await trouble(bench, bluez)
    await device.saw("radio back")
    await well_ended(bench, device, await bench.push(device.label.qr, await bench.token(), **PATIENCE))


@every_trouble
async def test_while_a_companion_is_connected(bench: Bench, bluez: bus.BlueZ, trouble: Trouble) -> None:
    device = bench.device()
    await device.start()
    async with raw_companion.connected(bench, device.label.qr) as companion:
        await companion.ask(AskStatus())
        await trouble(bench, bluez)
        await device.saw("companion left")
        # Nobody answers it any more, and it is told so.
        with pytest.raises(ConnectionError):
            await companion.heard()
    await device.saw("radio back")
    await well_ended(bench, device, await bench.push(device.label.qr, await bench.token(), **PATIENCE))


@every_trouble
async def test_between_accepted_and_provisioned(bench: Bench, bluez: bus.BlueZ, trouble: Trouble) -> None:
    device = bench.device()
    await device.start()
    bench.mode.faults.arm("POST /devices", Fault(hold="before", count=1))
    pushing = asyncio.create_task(bench.push(device.label.qr, await bench.token(), **PATIENCE))
    await until(lambda: bench.mode.faults.held)
    troubling = asyncio.create_task(trouble(bench, bluez))
    # MODE answers meanwhile: the device does not wait for it for as long as an emulated machine may take.
    await device.saw("radio away")
    bench.mode.faults.release()
    await troubling
    await well_ended(bench, device, await pushing)


@pytest.mark.thorough
async def test_the_outcome_is_told_after_a_restart_that_took_longer_than_the_redemption(
    bench: Bench, bluez: bus.BlueZ
) -> None:
    device = bench.device()
    await device.start()
    bench.mode.faults.arm("POST /devices", Fault(hold="before", count=1))
    pushing = asyncio.create_task(bench.push(device.label.qr, await bench.token(), **PATIENCE))
    await until(lambda: bench.mode.faults.held)
    await asyncio.to_thread(bluez.daemon.kill)
    await device.saw("radio away")
    bench.mode.faults.release()
    await device.saw("provisioned")
    await asyncio.to_thread(bluez.daemon.start)
    await bluez.ready(*bench.hub.adapters)
    await well_ended(bench, device, await pushing)


HALF_A_MESSAGE = """
import asyncio, sys
from bleak import BleakClient, BleakScanner
from bletoken.protocol.wire import HELLO_UUID, SERVICE_UUID, TOKEN_UUID

async def main():
    bluez = {"adapter": sys.argv[1]}
    device = await BleakScanner.find_device_by_filter(
        lambda *_: True, service_uuids=[SERVICE_UUID], timeout=60, bluez=bluez
    )
    client = BleakClient(device, bluez=bluez)
    await client.connect()
    await client.read_gatt_char(HELLO_UUID)
    await client.write_gatt_char(TOKEN_UUID, bytes([0x80]) + bytes(100), response=True)
    print("written", flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


async def test_a_companion_killed_in_mid_write_does_not_stand_in_the_next_ones_way(
    bluetoothd: stack.Daemon, tmp_path: Path
) -> None:
    # Both on BlueZ: it keeps the connection of a program that died.
    async with open_bench(InProcess(), tmp_path, ends=Ends(device=True, companion=True), daemon=bluetoothd) as bench:
        device = bench.device()
        await device.start()
        adapter = bench.companion_radio.partition(":")[2]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HALF_A_MESSAGE, adapter, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), bus.WAIT_S) == b"written\n"
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        await well_ended(bench, device, await bench.push(device.label.qr, await bench.token(), **PATIENCE))


@pytest.mark.thorough
async def test_both_sides_carry_on_when_the_daemon_of_both_is_restarted(
    bluetoothd: stack.Daemon, bluez: bus.BlueZ, tmp_path: Path, records: Path
) -> None:
    async with open_bench(InProcess(), tmp_path, ends=Ends(device=True, companion=True), daemon=bluetoothd) as bench:
        device = bench.device()
        await device.start()
        bench.mode.faults.arm("POST /devices", Fault(hold="before", count=1))
        pushing = asyncio.create_task(bench.push(device.label.qr, await bench.token(), **PATIENCE))
        await until(lambda: bench.mode.faults.held)
        restarting = asyncio.create_task(asyncio.to_thread(bluez.daemon.restart))
        await device.saw("radio away")
        bench.mode.faults.release()
        await restarting
        for adapter in bench.hub.adapters:
            await bluez.ready(adapter)
        await device.saw("radio back")
        await well_ended(bench, device, await pushing)


async def test_an_adapter_that_is_pulled_out_and_another_in_its_place(bench: Bench, bluez: bus.BlueZ) -> None:
    device = bench.device()
    await device.start()
    (adapter,) = bench.hub.adapters
    bench.hub.pull_out(adapter)
    await bluez.gone(adapter)
    await device.saw("radio away")
    again = await bench.hub.plug_in()
    try:
        assert again == adapter
        await bluez.ready(again)
        await device.saw("radio back")
        await well_ended(bench, device, await bench.push(device.label.qr, await bench.token(), **PATIENCE))
    finally:
        with contextlib.suppress(KeyError):
            bench.hub.pull_out(again)


@pytest.mark.thorough
async def test_a_second_device_on_the_same_adapter_is_refused_and_does_no_harm(bench: Bench) -> None:
    first, second = bench.device("first"), bench.device("second")
    await first.start()
    refused = await bench.programs.start_device(second)
    with pytest.raises(RadioUnavailableError, match="another bletoken-peripheral"):
        await refused._task
    await well_ended(bench, first, await bench.push(first.label.qr, await bench.token(), **PATIENCE))
