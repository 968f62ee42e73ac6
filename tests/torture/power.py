"""The power goes: the device starts on every state of its disk that a cut may leave, and in a machine that is cut.

A killed program leaves all it wrote to the kernel, so killing proves nothing about what is on the disk. The states come
from the calls of a recorded hand-off: see `disk`. The companion and MODE are real, and in the middle of the hand-off.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from handoff.bench import Bench, Device, InProcess, Outcome, open_bench, until
from torture import emulated, programs, sabotage, trace
from torture.disk import Disk, State
from torture.plan import NotPossibleError, Plan, side_by_side
from torture.report import Result, Trial
from torture.trace import Call
from torture.verdict import issued, judge

from bletoken.errors import CodeRefusedError
from bletoken.protocol.setup_code import Label
from bletoken.protocol.wire import token_ref
from bletoken_central.recovery import Notes
from bletoken_peripheral.store import GUESSES_FILE, StateFolder

NAME = "power"
DEFENCES = ("fsync", "fsync-file", "fsync-folder")

MACHINE_CUT = "machine cut"
"""How the names of the real cuts begin."""

WRONG_PIN = "cut after a wrong PIN"
"""How the names of the cuts begin that come after a guess."""

_MACHINE_CUTS = 20
_SAMPLE = 10


@dataclass(frozen=True)
class Cut:
    """A state that a cut may leave.

    Attributes:
        after: The call after which the power goes; the first after which this state is possible.
        state: The device's files.
        redeemed: Whether MODE has made a device of the token by then.
    """

    after: str
    state: State
    redeemed: bool

    def __str__(self) -> str:
        return f"cut after {self.after}, {'redeemed' if self.redeemed else 'not redeemed'}, left: {_listed(self.state)}"


def _listed(state: State) -> str:
    return ", ".join(sorted(f"{trace.without_tag(name)} {left}" for name, left in state)) or "nothing"


@dataclass(frozen=True)
class Recorded:
    """A hand-off, and what in it was its own: token, key and so on, which are others in another.

    Attributes:
        calls: What the device did.
        state: Its state folder.
        notes_calls: What the companion did.
        notes: The folder of its notes.
        own: The octets that are the hand-off's own.
    """

    calls: list[Call]
    state: Path
    notes_calls: list[Call]
    notes: Path
    own: tuple[bytes, ...]


async def trials(plan: Plan) -> AsyncIterator[Trial]:
    """See `plan.Family`."""
    recorded = await _record(plan)
    cuts = [cut for cut in _cuts(plan, recorded) if plan.wants(str(cut))]
    if plan.quick:
        cuts = random.Random(plan.seed).sample(cuts, min(_SAMPLE, len(cuts)))
    trials = (
        partial(_or_lost, str(cut), partial(_started_on, plan, recorded, cut, number))
        for number, cut in enumerate(cuts)
    )
    async for trial in side_by_side(trials):
        yield trial
    for trial in _notes_after_cuts(plan, recorded.notes, recorded.notes_calls, "companion"):
        yield trial
    for trial in _notes_after_cuts(plan, *await _record_a_removal(plan), "removing companion"):
        yield trial
    async for trial in _guesses_after_cuts(plan):
        yield trial
    if not plan.quick and (machine_cuts := _machine_cuts(plan)):
        async for trial in _cut_the_machine(plan, machine_cuts):
            yield trial


async def _or_lost(fault: str, tried: Callable[[], Awaitable[Trial]]) -> Trial:
    """Try a fault; where something is waited for in vain, that is the trial's result and not the end of the others."""
    try:
        return await tried()
    except (AssertionError, TimeoutError) as error:
        return Trial(fault, Result.LOST, str(error) or type(error).__name__)


async def _record(plan: Plan) -> Recorded:
    folder = plan.folder / "recorded"
    folder.mkdir()
    recording = await programs.recorded(folder, plan.without)
    device = recording.device
    own = _own(recording.token, device.credentials.device_id, device.credentials.api_key, recording.bench.mode.url)
    notes = folder / "bletoken" / "tokens"
    return Recorded(recording.of_device, device.folder.path, recording.of_companion, notes, own)


def _own(token: str, device_id: int, api_key: str, mode_url: str) -> tuple[bytes, ...]:
    return (
        token.encode(),
        token_ref(token).hex().encode(),
        f'"device_id": {device_id}'.encode(),
        *map(str.encode, (api_key, mode_url)),
    )


def _cuts(plan: Plan, recorded: Recorded) -> Iterator[Cut]:
    """All states, each once."""
    disk = Disk(recorded.state, {}, plan.seed)
    seen: set[tuple[State, bool]] = set()
    asked = answered = False
    for call in recorded.calls:
        if call.port and not answered:
            asked |= recorded.own[0] in call.octets
            answered = call.name == "recvfrom" and (call.result or 0) > 0
            changed = asked
        else:
            changed = disk.carry_out(call)
        if not changed:
            continue
        for state in sorted(disk.after_a_cut(), key=repr):
            # Of a request that left and was not answered nobody knows whether it arrived.
            for redeemed in [True] if answered else [False, True] if asked else [False]:
                if (state, redeemed) not in seen:
                    seen.add((state, redeemed))
                    yield Cut(str(call), state, redeemed)


async def _started_on(plan: Plan, recorded: Recorded, cut: Cut, number: int) -> Trial:
    folder = plan.folder / f"{number}"
    folder.mkdir()
    async with open_bench(InProcess() if plan.quick else programs.DeviceProgram(), folder) as bench:
        device = bench.device()
        # The companion has its token, and finds no device until the power is back.
        providing = asyncio.create_task(bench.provision(device.label.qr, find_s=120))
        await until(lambda: issued(bench))
        (token,) = issued(bench)
        device_id, api_key = 0, ""
        if cut.redeemed:
            made = (await bench.client.post("/devices", json={"token": token})).raise_for_status().json()
            device_id, api_key = made["id"], made["apiKey"]
        own = _own(token, device_id, api_key, bench.mode.url)
        for name, left in cut.state:
            octets = left.octets
            for theirs, ours in zip(recorded.own, own, strict=True):
                octets = octets.replace(theirs, ours)
            path = device.folder.path / name
            path.touch(mode=0o600)
            path.write_bytes(left.content(octets))
        if refusal := await programs.refusal(device):
            providing.cancel()
            await asyncio.wait({providing})
            return Trial(str(cut), Result.LOST, f"the device does not start: {refusal}")
        return await judge(str(cut), bench, device, await programs.again(bench, device, providing))


async def _record_a_removal(plan: Plan) -> tuple[Path, list[Call]]:
    """The companion's notes, and what it does where the first outcome is unknown, so that it removes a device."""
    folder = plan.folder / "removal"
    folder.mkdir()
    recording = await programs.recorded(folder, plan.without, prepare=programs.lose_an_answer)
    return folder / "bletoken" / "tokens", recording.of_companion


def _notes_after_cuts(plan: Plan, notes: Path, calls: list[Call], who: str) -> Iterator[Trial]:
    """Once a token was asked for, its note is there whatever a cut leaves, until it is forgotten."""
    top = notes.parents[1]
    disk = Disk(top, {}, plan.seed)
    seen: set[tuple[State, frozenset[str]]] = set()
    noted, asked = "", frozenset[str]()
    for call in calls:
        if disk.carry_out(call) and call.path and call.path.parent == notes:
            noted = call.path.stem if call.name == "rename" else noted
            asked -= {call.path.stem} if call.name == "unlink" else set()
        if b"/deviceProvisioning" in call.octets:
            asked |= {noted}
        for state in sorted(disk.after_a_cut(), key=repr):
            fault = f"{who} cut after {call}, left: {_listed(state)}"
            if (state, asked) in seen or not plan.wants(fault):
                continue
            seen.add((state, asked))
            folder = plan.folder / f"notes-{who}-{len(seen)}"
            for name, left in state:
                path = folder / name
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.touch(mode=0o600)
                path.write_bytes(left.content(left.octets))
            missing = asked - {note.tag for note in Notes(folder / notes.relative_to(top)).all()}
            found = Result.LOST if missing else Result.SURVIVED
            yield Trial(fault, found, f"no note of a token that was asked for: {', '.join(missing)}" if missing else "")


async def _guesses_after_cuts(plan: Plan) -> AsyncIterator[Trial]:
    """Whoever is told that a PIN is wrong was counted, whatever a cut leaves."""
    if not (plan.only in WRONG_PIN or plan.only.startswith(WRONG_PIN)):
        return
    folder = plan.folder / "guesses"
    folder.mkdir()
    program = programs.DeviceProgram(sabotage.command(plan.without, "bletoken_peripheral"))
    async with open_bench(program, folder) as bench:
        device = bench.device()
        before = (device.folder.path / GUESSES_FILE).read_bytes()
        await device.start()
        await trace.quiet(device.running.process.pid)
        wrong = Label.generate(random.Random(plan.seed).randbytes, with_pin=True).pin
        async with trace.attached(device.running.process.pid) as seen:
            assert (await bench.push(wrong, await bench.token())).exit_code == CodeRefusedError.exit_code
            await device.saw("companion left")
    disk = Disk(device.folder.path, {GUESSES_FILE: before}, plan.seed)
    is_counting, tried = False, set()
    for call in seen.calls:
        is_counting |= disk.carry_out(call)
        if not is_counting or call.name != "sendto":
            continue
        for state in disk.after_a_cut() - tried:
            tried.add(state)
            fault = f"{WRONG_PIN}, left: {_listed(state)}"
            if not plan.wants(fault):
                continue
            left = StateFolder(folder / f"left-{len(tried)}")
            left.create()
            for name, content in state:
                path = left.path / name
                path.touch(mode=0o600)
                path.write_bytes(content.content(content.octets))
            failures = left.read_failures()
            # Without a record that can be read, the PIN stops.
            found = Result.LOST if failures == 0 else Result.SURVIVED
            detail = "the guess is not counted" if found is Result.LOST else ""
            yield Trial(fault, found, detail)


# Real cuts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MachineCut:
    """A real cut.

    Attributes:
        number: Counts up from 1; each is of another hand-off.
        moment: When it comes, by a name in `_MOMENTS`; empty where it comes at random.
        share: How far into a hand-off it comes at random, by the time that one takes.
    """

    number: int
    moment: str = ""
    share: float = 0.0

    def __str__(self) -> str:
        when = f"once {self.moment}" if self.moment else f"at {self.share:.0%} of a hand-off"
        return f"{MACHINE_CUT} {self.number} {when}"


@dataclass(frozen=True)
class _UnderWay:
    """A hand-off that is going to be cut."""

    bench: Bench
    steps: list[str]
    providing: asyncio.Task[Outcome]


_MOMENTS: dict[str, Callable[[_UnderWay], bool]] = {
    "the device took the token": lambda it: "token accepted" in it.steps,
    "MODE made a device": lambda it: any(it.bench.redemptions),
    "the device kept the key": lambda it: "stored" in it.steps,
    "the companion was told": lambda it: it.providing.done(),
}
"""The moments after which something must not be lost any more. They pass in less time than a cut hits by chance."""

_CUTS_AT_EACH = 3


def _machine_cuts(plan: Plan) -> list[MachineCut]:
    aimed = [moment for moment in _MOMENTS for _ in range(_CUTS_AT_EACH)]
    choice = random.Random(plan.seed)
    cuts = [MachineCut(number, moment) for number, moment in enumerate(aimed, 1)]
    cuts += [MachineCut(number, share=choice.random()) for number in range(len(cuts) + 1, _MACHINE_CUTS + 1)]
    return [cut for cut in cuts if plan.wants(str(cut))]


async def _cut_the_machine(plan: Plan, cuts: list[MachineCut]) -> AsyncIterator[Trial]:
    """A machine is cut in the middle of hand-offs, and booted again on its disk."""
    if why := emulated.missing():
        raise NotPossibleError(f"no machine can be cut without {why}")
    folder = plan.folder / "machine"
    folder.mkdir()
    program = [".venv/bin/python", "-m", *(["torture.sabotage", plan.without] if plan.without else [])]
    program.append("bletoken_peripheral" if plan.without else "bletoken_peripheral.cli")
    async with open_bench(InProcess(), folder, air="tcp:127.0.0.1:0") as bench:
        cold, warm, *devices = [bench.device(f"d{number}") for number in range(len(cuts) + 2)]
        ports = [int(url.rpartition(":")[2]) for url in (bench.mode.url, bench.device_radio)]
        made = emulated.Machine(folder, [device.path for device in bench.devices], program, ports)
        async with made.cut_at_the_end() as machine:
            await _switch_on(machine, cold)
            takes_s = 0.0
            if any(cut.share for cut in cuts):
                # The first takes longer than any other: half of what it loads is not in the machine's memory yet.
                for device in (cold, warm):
                    await _run(machine, device)
                    takes_s = (await bench.provision(device.label.qr)).result["elapsed_s"]["total"]
            for cut, device in zip(cuts, devices, strict=True):
                trial = await _or_lost(str(cut), partial(_machine_cut, bench, machine, device, cut, takes_s))
                yield trial
                if trial.result is not Result.SURVIVED:
                    await machine.cut()
                    await _switch_on(machine, cold)


async def _switch_on(machine: emulated.Machine, device: Device) -> None:
    """Boot it, and wait: it does not hear what it is told before."""
    await machine.boot(device.path.name)
    if refusal := await machine.refusal(device.path.name):
        raise NotPossibleError(f"the machine does not come up: {refusal}")


async def _run(machine: emulated.Machine, device: Device) -> None:
    if device.path.name not in machine.steps:
        machine.run(device.path.name)
    refusal = await machine.refusal(device.path.name)
    assert not refusal, refusal


async def _machine_cut(
    bench: Bench, machine: emulated.Machine, device: Device, cut: MachineCut, takes_s: float
) -> Trial:
    name = device.path.name
    bench.seed = await bench.sim("/_sim/seed", {"homeName": name})
    bench.mode.log.clear()
    await _run(machine, device)
    providing = asyncio.create_task(bench.provision(device.label.qr, find_s=emulated.BOOT_S, total_s=600))
    if cut.moment:
        under_way = _UnderWay(bench, machine.steps[name], providing)
        while not (has_come := _MOMENTS[cut.moment](under_way)) and not providing.done():
            await asyncio.sleep(0.002)
        assert has_come, f"the moment has not come: {await providing}"
    else:
        await asyncio.sleep(cut.share * takes_s)
    fault = f"{cut}, last: {machine.steps[name][-1]}{', after its end' if providing.done() else ''}"
    await machine.cut()
    await machine.boot(name)
    if refusal := await machine.refusal(name):
        providing.cancel()
        await asyncio.wait({providing})
        return Trial(fault, Result.LOST, f"the device does not start: {refusal}")
    outcome = await programs.again(bench, device, providing)
    for path in device.folder.path.iterdir():
        path.unlink()
    for file, octets in (await machine.show(name)).items():
        path = device.folder.path / file
        path.touch(mode=0o600)
        path.write_bytes(octets)
    return await judge(fault, bench, device, outcome)
