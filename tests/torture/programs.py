"""Benches on which one side is a program of its own and the other a library, and tries that go on until it worked."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from handoff.bench import Bench, Device, InProcess, Outcome, Processes, RunningDevice, until

from bletoken.errors import BletokenError

LONGEST_S = 300
"""Seconds after which a hand-off counts as hung; each has a shorter time-out of its own."""

_MOST_TRIES = 6

_STOPPED = 'echo $$ > "$0"; kill -STOP $$; exec "$@"'


class DeviceProgram(InProcess):
    """The device as a program, the companion as a library."""

    def __init__(self, program: list[str] | None = None) -> None:
        self._processes = Processes(program)

    async def start_device(self, device: Device) -> RunningDevice:
        return await self._processes.start_device(device)


class CompanionProgram(Processes):
    """The companion as a program, the device as a library."""

    def __init__(self, program: list[str] | None = None) -> None:
        super().__init__(companion_program=program)

    async def start_device(self, device: Device) -> RunningDevice:
        return await InProcess().start_device(device)


def stopped(program: list[str], pid_file: Path) -> list[str]:
    """The program, but stopped before it does anything, and its process id in a file."""
    return ["/bin/sh", "-c", _STOPPED, str(pid_file), *program]


async def stopped_pid(pid_file: Path) -> int:
    """Wait for such a program, and tell its process id."""

    def is_stopped() -> bool:
        with contextlib.suppress(OSError, ValueError):
            return Path(f"/proc/{int(pid_file.read_text())}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        return False

    await until(is_stopped, lambda: "the program to be stopped")
    return int(pid_file.read_text())


def go_on(pid: int) -> None:
    """Let a stopped program go on."""
    os.kill(pid, signal.SIGCONT)


async def refusal(device: Device) -> str:
    """Start a device. Returns why it does not, in its own words; nothing where it does."""
    try:
        device.running = await device.bench.programs.start_device(device)
    except BletokenError as error:
        return str(error)
    running = device.running
    process = getattr(running, "process", None)
    await until(lambda: "advertising" in running.steps or (process and process.returncode is not None))
    if "advertising" in running.steps:
        return ""
    device.running = None
    return " / ".join(running.steps)


async def again(bench: Bench, device: Device, first: asyncio.Task[Outcome] | None = None) -> Outcome | None:
    """Try until the device is in the home, as a person would; None if a companion came to no end."""
    outcome = None
    try:
        async with asyncio.timeout(LONGEST_S):
            for tries in range(_MOST_TRIES):
                outcome = await (first if first and not tries else bench.provision(device.label.qr))
                if outcome.exit_code == 0 or await _is_done(bench, device):
                    return outcome
                await asyncio.sleep(tries / 2)
    except TimeoutError:
        return None
    return outcome


async def _is_done(bench: Bench, device: Device) -> bool:
    """Whether there is nothing more that a person would try: the device is in the home."""
    return bool(await bench.devices_in_home()) and device.folder.read_credentials() is not None
