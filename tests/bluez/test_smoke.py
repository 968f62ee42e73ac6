"""Both programs as people run them, each on an adapter of its own, over real BlueZ."""

import pytest
from handoff.bench import Bench


@pytest.mark.thorough
async def test_the_programs_complete_a_handoff_over_bluez(programs_bench: Bench) -> None:
    bench = programs_bench
    device = bench.device()
    await device.start()
    done = await bench.provision(device.label.qr)
    assert done.exit_code == 0, done
    await device.saw("provisioned")
    assert bench.redemptions == [201]
    assert await bench.devices_in_home() == [done.device_id]
    assert device.credentials
    assert await bench.accepts(device.credentials)
