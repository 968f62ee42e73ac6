"""What a device knows survives its death, and nothing is redeemed twice. Its process is really killed."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from handoff.bench import Bench, OnRig, Processes, command_of, open_bench, until

from bletoken.sim.cloud.faults import Fault
from bletoken_peripheral.redemption import Phase


@pytest.fixture(params=["processes", pytest.param("hardware", marks=pytest.mark.hardware)])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """Programs of their own; on hardware they are not killed, but lose their power."""
    rig = request.getfixturevalue("rig") if request.param == "hardware" else None
    async with open_bench(OnRig(rig) if rig else Processes(), tmp_path, rig=rig) as opened:
        yield opened


async def test_killed_after_stored_it_ends_provisioned_and_announced_having_redeemed_once(bench: Bench) -> None:
    device = bench.device()
    await device.start()
    bench.mode.faults.arm("GET /auth", Fault(hold="before"))
    pushing = asyncio.create_task(bench.push(device.label.qr, await bench.token()))
    await device.saw("stored")
    await device.kill()
    bench.mode.faults.clear()
    bench.mode.faults.release()
    await device.start()
    await device.saw("provisioned")
    outcome = await pushing
    assert outcome.exit_code == 0, outcome
    assert device.journal is not None
    assert device.journal.phase is Phase.ANNOUNCED
    assert bench.redemptions == [201]
    assert await bench.devices_in_home() == [outcome.device_id]
    assert device.credentials is not None
    assert await bench.accepts(device.credentials)


async def test_killed_before_the_request_left_it_redeems_after_its_restart(bench: Bench) -> None:
    device = bench.device(mode_url="http://127.0.0.1:9", retry_s=60)
    await device.start()
    pushing = asyncio.create_task(bench.push(device.label.qr, await bench.token()))
    await device.saw("waiting for MODE")
    await device.kill()
    device.config.write_text(device.config.read_text().replace("http://127.0.0.1:9", bench.mode.url))
    await device.start()
    outcome = await pushing
    assert outcome.exit_code == 0, outcome
    assert bench.redemptions == [201]


async def test_killed_while_the_answer_is_under_way_the_outcome_is_unknown_and_the_token_gone(bench: Bench) -> None:
    device = bench.device()
    await device.start()
    bench.mode.faults.arm("POST /devices", Fault(hold="after"))
    token = await bench.token()
    pushing = asyncio.create_task(bench.push(device.label.qr, token))
    await device.saw("redeeming")
    await until(lambda: bench.mode.faults.held)
    await device.kill()
    bench.mode.faults.clear()
    await device.start()
    outcome = await pushing
    assert outcome.exit_code == 8, outcome
    assert bench.redemptions == [201]
    assert token not in "".join(path.read_text() for path in device.folder.path.iterdir() if path.is_file())
    assert (await bench.push(device.label.qr, await bench.token())).exit_code == 0


async def test_asked_to_stop_while_the_answer_is_under_way_it_waits_for_it_and_keeps_it(bench: Bench) -> None:
    device = bench.device()
    await device.start()
    bench.mode.faults.arm("POST /devices", Fault(hold="after"))
    pushing = asyncio.create_task(bench.push(device.label.qr, await bench.token()))
    await until(lambda: bench.mode.faults.held)
    stopping = asyncio.create_task(device.stop())
    await asyncio.sleep(0.2)
    bench.mode.faults.clear()
    bench.mode.faults.release()
    await stopping
    assert device.journal is not None
    assert device.journal.phase is Phase.STORED
    await device.start()
    assert (await pushing).exit_code == 0
    assert bench.redemptions == [201]


@pytest.mark.parametrize("seed", range(4))
async def test_stopped_at_any_moment_it_ends_cleanly_and_the_hand_off_ends_well(bench: Bench, seed: int) -> None:
    random_moment = random.Random(seed).uniform(0, 0.5)
    device = bench.device()
    await device.start()
    pushing = asyncio.create_task(bench.push(device.label.qr, await bench.token()))
    await device.saw("companion connected")
    await asyncio.sleep(random_moment)
    # `stop` checks for exit code 0.
    await device.stop()
    await device.start()
    outcome = await pushing
    assert outcome.exit_code == 0, outcome
    assert bench.redemptions == [201]
    assert await bench.devices_in_home() == [outcome.device_id]


async def test_only_one_process_uses_a_state_folder(bench: Bench) -> None:
    device = bench.device()
    await device.start()
    second = await bench.programs.start_device(device)
    await until(lambda: any("in use" in step for step in second.steps))
    with pytest.raises(AssertionError):
        await second.stop()


async def test_a_device_goes_on_when_whoever_read_its_output_has_gone(bench: Bench) -> None:
    device = bench.device(radio=bench.device_radio)
    read, write = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *command_of("bletoken_peripheral"), "run", "--json", "--config", str(device.config), stdout=write
    )
    os.close(write)
    assert b"advertising" in await asyncio.to_thread(os.read, read, 4096)
    os.close(read)
    outcome = await bench.push(device.label.qr, await bench.token())
    process.terminate()
    assert outcome.exit_code == 0, outcome
    assert await process.wait() == 0


async def test_credentials_of_one_mode_are_not_sent_to_another(bench: Bench) -> None:
    device = bench.device()
    await device.start()
    assert (await bench.push(device.label.qr, await bench.token())).exit_code == 0
    await device.stop()
    device.config.write_text(device.config.read_text().replace(bench.mode.url, "https://elsewhere.example"))
    refused = await bench.programs.start_device(device)
    await until(lambda: any("put it back" in step for step in refused.steps))
    with pytest.raises(AssertionError):
        await refused.stop()
