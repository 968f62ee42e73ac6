"""The companion on real BlueZ: which adapter, which errors, and what BlueZ remembers of a device."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from bluez import bus, stack
from handoff.bench import Bench, Ends, InProcess, open_bench


@pytest.fixture
async def bench(bluetoothd: stack.Daemon, tmp_path: Path, records: Path) -> AsyncIterator[Bench]:
    """Both on BlueZ."""
    async with open_bench(
        InProcess(),
        tmp_path,
        ends=Ends(device=True, companion=True),
        daemon=bluetoothd,
        btsnoop=records / "air.btsnoop",
    ) as opened:
        yield opened


@pytest.mark.thorough
async def test_a_device_whose_attributes_have_moved_is_understood_by_a_companion_that_knows_it(bench: Bench) -> None:
    device = bench.device()
    for times in (1, 2, 3):
        # BlueZ gives the service other handles each time, and the companion's keeps the old table.
        await device.start()
        outcome = await bench.push(device.label.qr, await bench.token())
        assert outcome.exit_code == 0, outcome
        await device.stop()
        assert bench.redemptions == [201] * times
        device.folder.erase_onboarding()


async def test_an_adapter_that_is_off_or_missing_gives_the_error_that_says_what_to_do(
    bench: Bench, bluez: bus.BlueZ
) -> None:
    device = bench.device()
    await device.start()
    token = await bench.token()
    await bluez.power(bench.companion_radio.partition(":")[2], on=False)
    outcome = await bench.push(device.label.qr, token)
    assert (outcome.exit_code, outcome.steps) == (9, ["finding"])
    assert "bluetoothctl power on" in outcome.message
    bench.companion_radio = "system:hci99"
    outcome = await bench.push(device.label.qr, token)
    assert outcome.exit_code == 9
    assert "hci99" in outcome.message
