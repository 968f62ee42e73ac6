"""What a person at the device, the label's holder and a stranger can do to it: windows, the PIN, identify, removal."""

import asyncio
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from handoff import bench as benches
from handoff import clockwork
from handoff.bench import WAIT_S, Bench, Device, InProcess, Processes, command, open_bench, until
from handoff.conftest import Clock
from handoff.raw_companion import ask, connected, is_anything_on_air, name_on_air

from bletoken.protocol.guesses import STOP_AT
from bletoken.protocol.setup_code import Pin
from bletoken.protocol.wire import (
    Accepted,
    Action,
    AskStatus,
    ClearCode,
    ClearStatus,
    Done,
    Failed,
    FailureCode,
    Identify,
    Idle,
    Provision,
    Provisioned,
    Unlock,
)
from bletoken.sim.cloud.faults import Fault
from bletoken_peripheral import control, redemption
from bletoken_peripheral.control import Command
from bletoken_peripheral.redemption import Journal, Phase

WRONG_PIN = Pin("13572468")


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(InProcess(), tmp_path) as opened:
        yield opened


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(Processes(), tmp_path) as opened:
        yield opened


async def tell(device: Device, what: Command) -> dict[str, Any]:
    """A local command to a device in the test's own process."""
    return await asyncio.to_thread(control.ask, device.folder.path, what)


def pin_of(device: Device) -> Pin:
    assert device.label.pin is not None
    return device.label.pin


async def provisioned(bench: Bench, **settings: object) -> Device:
    device = bench.device(**settings)  # type: ignore[arg-type]
    await device.start()
    outcome = await bench.push(device.label.qr, await bench.token())
    assert outcome.exit_code == 0, outcome
    await device.saw("provisioned")
    return device


# Windows ------------------------------------------------------------------------------------------------------------


async def test_an_unprovisioned_device_leaves_the_air_after_its_window_and_open_brings_it_back(
    bench: Bench, clock: Clock
) -> None:
    device = bench.device()
    await device.start()
    first = await name_on_air(bench)
    clock.ahead_s += 880
    assert await name_on_air(bench) == first
    clock.ahead_s += 21
    await device.saw("window closed")
    assert not await is_anything_on_air(bench)
    assert (await tell(device, Command.STATUS))["window_s"] == 0
    assert await tell(device, Command.OPEN) == {"window_s": 900}
    await device.saw("advertising", times=2)
    second = await name_on_air(bench)
    assert second != first, "each window has a nonce of its own"
    assert 0 < (await tell(device, Command.STATUS))["window_s"] <= 900
    assert (await bench.push(device.label.qr, await bench.token())).exit_code == 0


async def test_a_connection_that_wants_nothing_ends_with_the_window(bench: Bench, clock: Clock) -> None:
    device = bench.device()
    await device.start()
    async with connected(bench, device.label.qr) as companion:
        assert isinstance(await companion.ask(AskStatus()), Idle)
        clock.ahead_s += 901
        await device.saw("window closed")
        await until(lambda: not companion.is_connected)


async def test_a_redemption_under_way_outlives_the_window_and_its_companion_hears_the_outcome(
    bench: Bench, clock: Clock
) -> None:
    device = bench.device()
    await device.start()
    bench.mode.faults.arm("POST /devices", Fault(hold="before"))
    async with connected(bench, device.label.qr) as companion:
        assert isinstance(await companion.ask(Provision(await bench.token())), Accepted)
        await until(lambda: bench.mode.faults.held)
        clock.ahead_s += 901
        await asyncio.sleep(0.2)
        assert companion.is_connected
        bench.mode.faults.clear()
        bench.mode.faults.release()
        while not isinstance(status := await companion.heard(), Provisioned):
            assert not isinstance(status, Failed | ClearStatus)
    await device.saw("provisioned")
    assert "window closed" not in device.steps


async def test_after_its_window_a_device_tells_its_last_failure_and_takes_no_further_token(
    bench: Bench, clock: Clock
) -> None:
    device = bench.device()
    await device.start()
    bench.mode.faults.arm("POST /devices", Fault(hold="before"))
    pushing = asyncio.create_task(bench.push(device.label.qr, "no-token-of-modes"))
    await until(lambda: bench.mode.faults.held)
    clock.ahead_s += 901
    bench.mode.faults.clear()
    bench.mode.faults.release()
    assert (await pushing).exit_code == 6
    status = await ask(bench, device.label.qr, AskStatus())
    assert isinstance(status, Failed)
    assert status.code is FailureCode.TOKEN_REFUSED
    assert (await bench.push(device.label.qr, await bench.token())).exit_code == 19
    clock.ahead_s += 61
    await device.saw("window closed")
    await tell(device, Command.OPEN)
    assert (await bench.push(device.label.qr, await bench.token())).exit_code == 0


async def test_a_provisioned_device_leaves_the_air_ten_minutes_later_and_open_brings_it_back_for_as_long(
    bench: Bench, clock: Clock
) -> None:
    device = await provisioned(bench, identify_command=["true"])
    clock.ahead_s += 580
    first = await name_on_air(bench)
    clock.ahead_s += 21
    await device.saw("window closed")
    assert not await is_anything_on_air(bench)
    assert await tell(device, Command.OPEN) == {"window_s": 600}
    await device.saw("advertising", times=2)
    second = await name_on_air(bench)
    assert first.startswith("bletoken-1p-")
    assert second.startswith("bletoken-1p-")
    assert second != first


async def test_a_provisioned_device_grants_status_and_identify_and_nothing_else(bench: Bench) -> None:
    device = await provisioned(bench, identify_command=["true"])
    async with connected(bench, device.label.qr) as companion:
        assert isinstance(await companion.ask(AskStatus()), Provisioned)
        assert isinstance(await companion.ask(Identify()), Done)
        refused = await companion.ask(Unlock())
        assert isinstance(refused, Failed)
        assert refused.code is FailureCode.NOT_ALLOWED
        taken = await companion.ask(Provision(await bench.token()))
        assert isinstance(taken, Failed)
        assert taken.code is FailureCode.ALREADY_PROVISIONED


async def test_open_needs_a_running_device_and_says_so_with_a_code_of_its_own(processes: Bench) -> None:
    device = processes.device()
    assert (await command(device, "open"))[0] == 24
    await device.start()
    assert await command(device, "open") == (0, {"ok": True, "window_s": 900})
    await device.saw("window opened")
    # What a killed process leaves behind is nobody to talk to.
    await device.kill()
    assert (device.folder.path / "control").is_socket()
    assert (await command(device, "open"))[0] == 24
    await device.start()
    assert (await command(device, "open"))[0] == 0


async def test_status_tells_of_the_running_device(processes: Bench) -> None:
    device = processes.device()
    code, said = await command(device, "status")
    assert (code, said["running"], said["state"], said["window_s"]) == (0, False, "ready", 0)
    await device.start()
    code, said = await command(device, "status")
    assert (code, said["running"], said["pin_wait_s"], said["pin_state"]) == (0, True, 0, "ready")
    assert 0 < said["window_s"] <= 900


# Identify -----------------------------------------------------------------------------------------------------------


def broken(*_: object, **__: object) -> None:
    raise ImportError("updated under the running program")


async def test_a_device_that_can_answer_nobody_does_not_stay_on_the_air(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = bench.device()
    await device.start()
    monkeypatch.setattr("bletoken.protocol.device.DeviceMachine", broken)
    pushing = asyncio.create_task(bench.push(device.label.qr, await bench.token(), find_s=10, total_s=15))
    running: Any = device.running
    with pytest.RaisesGroup(ImportError):
        async with asyncio.timeout(WAIT_S):
            await running._task
    assert (await pushing).exit_code != 0
    running._folder.__exit__()
    device.running = None


async def test_whatever_is_done_without_a_companion_needs_nothing_that_answers_companions(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bletoken.protocol.device.DeviceMachine", broken)
    device = bench.device()
    taken = redemption.take(None, Provision(await bench.token(), 0, 0), has_credentials=False)
    assert isinstance(taken, Journal)
    device.folder.write_journal(taken)
    await device.start()
    await tell(device, Command.UNLOCK)
    assert (await tell(device, Command.STATUS))["pin_wait_s"] == 0
    await device.saw("provisioned")
    assert bench.redemptions == [201]


async def test_identify_runs_the_configured_command_and_answers_done(bench: Bench, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    device = bench.device(identify_command=["sh", "-c", 'echo "$0" >> "$1"', "a b; $(c)", str(shown)])
    await device.start()
    for code in (device.label.qr, pin_of(device)):
        async with connected(bench, code) as companion:
            assert Action.IDENTIFY in (await companion.offer()).actions
            assert isinstance(await companion.ask(Identify()), Done)
            await until(lambda: shown.exists() and shown.read_text() == "a b; $(c)\n")
        shown.unlink()


async def test_identify_never_runs_for_one_who_does_not_know_the_code(bench: Bench, tmp_path: Path) -> None:
    device = bench.device(identify_command=["touch", str(tmp_path / "shown")])
    await device.start()
    answer = await ask(bench, WRONG_PIN, Identify())
    assert isinstance(answer, ClearStatus)
    assert answer.code is ClearCode.NOT_AUTHENTIC
    assert isinstance(await ask(bench, device.label.qr, AskStatus()), Idle)
    assert not (tmp_path / "shown").exists()
    assert "identifying" not in device.steps


async def test_without_a_command_identify_is_neither_offered_nor_allowed(bench: Bench) -> None:
    device = bench.device()
    await device.start()
    async with connected(bench, device.label.qr) as companion:
        assert Action.IDENTIFY not in (await companion.offer()).actions
        answer = await companion.ask(Identify())
        assert isinstance(answer, Failed)
        assert answer.code is FailureCode.NOT_ALLOWED


async def test_a_device_that_identifies_itself_already_starts_no_second_command(bench: Bench, tmp_path: Path) -> None:
    pipe, shown = tmp_path / "pipe", tmp_path / "shown"
    device = bench.device(identify_command=["sh", "-c", f'echo x >> "{shown}"; mkfifo "{pipe}"; cat "{pipe}"'])
    await device.start()
    async with connected(bench, device.label.qr) as companion:
        for _ in range(3):
            assert isinstance(await companion.ask(Identify()), Done)
        await until(pipe.exists)
        assert shown.read_text() == "x\n"
        pipe.write_text("enough")


async def test_a_command_that_does_not_exist_is_told_and_the_device_lives_on(bench: Bench) -> None:
    device = bench.device(identify_command=["/nowhere/blink"])
    await device.start()
    async with connected(bench, device.label.qr) as companion:
        answer = await companion.ask(Identify())
        assert isinstance(answer, Failed)
        assert answer.code is FailureCode.NOT_ALLOWED
        assert isinstance(await companion.ask(AskStatus()), Idle)


# Removed in MODE ----------------------------------------------------------------------------------------------------


async def removed(bench: Bench) -> Device:
    device = await provisioned(bench)
    await device.stop()
    credentials = device.credentials
    assert credentials is not None
    answer = await bench.client.delete(
        f"/devices/{credentials.device_id}", headers={"Authorization": f"ModeCloud {bench.seed['userKey']}"}
    )
    answer.raise_for_status()
    await device.start()
    await device.saw("removed in MODE")
    return device


async def test_a_device_that_was_removed_in_mode_says_so_until_it_is_reset(processes: Bench) -> None:
    bench = processes
    device = await removed(bench)
    outcome = await bench.push(device.label.qr, await bench.token())
    assert outcome.exit_code == 21, outcome
    code, said = await command(device, "status")
    assert (code, said["removed"], said["state"]) == (0, True, "provisioned")
    assert said["next"] == "removed in MODE; run: bletoken-peripheral reset"
    await device.stop()
    await device.start()
    await device.saw("removed in MODE")
    await device.stop()
    assert device.credentials is not None, "credentials are kept until the reset"
    assert (await command(device, "reset", "--yes"))[0] == 0
    await device.start()
    outcome = await bench.push(device.label.qr, await bench.token())
    assert outcome.exit_code == 0, outcome
    assert await bench.devices_in_home() == [outcome.device_id]


async def test_the_token_of_the_removed_device_gets_the_same_answer(bench: Bench) -> None:
    device = bench.device()
    await device.start()
    token = await bench.token()
    first = await bench.push(device.label.qr, token)
    await device.saw("provisioned")
    await device.stop()
    await bench.client.delete(
        f"/devices/{first.device_id}", headers={"Authorization": f"ModeCloud {bench.seed['userKey']}"}
    )
    await device.start()
    await device.saw("removed in MODE")
    outcome = await bench.push(device.label.qr, token)
    assert outcome.exit_code == 21, outcome
    assert bench.redemptions == [201]


async def test_a_device_that_cannot_ask_mode_is_not_called_removed_and_asks_again(bench: Bench) -> None:
    device = await provisioned(bench)
    await device.stop()
    bench.mode.faults.arm("GET /auth", Fault(drop="before", count=1))
    before = len(bench.mode.log.requests("GET /auth"))
    await device.start()
    await until(lambda: len(bench.mode.log.requests("GET /auth")) >= before + 2)
    assert isinstance(await ask(bench, device.label.qr, AskStatus()), Provisioned)
    assert "removed in MODE" not in device.steps


async def test_a_device_that_mode_knows_after_all_is_provisioned_again_after_a_restart(bench: Bench) -> None:
    device = await provisioned(bench)
    await device.stop()
    right = device.credentials
    journal = device.journal
    assert right is not None
    assert journal is not None
    with device.folder.lock() as folder:
        folder.write_journal(
            journal.after(redemption.Event.KEY_REFUSED, failure=redemption.Failure(FailureCode.CREDENTIALS_REFUSED))
        )
    await device.start()
    await until(lambda: device.journal == journal)
    assert isinstance(await ask(bench, device.label.qr, AskStatus()), Provisioned)


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="systemd is Linux's")
async def test_under_systemd_a_window_that_was_slept_through_closes_with_the_next_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", systemd.getsockname())
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        async with open_bench(Processes(CLOCKWORK), tmp_path) as bench:
            device = bench.device(window_s=1200)
            await device.start()
            for _ in range(4):
                assert "window closed" not in device.steps
                await pass_the_delay(device)
            await device.saw("window closed")


# The PIN ------------------------------------------------------------------------------------------------------------


CLOCKWORK = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning:dbus_next.service", clockwork.__file__]
"""A device whose clock a signal moves, as a program."""


async def pass_the_delay(device: Device) -> None:
    assert isinstance(device.running, benches._DeviceProcess)
    jumps = device.steps.count("clock jumped")
    device.running.process.send_signal(signal.SIGUSR1)
    await device.saw("clock jumped", times=jumps + 1)


async def wrong_pin(bench: Bench) -> ClearCode | None:
    """Try a wrong PIN; None when the device went away in the middle of it."""
    try:
        answer = await ask(bench, WRONG_PIN, AskStatus())
    except Exception:  # noqa: BLE001 whatever the stack makes of a device that is killed
        return None
    assert isinstance(answer, ClearStatus)
    return answer.code


async def guess_until_stopped(bench: Bench, device: Device, dice: random.Random) -> tuple[int, int]:
    """Try wrong PINs, and kill the device now and then: between two, or in the middle of one.

    Returns:
        How often it was killed, and how often it was found locked.
    """
    refused = killed = locked = 0
    while (failures := device.folder.read_failures()) != STOP_AT:
        assert failures is not None
        assert refused <= failures, "an attempt that was answered is never forgotten"
        if failures >= 3 and dice.random() < 0.2:
            assert await wrong_pin(bench) is ClearCode.LOCKED, "the delay goes on, after a restart too"
            assert device.folder.read_failures() == failures
            locked += 1
        await pass_the_delay(device)
        guess = asyncio.create_task(wrong_pin(bench))
        kill = dice.choice(["never", "never", "in the middle", "afterwards"])
        if kill == "in the middle":
            await device.saw("companion connected", device.steps.count("companion connected") + 1)
            await asyncio.sleep(dice.uniform(0, 0.03))
        elif kill == "afterwards":
            refused += await guess is ClearCode.NOT_AUTHENTIC
        if kill != "never":
            await device.kill()
            killed += 1
            await device.start()
        if kill != "afterwards":
            refused += await guess is ClearCode.NOT_AUTHENTIC
    return killed, locked


async def stays_stopped(bench: Bench, device: Device) -> None:
    await pass_the_delay(device)
    for pin in (WRONG_PIN, pin_of(device)):
        answer = await ask(bench, pin, Unlock())
        assert isinstance(answer, ClearStatus)
        assert (answer.code, answer.wait_s) == (ClearCode.LOCKED, 0)
    assert device.folder.read_failures() == STOP_AT


@pytest.mark.long
@pytest.mark.parametrize("seed", [0])
async def test_twenty_wrong_pins_stop_the_pin_whenever_it_is_killed_and_nothing_but_an_unlock_helps(
    tmp_path: Path, seed: int
) -> None:
    async with open_bench(Processes(CLOCKWORK), tmp_path) as bench:
        device = bench.device(window_s=86400)
        await device.start()
        killed, locked = await guess_until_stopped(bench, device, random.Random(seed))
        assert (killed > 0, locked > 0) == (True, True)
        await stays_stopped(bench, device)
        await device.kill()
        await device.start()
        await stays_stopped(bench, device)
        assert isinstance(await ask(bench, device.label.qr, AskStatus()), Idle)
        await stays_stopped(bench, device)
        assert (await command(device, "status"))[1]["pin_state"] == "stopped"
        assert isinstance(await ask(bench, device.label.qr, Unlock()), Done)
        assert device.folder.read_failures() == 0
        assert isinstance(await ask(bench, pin_of(device), AskStatus()), Idle)


async def refused_pin(bench: Bench, device: Device) -> ClearCode:
    answer = await ask(bench, pin_of(device), AskStatus())
    assert isinstance(answer, ClearStatus)
    return answer.code


async def unlock_while_off(device: Device) -> None:
    assert (await command(device, "unlock"))[0] == 0
    await device.start()


async def unlock_while_on(device: Device) -> None:
    await device.start()
    assert (await command(device, "unlock"))[0] == 0


@pytest.mark.parametrize("unlock", [unlock_while_off, unlock_while_on])
@pytest.mark.parametrize("record", [b'{"schema": 1, "failures": 20}', b"{", b"", None], ids=str)
async def test_a_local_unlock_takes_pins_again_also_from_a_damaged_record(
    processes: Bench, record: bytes | None, unlock: Callable[[Device], Awaitable[None]]
) -> None:
    device = processes.device()
    path = device.folder.path / "guesses.json"
    if record is None:
        path.unlink()
    else:
        path.write_bytes(record)
    await unlock(device)
    assert device.folder.read_failures() == 0
    assert isinstance(await ask(processes, pin_of(device), AskStatus()), Idle)


@pytest.mark.parametrize("record", [b"{", None], ids=str)
async def test_a_missing_or_damaged_record_stops_the_pin_and_only_a_person_at_the_device_mends_it(
    bench: Bench, record: bytes | None
) -> None:
    device = bench.device()
    path = device.folder.path / "guesses.json"
    path.unlink()
    if record is not None:
        path.write_bytes(record)
        path.chmod(0o600)
    await device.start()
    assert await refused_pin(bench, device) is ClearCode.LOCKED
    answer = await ask(bench, device.label.qr, Unlock())
    assert isinstance(answer, Failed)
    assert answer.code is FailureCode.NOT_ALLOWED
    assert await refused_pin(bench, device) is ClearCode.LOCKED
    assert (path.read_bytes() if path.exists() else None) == record
    await tell(device, Command.UNLOCK)
    assert isinstance(await ask(bench, pin_of(device), AskStatus()), Idle)


async def test_unlock_is_not_granted_to_the_pin_itself(bench: Bench) -> None:
    device = bench.device()
    device.folder.write_failures(2)
    await device.start()
    answer = await ask(bench, pin_of(device), Unlock())
    assert isinstance(answer, Failed)
    assert answer.code is FailureCode.NOT_ALLOWED
    assert device.folder.read_failures() == 2


async def test_a_running_device_with_a_newer_record_refuses_to_unlock_and_leaves_it(processes: Bench) -> None:
    device = processes.device()
    path = device.folder.path / "guesses.json"
    path.write_text('{"schema": 2}')
    assert (await command(device, "unlock"))[0] == 15
    await device.start()
    assert (await command(device, "unlock"))[0] == 15
    assert path.read_text() == '{"schema": 2}'


# A disk that does not take it ---------------------------------------------------------------------------------------


class Blocked:
    """Keeps a state file from being written, as a full disk does: a folder stands where its successor would."""

    def __init__(self, device: Device, name: str) -> None:
        self._path = device.folder.path / f".{name}.new"

    def __enter__(self) -> None:
        self._path.mkdir()

    def __exit__(self, *_: object) -> None:
        self._path.rmdir()


async def test_a_pin_that_cannot_be_counted_is_not_tried_and_the_qr_code_works_on(bench: Bench) -> None:
    device = bench.device()
    await device.start()
    with Blocked(device, "guesses.json"):
        assert await refused_pin(bench, device) is ClearCode.STORAGE_FAILED
        answer = await ask(bench, device.label.qr, Unlock())
        assert isinstance(answer, Failed)
        assert answer.code is FailureCode.STORAGE_FAILED
    assert await refused_pin(bench, device) is ClearCode.LOCKED
    assert isinstance(await ask(bench, device.label.qr, Unlock()), Done)
    assert isinstance(await ask(bench, pin_of(device), AskStatus()), Idle)


async def test_a_token_that_cannot_be_kept_is_refused_and_the_device_lives_on(bench: Bench) -> None:
    device = bench.device()
    await device.start()
    token = await bench.token()
    with Blocked(device, "journal.json"):
        assert (await bench.push(device.label.qr, token)).exit_code == 15
        assert bench.redemptions == []
    assert (await bench.push(device.label.qr, token)).exit_code == 0


async def test_credentials_survive_a_journal_that_cannot_be_written_and_a_kill(processes: Bench) -> None:
    bench = processes
    device = bench.device()
    await device.start()
    bench.mode.faults.arm("POST /devices", Fault(hold="after"))
    pushing = asyncio.create_task(bench.push(device.label.qr, await bench.token()))
    await until(lambda: bench.mode.faults.held)
    with Blocked(device, "journal.json"):
        bench.mode.faults.clear()
        bench.mode.faults.release()
        outcome = await pushing
        assert outcome.exit_code == 0, outcome
        assert device.journal is not None
        assert device.journal.phase is Phase.REDEEMING
        await device.kill()
    await device.start()
    await device.saw("provisioned")
    assert device.credentials is not None
    assert device.credentials.device_id == outcome.device_id
    assert bench.redemptions == [201]


async def test_what_could_not_be_written_is_written_when_the_disk_takes_it_again(bench: Bench) -> None:
    device = bench.device()
    await device.start()
    bench.mode.faults.arm("POST /devices", Fault(hold="after"))
    pushing = asyncio.create_task(bench.push(device.label.qr, await bench.token()))
    await until(lambda: bench.mode.faults.held)
    with Blocked(device, "journal.json"):
        bench.mode.faults.clear()
        bench.mode.faults.release()
        assert (await pushing).exit_code == 0
        await device.saw("cannot write the journal", times=2)
    await device.saw("provisioned")
    assert device.journal is not None
    assert device.journal.phase is Phase.ANNOUNCED
    assert len(bench.mode.log.requests("PUT /devices/{id}/event")) == 1
    assert await ask(bench, device.label.qr, AskStatus())


async def test_what_stands_where_the_control_socket_belongs_is_left_alone_and_told(processes: Bench) -> None:
    device = processes.device()
    (device.folder.path / "control").write_text("not a socket")
    code, said = await command(device, "run")
    assert (code, said["message"].endswith("is not a socket")) == (15, True)
    assert (device.folder.path / "control").read_text() == "not a socket"
