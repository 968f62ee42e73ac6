"""What the device says on the air through real BlueZ, octet for octet, and for how long."""

from pathlib import Path
from uuid import UUID

import pytest
from bluez import bus, stack
from bluez.central import Central, Heard
from handoff.bench import Bench, Ends, InProcess, Processes, open_bench, until

from bletoken.protocol.setup_code import AdvertName
from bletoken.protocol.wire import SERVICE_UUID

LISTEN_S = 1.5
"""Seconds of scanning: more than ten adverts at 100 ms."""

FLAGS = b"\x02\x01\x06"
"""LE General Discoverable Mode, and BR/EDR Not Supported."""

UUIDS = b"\x11\x07" + UUID(SERVICE_UUID).bytes[::-1]
"""The complete list of 128-bit service UUIDs."""


async def heard(bench: Bench) -> Heard:
    (adapter,) = bench.hub.adapters.values()
    async with Central.open(bench.hub) as central:
        return await central.listen(adapter.public_address, LISTEN_S)


async def test_the_advert_holds_flags_and_uuid_and_the_scan_response_the_name(
    bluetoothd: stack.Daemon, tmp_path: Path
) -> None:
    async with open_bench(InProcess(), tmp_path, ends=Ends(device=True), daemon=bluetoothd) as bench:
        assert (await heard(bench)).advert == []
        device = bench.device()
        await device.start()
        said = await heard(bench)
        assert set(said.advert) <= {FLAGS + UUIDS, UUIDS + FLAGS}
        assert said.advert
        assert {octets[:2] for octets in said.scan_response} == {bytes([len(said.names[0]) + 1, 0x09])}
        (name,) = {AdvertName.parse(name) for name in said.names}
        assert name is not None
        assert name.is_of(device.label.qr)

        # The state's letter changes, and nothing else.
        await bench.push(device.label.qr, await bench.token())
        await device.saw("provisioned")
        later = {AdvertName.parse(name) for name in (await heard(bench)).names}
        assert {name.state for name in later if name} != {name.state}
        assert all(other and other.is_of(device.label.qr) for other in later)

        # Nothing outlives the window, though the program runs on.
        await device.stop()
        device.config.write_text(f"{device.config.read_text()}announced_window_s = 1\n")
        await device.start()
        await device.saw("window closed")
        assert (await heard(bench)).advert == []


async def test_the_adapters_name_is_never_touched(bluetoothd: stack.Daemon, tmp_path: Path) -> None:
    async with (
        open_bench(InProcess(), tmp_path, ends=Ends(device=True), daemon=bluetoothd) as bench,
        bus.BlueZ.open(bluetoothd) as bluez,
    ):
        (adapter,) = bench.hub.adapters

        async def alias() -> object:
            return (await bluez.objects())[f"/org/bluez/{adapter}"]["org.bluez.Adapter1"]["Alias"].value

        before = await alias()
        device = bench.device()
        await device.start()
        assert await alias() == before
        await device.stop()
        assert await alias() == before


@pytest.mark.thorough
async def test_an_advert_does_not_outlive_the_program(bluetoothd: stack.Daemon, tmp_path: Path) -> None:
    async with open_bench(Processes(), tmp_path, ends=Ends(device=True), daemon=bluetoothd) as bench:
        device = bench.device()
        await device.start()
        assert (await heard(bench)).advert
        await device.kill()
        assert (await heard(bench)).advert == []
        await device.start()
        assert (await heard(bench)).advert


async def test_the_interval_is_100_ms_where_main_conf_says_so(bluetoothd: stack.Daemon, tmp_path: Path) -> None:
    async with open_bench(InProcess(), tmp_path, ends=Ends(device=True), daemon=bluetoothd) as bench:
        await bench.device().start()
        (adapter,) = bench.hub.adapters.values()
        assert adapter.le_legacy_advertiser.advertising_interval_min == 160
        assert adapter.le_legacy_advertiser.advertising_interval_max == 160
        assert len((await heard(bench)).advert) > 10


@pytest.mark.thorough
async def test_a_companion_that_is_connected_does_not_silence_the_device(
    bluetoothd: stack.Daemon, tmp_path: Path
) -> None:
    async with open_bench(InProcess(), tmp_path, ends=Ends(device=True), daemon=bluetoothd) as bench:
        device = bench.device()
        await device.start()
        (adapter,) = bench.hub.adapters.values()
        async with Central.open(bench.hub) as idle:
            await idle.connect(adapter.public_address)
            assert (await bench.push(device.label.qr, await bench.token())).exit_code == 0
            # It proves nothing, and is dropped.
            await until(idle.gone.is_set)
