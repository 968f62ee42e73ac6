"""Killed anywhere: the device's program at each of its calls in a hand-off, before and after it; and the companion's.

What a call is comes from a recorded hand-off of the real programs. A kill is real: before a call means that the kernel
did not carry it out, after it that it did and the program never knew.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from handoff.bench import Bench, Device, Outcome, open_bench, until
from torture import programs, sabotage, trace
from torture.plan import NotPossibleError, Plan, side_by_side
from torture.report import Result, Trial
from torture.trace import Call, Injection, Trace
from torture.verdict import issued, judge

from bletoken.protocol.wire import Provision
from bletoken_peripheral.redemption import Event, Journal
from bletoken_peripheral.store import JOURNAL_FILE

NAME = "killed"
DEFENCES = ("redeeming", "leftovers")

_TRIES = 4
"""Hand-offs in which to meet one call: packets are not always in the same order."""

_MISSED_SHARE = 0.05
_MISSED_AT_LEAST = 5
"""Kills whose call comes in no other hand-off: with more than this share of all, and this number, not all was tried."""

_SAMPLE = 10

_LATE_S = 3
"""Seconds that a kill may take after the companion's end, while the device still writes."""

_MOMENTS: dict[str, Callable[[Call], Injection]] = {"before": trace.killed_before, "after": trace.held_after}


@dataclass(frozen=True)
class Kill:
    """Who is killed, and when."""

    who: str
    moment: str
    call: Call

    @property
    def injection(self) -> Injection:
        return _MOMENTS[self.moment](self.call)

    def __str__(self) -> str:
        return f"{self.who} killed {self.moment} {self.call}"


async def trials(plan: Plan) -> AsyncIterator[Trial]:
    """See `plan.Family`."""
    kills = [kill for kill in await _kills(plan) if plan.wants(str(kill))]
    if plan.quick:
        kills = _sample(kills, random.Random(plan.seed))
    hit = set()
    async for trial in side_by_side(partial(_trial, plan, kill, number) for number, kill in enumerate(kills)):
        if trial is not None:
            hit.add(trial.fault)
            yield trial
    if missed := [kill for kill in map(str, kills) if kill not in hit]:
        told = f"{len(missed)} of {len(kills)} calls came in no other hand-off: {', '.join(missed)}"
        if len(missed) > max(_MISSED_AT_LEAST, _MISSED_SHARE * len(kills)):
            raise NotPossibleError(told)
        plan.remarks.append(told)


def _sample(kills: list[Kill], choice: random.Random) -> list[Kill]:
    """One for each kind of call of either side, as many as there is time for."""
    kinds: dict[tuple[str, str], list[Kill]] = {}
    for kill in kills:
        kinds.setdefault((kill.who, kill.call.name), []).append(kill)
    return choice.sample([choice.choice(kind) for kind in kinds.values()], min(_SAMPLE, len(kinds)))


async def _kills(plan: Plan) -> list[Kill]:
    """All there are, from a recorded hand-off."""
    folder = _folder(plan, "recorded")
    recording = await programs.recorded(folder, plan.without)
    sides = {
        "device": [call for call in recording.of_device if _is_relevant(call, folder)],
        "companion": [call for call in recording.of_companion if _is_relevant(call, folder)],
        "restarting device": await _restart(plan),
        "removing companion": await _removal(plan),
    }
    return [Kill(who, moment, call) for who, calls in sides.items() for call in calls for moment in _MOMENTS]


def _folder(plan: Plan, name: str) -> Path:
    """A folder for a bench. Companions sync it, and calls have its own name in theirs, so that is the same for all."""
    folder = plan.folder / name / "bench"
    folder.mkdir(parents=True)
    return folder


async def _removal(plan: Plan) -> list[Call]:
    """What a companion does from when a device says that an outcome is unknown until it asks for another token."""
    folder = _folder(plan, "removed")
    recording = await programs.recorded(folder, plan.without, prepare=programs.lose_an_answer)
    calls = [call for call in recording.of_companion if _is_relevant(call, folder)]
    _, _, noted, *_ = (number for number, call in enumerate(calls) if call.name == "rename")
    _, asked_again = (number for number, call in enumerate(calls) if b"/deviceProvisioning" in call.octets)
    *_, last_said = (number for number, call in enumerate(calls[:noted]) if call.name == "sendto" and not call.port)
    return calls[last_said : asked_again + 1]


async def _restart(plan: Plan) -> list[Call]:
    """What a device does to its files that starts after it was killed in the middle of a request to MODE."""
    folder = _folder(plan, "restarted")
    async with _interrupted(plan, folder) as (bench, device, providing):
        pid = await programs.stopped_pid(folder / "device-pid")
        async with trace.attached(pid, names=trace.FILES, paths=_files(device)) as seen:
            programs.go_on(pid)
            assert (await programs.again(bench, device, providing)).exit_code == 0
            # Once the file and the folder are synced, what follows is a hand-off like any other.
            _, folder_synced, *_ = (number for number, call in enumerate(seen.calls) if call.name == "fsync")
            return seen.calls[: folder_synced + 1]


def _files(device: Device) -> list[Path]:
    state = device.folder.path
    return [state, state / JOURNAL_FILE, state / f".{JOURNAL_FILE}.new"]


@contextlib.asynccontextmanager
async def _interrupted(plan: Plan, folder: Path) -> AsyncIterator[tuple[Bench, Device, asyncio.Task[Outcome]]]:
    """A device, stopped before it starts, that was asking MODE; a companion that waits for it; MODE has the request."""
    command = programs.stopped(sabotage.command(plan.without, "bletoken_peripheral"), folder / "device-pid")
    async with open_bench(programs.DeviceProgram(command), folder) as bench:
        device = bench.device()
        providing = asyncio.create_task(bench.provision(device.label.qr, find_s=120))
        await until(lambda: issued(bench))
        (token,) = issued(bench)
        (await bench.client.post("/devices", json={"token": token})).raise_for_status()
        device.folder.write_journal(Journal.begin(Provision(token, 600, 0)).after(Event.SENDING))
        device.running = await bench.programs.start_device(device)
        yield bench, device, providing


async def _restarting_device_killed(plan: Plan, kill: Kill, folder: Path) -> tuple[Call | None, Trial | None]:
    async with _interrupted(plan, folder) as (bench, device, providing):
        pid = await programs.stopped_pid(folder / "device-pid")
        async with trace.attached(pid, kill.injection, names=trace.FILES, paths=_files(device)) as seen:
            programs.go_on(pid)
            if not await _died(seen, providing):
                return None, None
            await device.running.process.wait()
        bench.programs = programs.DeviceProgram(sabotage.command(plan.without, "bletoken_peripheral"))
        if refusal := await programs.refusal(device):
            return seen.calls[-1], Trial(str(kill), Result.LOST, f"the device does not start again: {refusal}")
        return await _judged(kill, seen, bench, device, providing)


def _is_relevant(call: Call, folder: Path) -> bool:
    """Whether it changes a file of ours, or says or hears something."""
    if call.name in trace.SOCKETS:
        # The loop wakes itself with a zero, and -1 is that nothing was there to read.
        return call.octets != b"\0" and (call.result != -1 or call.name == "connect")
    is_ours = call.path is not None and call.path.is_relative_to(folder)
    return is_ours and call.result != -1 and (call.name != "openat" or "O_CREAT" in call.flags)


async def _trial(plan: Plan, kill: Kill, number: int) -> Trial | None:
    """None where no hand-off came to the call, nor the last one to another that matters."""
    run = {
        "device": _device_killed,
        "companion": _companion_killed,
        "restarting device": _restarting_device_killed,
        "removing companion": partial(_companion_killed, prepare=programs.lose_an_answer),
    }[kill.who]
    tries = 1 if plan.quick else _TRIES
    for attempt in range(tries):
        folder = _folder(plan, f"{number}-{attempt}")
        try:
            hit, trial = await run(plan, kill, folder)
        except AssertionError as error:
            return Trial(str(kill), Result.LOST, str(error))
        if hit is None or trial is None:
            continue
        if trial.result is not Result.SURVIVED or str(hit) == str(kill.call):
            return trial
        if attempt == tries - 1 and _is_relevant(hit, folder):
            # What was hit instead was hit all the same, and counts under its own name.
            return trial
    return None


async def _device_killed(plan: Plan, kill: Kill, folder: Path) -> tuple[Call | None, Trial | None]:
    """Returns the call that was hit, and what became of it; or None where it was over before."""
    program = programs.DeviceProgram(sabotage.command(plan.without, "bletoken_peripheral"))
    async with open_bench(program, folder) as bench:
        device = bench.device()
        await device.start()
        pid = device.running.process.pid
        await trace.quiet(pid)
        async with trace.attached(pid, kill.injection) as seen:
            providing = asyncio.create_task(bench.provision(device.label.qr))
            if not await _died(seen, providing):
                await providing
                return None, None
            await device.running.process.wait()
        if refusal := await programs.refusal(device):
            return seen.calls[-1], Trial(str(kill), Result.LOST, f"the device does not start again: {refusal}")
        return await _judged(kill, seen, bench, device, providing)


async def _companion_killed(
    plan: Plan, kill: Kill, folder: Path, prepare: Callable[[Bench], object] = lambda _: None
) -> tuple[Call | None, Trial | None]:
    command = sabotage.command(plan.without, "bletoken_central")
    async with open_bench(programs.CompanionProgram(programs.stopped(command, folder / "pid")), folder) as bench:
        prepare(bench)
        device = bench.device()
        await device.start()
        providing = asyncio.create_task(bench.provision(device.label.qr))
        pid = await programs.stopped_pid(folder / "pid")
        async with trace.attached(pid, kill.injection) as seen:
            programs.go_on(pid)
            if not await _died(seen, providing):
                return None, None
        await providing
        bench.programs = programs.CompanionProgram(command)
        return await _judged(kill, seen, bench, device, None)


async def _died(seen: Trace, providing: asyncio.Task[object]) -> bool:
    """Whether the program was killed before all was over."""
    dying = asyncio.create_task(seen.until(lambda t: t.killed))
    await asyncio.wait({dying, providing}, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.wait({dying}, timeout=_LATE_S)
    dying.cancel()
    return seen.killed


async def _judged(
    kill: Kill, seen: Trace, bench: Bench, device: Device, providing: "asyncio.Task[object] | None"
) -> tuple[Call, Trial]:
    hit = seen.calls[-1]
    outcome = await programs.again(bench, device, providing)
    fault = str(Kill(kill.who, kill.moment, hit))
    return hit, await judge(fault, bench, device, outcome)
