"""The suite on hardware, with adapters that the kernel takes for hardware in the place of it: scripts/hil's own way."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from bluez import bus, stack
from hil.test_rig import killing, make_ssh

from bletoken.sim.air.hub import Hub

TESTS = [
    "tests/handoff/test_handoff.py::test_a_device_comes_out_provisioned[hardware]",
    "tests/handoff/test_killed.py::test_killed_after_stored_it_ends_provisioned_and_announced_having_redeemed_once[hardware]",
]

POWER_CYCLE = f"""{killing("[b]letoken.peripheral[.cli]* run --json")}
set -- busctl set-property org.bluez /org/bluez/ADAPTER org.bluez.Adapter1 Powered b
"$@" false && "$@" true
"""
"""The device's program dies, and its adapter with it; the adapter comes back."""


@pytest.mark.thorough
@pytest.mark.parametrize("host", [None, "pi"])
async def test_the_suite_runs_on_adapters_by_address_and_on_a_device_over_ssh(
    bluez: bus.BlueZ, tmp_path: Path, records: Path, host: str | None
) -> None:
    # What pytest makes is elsewhere there; the project is not, wherever it lies.
    make_ssh(tmp_path / "bin", str(tmp_path.parent.parent), f"{tmp_path}/there")
    elsewhere = ["--device-host", host, "--device-program", f"{Path(sys.executable).parent}/bletoken-peripheral"]
    environment = os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "BLETOKEN_ARTIFACTS": str(records)}
    async with (
        Hub.open(f"unix:{tmp_path}/air", model=stack.BLUEZ_AIR, btsnoop=records / "air.btsnoop") as hub,
        bus.adapters(bluez, hub, 2) as (device, companion),
    ):
        options = ["--device-adapter", hub.adapters[device].public_address.to_string(False)]
        options += ["--companion-adapter", hub.adapters[companion].public_address.to_string(False)]
        options += ["--power-cycle-command", POWER_CYCLE.replace("ADAPTER", device)]
        said = records / "pytest.txt"
        with said.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                *[sys.executable, "-m", "pytest", "-p", "pytest_asyncio.plugin", "-m", "hardware", "-v"],
                *[*options, *(elsewhere if host else [])],
                *TESTS,
                stdout=out,
                stderr=asyncio.subprocess.STDOUT,
                env=environment,
            )
            await process.wait()
    assert process.returncode == 0, said.read_text()
    assert f"{len(TESTS)} passed" in said.read_text()
