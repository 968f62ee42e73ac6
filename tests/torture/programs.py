"""Benches on which a side is a program, a hand-off of theirs recorded, and tries that go on until it worked."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from handoff.bench import Bench, Device, InProcess, Outcome, Processes, RunningDevice, open_bench, until
from torture import sabotage, trace
from torture.trace import Call
from torture.verdict import issued

from bletoken.errors import BletokenError
from bletoken.sim.cloud.faults import Fault

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


@dataclass(frozen=True)
class Recording:
    """A hand-off between the two programs, which succeeded.

    Attributes:
        bench: Where it happened; it is closed by now.
        device: Its device.
        token: What MODE issued for it; the last if there were several.
        of_device: What the device did.
        of_companion: What the companion did.
    """

    bench: Bench
    device: Device
    token: str
    of_device: list[Call]
    of_companion: list[Call]


async def recorded(
    folder: Path,
    without: str | None,
    *,
    names: tuple[str, ...] = trace.FILES + trace.SOCKETS,
    paths: Callable[[Device], Sequence[Path]] = lambda _: (),
    prepare: Callable[[Bench], object] = lambda _: None,
) -> Recording:
    """Record one.

    Args:
        folder: For its bench.
        without: The defence to take out.
        names: The calls to look at.
        paths: The files of the device to look at alone.
        prepare: Has something go wrong in it that the two cope with.
    """
    companion = stopped(sabotage.command(without, "bletoken_central"), folder / "pid")
    async with open_bench(Processes(sabotage.command(without, "bletoken_peripheral"), companion), folder) as bench:
        prepare(bench)
        device = bench.device()
        await device.start()
        device_pid = device.running.process.pid
        await trace.quiet(device_pid)
        async with trace.attached(device_pid, names=names, paths=paths(device)) as of_device:
            providing = asyncio.create_task(bench.provision(device.label.qr))
            pid = await stopped_pid(folder / "pid")
            async with trace.attached(pid, names=names) as of_companion:
                go_on(pid)
                assert (await providing).exit_code == 0
            await device.saw("companion left")
            await trace.quiet(device_pid)
        token = issued(bench)[-1]
    return Recording(bench, device, token, of_device.calls, of_companion.calls)


def lose_an_answer(bench: Bench) -> None:
    """Have MODE's answer to the first token get lost, so that the companion removes what came of that one."""
    bench.mode.faults.arm("POST /devices", Fault(drop="after", count=1))


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
