"""Storage that fails: full, read-only and broken at each call; files that are torn, corrupt, somebody else's or links.

Whatever happens to a file, the program says so with a typed error and advice, what was on disk before is there as it
was, and once the trouble is over the hand-off succeeds. And no secret is ever in a file that others may read.
"""

import asyncio
import contextlib
import os
import random
import re
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from handoff.bench import Bench, Device, InProcess, Outcome, Processes, command, open_bench, until
from torture import programs, sabotage, trace
from torture.plan import NotPossibleError, Plan, side_by_side
from torture.report import Result, Trial
from torture.trace import Call, Injection, Trace
from torture.verdict import UNEXPECTED, issued, judge

from bletoken.errors import BletokenError, StorageError
from bletoken.mode.credentials import Credentials
from bletoken.protocol.setup_code import Label
from bletoken.protocol.wire import FailureCode, Provision, token_ref
from bletoken.sim.cloud.faults import Fault
from bletoken_peripheral import config
from bletoken_peripheral.claiming import ClaimRecord
from bletoken_peripheral.onboarding import Onboarding
from bletoken_peripheral.redemption import Event, Failure, Journal
from bletoken_peripheral.store import (
    CREDENTIALS_FILE,
    GUESSES_FILE,
    JOURNAL_FILE,
    LABEL_FILE,
    StateFolder,
)

NAME = "storage"
DEFENCES = ("beside", "leftover", "old", "private")

STORAGE_EXIT = StorageError.exit_code

_TRIES = 4
"""Hand-offs in which to meet one call."""

Job = Callable[[], Awaitable[Trial]]


async def trials(plan: Plan) -> AsyncIterator[Trial]:
    """See `plan.Family`."""
    choice = random.Random(plan.seed)
    jobs: list[tuple[str, Job]] = []
    # Of each kind, how many a sample has.
    for kind, sample in (
        (await _failing_calls(plan), 4),
        (_full_disks(plan), 2),
        (_damaged_and_mended(plan), 2),
        (_privacies(plan), 1),
    ):
        wanted = [(fault, job) for fault, job in kind if plan.wants(fault)]
        jobs += choice.sample(wanted, min(sample, len(wanted))) if plan.quick else wanted
    async for trial in side_by_side(partial(_carried_out, fault, job) for fault, job in jobs):
        yield trial
    for trial in _unreadable(plan):
        yield trial
    if not _may_mount():
        raise NotPossibleError("only root may mount a small file system, so no disk really filled")


async def _carried_out(fault: str, job: Job) -> Trial:
    try:
        return await job()
    except (AssertionError, OSError, subprocess.CalledProcessError) as error:
        return Trial(fault, Result.LOST, f"{type(error).__name__}: {error}")
    except TimeoutError:
        return Trial(fault, Result.HUNG, "it came to no end")


# Calls that fail ----------------------------------------------------------------------------------------------------

_ERRORS = {
    "openat": ("ENOSPC", "EROFS", "EIO"),
    "mkdir": ("ENOSPC", "EROFS", "EIO"),
    "write": ("ENOSPC", "EIO"),
    "fsync": ("ENOSPC", "EIO"),
    "rename": ("ENOSPC", "EROFS", "EIO"),
    "unlink": ("EROFS", "EIO"),
}
"""Which errors a call can end with. A full disk lets a file be removed, a read-only one lets an open file be synced."""


@dataclass(frozen=True)
class _Failing:
    """One call that fails, or everything from it on."""

    call: Call
    error: str
    injections: tuple[Injection, ...]
    from_then_on: bool = False

    def __str__(self) -> str:
        return f"{self.error} {'from' if self.from_then_on else 'once at'} {self.call}{' on' * self.from_then_on}"


_Files = frozenset[tuple[str, bytes]]
"""Files by their names, without what is each hand-off's own."""

_OWN = re.compile(rb'"(device_id|expires_in_s|companion_time|api_key|mode_url)": ("[^"]*"|\d+)')


async def _failing_calls(plan: Plan) -> list[tuple[str, Job]]:
    folder = plan.folder / "recorded"
    folder.mkdir()
    device_calls, companion_calls, states = await _recorded(plan, folder)
    device_fails = partial(_device_call_fails, states)
    jobs: list[tuple[str, Job]] = []
    for error in ("ENOSPC", "EROFS", "EIO"):
        for failing in _failures(device_calls, error):
            fault = f"device: {failing}"
            jobs.append((fault, partial(_call_fails, plan, fault, failing, device_fails)))
        for call in companion_calls:
            if error in _ERRORS[call.name]:
                failing = _Failing(call, error, (_injection(call, error),))
                fault = f"companion: {failing}"
                jobs.append((fault, partial(_call_fails, plan, fault, failing, _companion_call_fails)))
    return jobs


def _failures(calls: list[Call], error: str) -> Iterator[_Failing]:
    """Each call that can fail with this error, alone and with all that come after it."""
    if error != "EIO":
        # A folder can still be opened, and its names be made to last, by who looks at the files alone.
        calls = _counted([call for call in calls if not _is_of_folder(call)])
    for index, call in enumerate(calls):
        if error not in _ERRORS[call.name]:
            continue
        yield _Failing(call, error, (_injection(call, error),))
        first = {later.name: later for later in reversed(calls[index:]) if error in _ERRORS[later.name]}
        yield _Failing(call, error, tuple(replace(_injection(c, error), and_on=True) for c in first.values()), True)


def _injection(call: Call, error: str) -> Injection:
    return Injection(call.name, call.number, f"error={error}")


def _is_of_folder(call: Call) -> bool:
    """Whether it is about the folder itself, which only `files.sync_folder` opens."""
    return call.path is not None and not call.path.suffix


def _counted(calls: list[Call]) -> list[Call]:
    """The calls as they are numbered where these alone are looked at."""
    numbers: Counter[str] = Counter()
    counted = []
    for call in calls:
        numbers[call.name] += 1
        counted.append(replace(call, number=numbers[call.name]))
    return counted


async def _recorded(plan: Plan, folder: Path) -> tuple[list[Call], list[Call], set[_Files]]:
    """What the device does, what the companion does, and what the device's files are meanwhile."""
    recording = await programs.recorded(
        folder, plan.without, names=trace.FILES, paths=lambda device: [device.folder.path, *_files(device)]
    )
    notes = [call for call in recording.of_companion if call.path and call.path.is_relative_to(folder / "bletoken")]
    companion_calls = [call for call in notes if call.name != "openat" or "O_CREAT" in call.flags]
    return recording.of_device, companion_calls, _states(recording.of_device, [recording.token])


def _states(calls: list[Call], tokens: list[str]) -> set[_Files]:
    """The journal and the credentials as they were at any moment, each of them whole."""
    written: dict[str, bytes] = {}
    files: dict[str, bytes] = {}
    states = {frozenset(files.items())}
    for call in calls:
        if call.path is None or call.result is None or call.result < 0:
            continue
        name = call.path.name
        match call.name:
            case "openat" if "O_CREAT" in call.flags:
                written[name] = b""
            case "write":
                written[name] += call.octets
            case "fsync" if name in written:
                files[name] = _without_own(written[name], tokens)
            case "rename":
                files[name] = files.pop(call.paths[0].name)
            case "unlink":
                files.pop(name, None)
        states.add(frozenset((name, octets) for name, octets in files.items() if not name.startswith(".")))
    return states


def _without_own(octets: bytes, tokens: list[str]) -> bytes:
    for token in tokens:
        octets = octets.replace(token.encode(), b"token").replace(token_ref(token).hex().encode(), b"reference")
    return _OWN.sub(rb'"\1"', octets)


def _files(device: Device) -> list[Path]:
    state = device.folder.path
    names = (JOURNAL_FILE, CREDENTIALS_FILE)
    return [*(state / name for name in names), *(state / f".{name}.new" for name in names)]


_Fails = Callable[[Plan, str, _Failing], Awaitable[Trial | None]]


async def _call_fails(plan: Plan, fault: str, failing: _Failing, fails: _Fails) -> Trial:
    """Try until the very call failed: what a program does before it is not always the same."""
    for _ in range(_TRIES):
        if trial := await fails(plan, fault, failing):
            return trial
    return Trial(fault, Result.LOST, "the fault was not applied: no hand-off came to this call as it was recorded")


def _was_met(failing: _Failing, seen: Trace) -> bool:
    return any(call.was_failed and str(call) == str(failing.call) for call in seen.calls)


async def _device_call_fails(states: set[_Files], plan: Plan, fault: str, failing: _Failing) -> Trial | None:
    """None where another call failed, or none."""
    folder = _new_folder(plan)
    async with open_bench(_device_program(plan), folder) as bench:
        device = bench.device()
        await device.start()
        process = device.running.process
        await trace.quiet(process.pid)
        before = _contents(device.folder)
        paths = [*_files(device), *([device.folder.path] if failing.error == "EIO" else [])]
        async with trace.attached(process.pid, *failing.injections, names=trace.FILES, paths=paths) as seen:
            # A device that ended is not there to be found.
            outcome = await _provided(bench, device, find_s=3)
            if process.returncode is None:
                await trace.quiet(process.pid)
        if trial := _untyped(fault, outcome):
            return trial
        if not _was_met(failing, seen):
            return None
        if damaged := _damaged(device.folder) or _changed(device.folder, before, states, issued(bench)):
            return Trial(fault, Result.LOST, f"what is on disk is no longer intact: {damaged}")
        if process.returncode is not None:
            if process.returncode != STORAGE_EXIT:
                return Trial(fault, Result.LOST, f"the device ended with {process.returncode}: {device.steps[-1:]}")
            device.running = None
            await device.start()
        return await judge(fault, bench, device, await programs.again(bench, device))


async def _companion_call_fails(plan: Plan, fault: str, failing: _Failing) -> Trial | None:
    """None where another call failed, or none."""
    folder = _new_folder(plan)
    companion = sabotage.command(plan.without, "bletoken_central")
    program = programs.CompanionProgram(programs.stopped(companion, folder / "pid"))
    async with open_bench(program, folder) as bench:
        device = bench.device()
        await device.start()
        providing = asyncio.create_task(_provided(bench, device))
        pid = await programs.stopped_pid(folder / "pid")
        async with trace.attached(pid, *failing.injections, names=trace.FILES) as seen:
            programs.go_on(pid)
            outcome = await providing
        if trial := _untyped(fault, outcome):
            return trial
        if not _was_met(failing, seen):
            return None
        bench.programs = programs.CompanionProgram(companion)
        return await judge(fault, bench, device, await programs.again(bench, device))


async def _provided(bench: Bench, device: Device, **limits: float) -> Outcome | None:
    try:
        async with asyncio.timeout(programs.LONGEST_S):
            return await bench.provision(device.label.qr, **limits)
    except TimeoutError:
        return None


def _untyped(fault: str, outcome: Outcome | None) -> Trial | None:
    if outcome is None:
        return Trial(fault, Result.HUNG, "the companion came to no end")
    if outcome.exit_code == UNEXPECTED:
        return Trial(fault, Result.LOST, f"not a typed failure: {outcome.message}")
    return None


def _damaged(folder: StateFolder) -> str:
    """What of the state cannot be read."""
    try:
        folder.read_label()
        folder.read_journal()
        folder.read_credentials()
    except StorageError as error:
        return str(error)
    return "" if folder.read_failures() == 0 else "the PIN's failures"


def _contents(folder: StateFolder) -> dict[str, bytes]:
    """The files that last, by their names."""
    return {path.name: path.read_bytes() for path in folder.path.glob("[!.]*.json")}


def _changed(folder: StateFolder, before: dict[str, bytes], states: set[_Files], tokens: list[str]) -> str:
    """What of the state is neither as before nor as in a hand-off in which nothing fails."""
    now = _contents(folder)
    if other := [name for name, octets in before.items() if now.pop(name, b"") != octets]:
        return f"changed: {', '.join(other)}"
    files = frozenset((name, _without_own(octets, tokens)) for name, octets in now.items())
    if files not in states:
        return f"never so in a hand-off: {sorted(files)}"
    return ""


def _device_program(plan: Plan) -> programs.DeviceProgram:
    return programs.DeviceProgram(sabotage.command(plan.without, "bletoken_peripheral"))


def _new_folder(plan: Plan) -> Path:
    folder = plan.folder / f"{len(list(plan.folder.iterdir()))}"
    folder.mkdir()
    return folder


# Disks that are full, or become read-only -----------------------------------------------------------------------------


def _full_disks(plan: Plan) -> list[tuple[str, Job]]:
    """On real file systems, which only root may mount."""
    if not _may_mount():
        return []
    jobs: list[tuple[str, Job]] = []
    for moment in ("from the start", "while MODE answers"):
        fault = f"disk full {moment}"
        jobs.append((fault, partial(_on_full_disk, plan, fault, during=moment != "from the start")))
    fault = "disk read-only"
    jobs.append((fault, partial(_on_read_only_disk, plan, fault)))
    fault = "disk of the companion's notes full"
    jobs.append((fault, partial(_notes_on_full_disk, plan, fault)))
    return jobs


def _may_mount() -> bool:
    return sys.platform.startswith("linux") and os.geteuid() == 0


@contextlib.contextmanager
def _small_disk(path: Path) -> Iterator[None]:
    """A file system of 64 KiB in the place of this folder, with what is in it."""
    kept = {file.name: file.read_bytes() for file in path.iterdir()} if path.exists() else {}
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "small", str(path)], check=True)
    try:
        for name, octets in kept.items():
            _write(path / name, octets)
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def _write(path: Path, octets: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(octets)


def _remount(how: str, path: Path) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(path)], check=True)


def _fill(path: Path) -> None:
    with contextlib.suppress(OSError), (path / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))


def _mend(path: Path) -> None:
    _remount("rw", path)
    (path / "filler").unlink(missing_ok=True)


async def _on_read_only_disk(plan: Plan, fault: str) -> Trial:
    async with open_bench(_device_program(plan), _new_folder(plan)) as bench:
        device = bench.device()
        with _small_disk(device.folder.path):
            _remount("ro", device.folder.path)
            if trial := await _refuses_to_start(fault, device):
                return trial
            _mend(device.folder.path)
            await device.start()
            return await judge(fault, bench, device, await programs.again(bench, device))
    raise AssertionError("nothing is suppressed")


async def _on_full_disk(plan: Plan, fault: str, *, during: bool) -> Trial:
    async with open_bench(_device_program(plan), _new_folder(plan)) as bench:
        device = bench.device()
        disk = device.folder.path
        with _small_disk(disk):
            await device.start()
            if during:
                bench.mode.faults.arm("POST /devices", Fault(hold="after", count=1))
            else:
                _fill(disk)
            providing = asyncio.create_task(_provided(bench, device))
            if during:
                await until(lambda: bench.mode.faults.held)
                _fill(disk)
                bench.mode.faults.clear()
                bench.mode.faults.release()
            outcome = await providing
            if trial := _untyped(fault, outcome) or _unharmed(fault, outcome):
                return trial
            if damaged := _damaged(device.folder):
                return Trial(fault, Result.LOST, f"what is on disk is no longer intact: {damaged}")
            _mend(disk)
            if device.running.process.returncode is not None:
                device.running = None
                await device.start()
            return await judge(fault, bench, device, await programs.again(bench, device))
    raise AssertionError("nothing is suppressed")


async def _notes_on_full_disk(plan: Plan, fault: str) -> Trial:
    async with open_bench(programs.CompanionProgram(), _new_folder(plan)) as bench:
        device = bench.device()
        await device.start()
        with _small_disk(bench.path / "bletoken"):
            _fill(bench.path / "bletoken")
            outcome = await _provided(bench, device)
            if trial := _untyped(fault, outcome) or _unharmed(fault, outcome):
                return trial
            if issued(bench):
                return Trial(fault, Result.LOST, "a token was asked for without a note of it")
            _mend(bench.path / "bletoken")
            return await judge(fault, bench, device, await programs.again(bench, device))
    raise AssertionError("nothing is suppressed")


def _unharmed(fault: str, outcome: Outcome | None) -> Trial | None:
    if outcome is not None and outcome.exit_code == 0:
        return Trial(fault, Result.LOST, "nothing failed, so nothing was tried")
    return None


# Files that nobody can read -------------------------------------------------------------------------------------------

_TOKEN = Provision("v1.token-of-a-test-that-nobody-may-see", 600, 1_700_000_000)
_KEY = "v1.key-of-a-test-that-nobody-may-see"
_RECEIVED = Journal.begin(_TOKEN)
_REDEEMING = _RECEIVED.after(Event.SENDING)
_STORED = _REDEEMING.after(Event.CREDENTIALS_STORED, device_id=1001)
_STATES: dict[str, Journal | None] = {
    "without a token": None,
    "received": _RECEIVED,
    "redeeming": _REDEEMING,
    "stored": _STORED,
    "announced": _STORED.after(Event.ANNOUNCED),
    "refused": _REDEEMING.after(Event.REFUSED, failure=Failure(FailureCode.TOKEN_REFUSED, "INVALID_TOKEN", 5)),
    "unknown": _REDEEMING.after(Event.UNANSWERED, failure=Failure(FailureCode.OUTCOME_UNKNOWN, "no answer")),
}


@dataclass(frozen=True)
class _State:
    """What a device takes from its files."""

    label: Label | None
    journal: Journal | None
    credentials: Credentials | None
    claim: ClaimRecord | None
    failures: int | None


def _unreadable(plan: Plan) -> Iterator[Trial]:
    """Each file of each state cut short at every length, with flipped bits, open to others, a link and so on."""
    choice = random.Random(plan.seed)
    for state, journal in [*_STATES.items(), ("pre-provisioned", None)]:
        path = _new_folder(plan)
        written = _written(state, journal)
        folder = _filled(path, written)
        settings = _configured(path)
        for name in sorted(file.name for file in folder.path.iterdir()):
            whole = (folder.path / name).read_bytes()
            for damage in _damages(whole, choice, plan):
                fault = f"{state}: {name} {damage.name}"
                if not plan.wants(fault):
                    continue
                damage.spoil(folder.path / name)
                yield _read(fault, folder, settings, name, damage, written)
                _put_back(folder.path / name, whole)


def _written(state: str, journal: Journal | None) -> _State:
    is_pre_provisioned = state == "pre-provisioned"
    has_credentials = is_pre_provisioned or (journal is not None and journal.device_id is not None)
    return _State(
        Label.generate(random.Random(1).randbytes, with_pin=True),
        journal,
        Credentials(1001, _KEY, "http://127.0.0.1:9") if has_credentials else None,
        ClaimRecord("claim-code-that-nobody-may-see") if is_pre_provisioned else None,
        failures=7,
    )


def _filled(path: Path, state: _State) -> StateFolder:
    assert state.label is not None
    assert state.failures is not None
    folder = StateFolder(path / "state")
    folder.create()
    folder.write_failures(state.failures)
    folder.write_label(state.label)
    if state.journal is not None:
        folder.write_journal(state.journal)
    if state.claim is not None:
        folder.write_claim(state.claim)
    if state.credentials is not None:
        folder.write_credentials(state.credentials)
    return folder


def _configured(path: Path) -> config.Config:
    file = path / "peripheral.toml"
    file.write_text(
        'device_class = "lamp"\nstate = "state"\nmode_url = "http://127.0.0.1:9"\nradio = "air:unix:/none"\n'
    )
    return config.load(file)


@dataclass(frozen=True)
class _Damage:
    """What becomes of a file.

    Attributes:
        name: What it is.
        spoil: What does it.
        is_refused: Whether no such file may be read.
        is_flip: Whether a bit flipped: that may leave a record with another number or key in it.
    """

    name: str
    spoil: Callable[[Path], object]
    is_refused: bool = True
    is_flip: bool = False


def _damages(whole: bytes, choice: random.Random, plan: Plan) -> Iterator[_Damage]:
    def content(octets: bytes) -> Callable[[Path], object]:
        return lambda path: path.write_bytes(octets)

    lengths = range(len(whole))
    places = range(len(whole))
    for length in choice.sample(lengths, 3) if plan.quick else lengths:
        # Without the line's end it is whole.
        yield _Damage(f"cut at {length}", content(whole[:length]), is_refused=length < len(whole.rstrip()))
        yield _Damage(f"zeros from {length}", content(whole[:length] + bytes(len(whole) - length)))
    for place in choice.sample(places, 8) if plan.quick else places:
        bit = choice.randrange(8)
        flipped = whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]
        yield _Damage(f"bit {bit} of octet {place} flipped", content(flipped), is_refused=False, is_flip=True)
    yield _Damage("twice in the file", content(whole + whole))
    yield _Damage("too large", content(whole + b" " * 70_000))
    yield _Damage("of a newer version", content(whole.replace(b'"schema": 1', b'"schema": 2')))
    yield _Damage("open to its group", lambda path: path.chmod(0o640))
    yield _Damage("open to all", lambda path: path.chmod(0o666))
    # Root reads it all the same.
    yield _Damage("not readable by its owner", lambda path: path.chmod(0o200), is_refused=os.geteuid() != 0)
    yield _Damage("a link", _make_link)
    yield _Damage("a link to nothing", lambda path: (path.unlink(), path.symlink_to("nothing")))
    yield _Damage("a folder", lambda path: (path.unlink(), path.mkdir()))
    yield _Damage("a pipe", lambda path: (path.unlink(), os.mkfifo(path, 0o600)))
    if os.geteuid() == 0:
        yield _Damage("of another user", lambda path: os.chown(path, 65534, -1))


def _make_link(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    elsewhere.unlink(missing_ok=True)
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def _put_back(path: Path, whole: bytes) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    path.unlink(missing_ok=True)
    _write(path, whole)


def _state(folder: StateFolder) -> _State:
    return _State(
        folder.read_label(),
        folder.read_journal(),
        folder.read_credentials(),
        folder.read_claim(),
        folder.read_failures(),
    )


def _read(
    fault: str, folder: StateFolder, settings: config.Config, name: str, damage: _Damage, written: _State
) -> Trial:
    """Start on a damaged file, as far as no radio is needed."""
    found = {path: _look(path) for path in folder.path.iterdir()}
    try:
        Onboarding(settings, folder, report=lambda _: None)
        read = _state(folder)
    except BletokenError as error:
        said = f"{error} {error.advice}"
        if error.exit_code == UNEXPECTED or not error.advice:
            return Trial(fault, Result.LOST, f"no typed error with advice: {said}")
        if any(secret in said for secret in (_TOKEN.token, _KEY, "claim-code-that")):
            return Trial(fault, Result.LOST, "the error repeats a secret")
        if name == GUESSES_FILE or (damage.is_refused and name not in said):
            return Trial(fault, Result.LOST, f"{name} was to be refused, and nothing else: {said}")
    except Exception as error:  # noqa: BLE001 that there is none of any other kind is what is tried
        return Trial(fault, Result.LOST, f"not typed: {type(error).__name__}: {error}")
    else:
        if reason := _misread(name, damage, written, read):
            return Trial(fault, Result.LOST, reason)
    if found != {path: _look(path) for path in folder.path.iterdir()}:
        return Trial(fault, Result.LOST, "reading changed a file")
    return Trial(fault, Result.SURVIVED)


def _misread(name: str, damage: _Damage, written: _State, read: _State) -> str:
    """What is wrong with what was read of a damaged file without an error."""
    if name == GUESSES_FILE and read.failures is None:
        # Of this file nobody hears: where it cannot be read, the PIN stops.
        written = replace(written, failures=None)
    elif damage.is_refused:
        return "it was not refused"
    if not damage.is_flip:
        return "" if read == written else "something else was read than was written"
    return _taken_for_another(written, read)


def _taken_for_another(written: _State, read: _State) -> str:
    """What a flipped bit did that may do no harm; a record carries no checksum, so a number or key may differ."""
    if read.label != written.label:
        return "another setup code was read"
    if (read.credentials is None) != (written.credentials is None):
        return "the credentials came or went"
    if (read.journal is None) != (written.journal is None):
        return "the journal came or went"
    if (read.claim is None) != (written.claim is None):
        return "the claim record came or went"
    if read.failures == 0:
        return "the wrong PINs were forgotten"
    if read.claim and written.claim and replace(read.claim, claim_code=written.claim.claim_code) != written.claim:
        return "the claim record says something else"
    if read.journal is None or written.journal is None:
        return ""
    if (read.journal.phase, read.journal.token) != (written.journal.phase, written.journal.token):
        return f"{written.journal.phase} was read as {read.journal.phase}"
    return ""


def _look(path: Path) -> tuple[int, int, bytes]:
    info = path.lstat()
    return info.st_mode, info.st_uid, path.read_bytes() if stat.S_ISREG(info.st_mode) else b""


# ... and what a person does then --------------------------------------------------------------------------------------


def _damaged_and_mended(plan: Plan) -> list[tuple[str, Job]]:
    jobs: list[tuple[str, Job]] = []
    for name in (JOURNAL_FILE, CREDENTIALS_FILE):
        fault = f"{name} torn, then reset"
        jobs.append((fault, partial(_torn_then_reset, plan, fault, name)))
    fault = f"{LABEL_FILE} torn, then put back"
    jobs.append((fault, partial(_torn_then_put_back, plan, fault)))
    for name, make in {
        "a link": lambda path, target: path.symlink_to(target),
        "a file of an earlier cut": lambda path, target: path.write_bytes(target.read_bytes()),
    }.items():
        fault = f"{name} in the way of a file"
        jobs.append((fault, partial(_in_the_way, plan, fault, make)))
    fault = "notes torn"
    jobs.append((fault, partial(_notes_torn, plan, fault)))
    return jobs


async def _torn_then_reset(plan: Plan, fault: str, name: str) -> Trial:
    """The device says what is wrong and what to do; that done, it is as new. Its old self a person removes in MODE."""
    async with open_bench(_device_program(plan), _new_folder(plan)) as bench:
        device = bench.device()
        await device.start()
        assert (await bench.provision(device.label.qr)).exit_code == 0
        await device.saw("provisioned")
        await device.stop()
        path = device.folder.path / name
        path.write_bytes(path.read_bytes()[:40])
        if trial := await _refuses_to_start(fault, device):
            return trial
        code, said = await command(device, "reset", "--yes")
        assert code == 0, said
        for device_id in await bench.devices_in_home():
            (await bench.ask_mode("DELETE", f"/devices/{device_id}", bench.seed["userKey"])).raise_for_status()
        await device.start()
        return await judge(fault, bench, device, await programs.again(bench, device))
    raise AssertionError("nothing is suppressed")


async def _torn_then_put_back(plan: Plan, fault: str) -> Trial:
    async with open_bench(_device_program(plan), _new_folder(plan)) as bench:
        device = bench.device()
        path = device.folder.path / LABEL_FILE
        whole = path.read_bytes()
        path.write_bytes(whole[:40])
        if trial := await _refuses_to_start(fault, device):
            return trial
        path.write_bytes(whole)
        await device.start()
        return await judge(fault, bench, device, await programs.again(bench, device))
    raise AssertionError("nothing is suppressed")


async def _refuses_to_start(fault: str, device: Device) -> Trial | None:
    code, said = await command(device, "run")
    if code != STORAGE_EXIT or not said.get("advice"):
        return Trial(fault, Result.LOST, f"no typed error with advice: {said}")
    return None


async def _in_the_way(plan: Plan, fault: str, make: Callable[[Path, Path], object]) -> Trial:
    async with open_bench(_device_program(plan), _new_folder(plan)) as bench:
        device = bench.device()
        precious = bench.path / "precious"
        precious.write_bytes(b"not to be written to")
        for name in (JOURNAL_FILE, CREDENTIALS_FILE):
            make(device.folder.path / f".{name}.new", precious)
        await device.start()
        trial = await judge(fault, bench, device, await programs.again(bench, device))
        if precious.read_bytes() != b"not to be written to":
            return Trial(fault, Result.LOST, "what the link points to was changed")
        return trial
    raise AssertionError("nothing is suppressed")


async def _notes_torn(plan: Plan, fault: str) -> Trial:
    """Notes that cannot be read let nothing be removed, and are in nobody's way."""
    async with open_bench(InProcess(), _new_folder(plan)) as bench:
        device = bench.device()
        await device.start()
        notes = bench.path / "notes"
        notes.mkdir(mode=0o700)
        note = b'{"schema": 1, "tag": "%s", "mode_url": "http://127.0.0.1", "home_id": 501' % (b"a" * 32)
        for number, octets in enumerate((b"", note[:20], note, note.replace(b"1", b"2"), bytes(100))):
            _write(notes / f"{number}.json", octets)
        (notes / "link.json").symlink_to("0.json")
        (notes / "folder.json").mkdir()
        return await judge(fault, bench, device, await programs.again(bench, device))
    raise AssertionError("nothing is suppressed")


# What others may read ------------------------------------------------------------------------------------------------


def _privacies(plan: Plan) -> list[tuple[str, Job]]:
    jobs: list[tuple[str, Job]] = []
    for umask in ("000", "022", "077"):
        fault = f"files under the umask {umask}"
        jobs.append((fault, partial(_private, plan, fault, umask)))
    return jobs


async def _private(plan: Plan, fault: str, umask: str) -> Trial:
    """Whatever the umask, each file is made for its owner alone, from its first instant."""

    def under_umask(program: str) -> list[str]:
        return ["/bin/sh", "-c", 'umask "$0"; exec "$@"', umask, *sabotage.command(plan.without, program)]

    names = trace.FILES + trace.MODES
    folder = _new_folder(plan)
    device_program = programs.stopped(under_umask("bletoken_peripheral"), folder / "device-pid")
    companion_program = programs.stopped(under_umask("bletoken_central"), folder / "pid")
    async with open_bench(Processes(device_program, companion_program), folder) as bench:
        device = bench.device()
        init = programs.stopped(under_umask("bletoken_peripheral"), folder / "init-pid")
        of_init = await _traced_init([*init, "init"], folder / "init-pid", device, names)
        starting = asyncio.create_task(device.start())
        device_pid = await programs.stopped_pid(folder / "device-pid")
        async with trace.attached(device_pid, names=names) as of_device:
            programs.go_on(device_pid)
            await starting
            providing = asyncio.create_task(bench.provision(device.label.qr))
            pid = await programs.stopped_pid(folder / "pid")
            async with trace.attached(pid, names=names) as of_companion:
                programs.go_on(pid)
                outcome = await providing
            await device.saw("provisioned")
        calls = [*of_init, *of_device.calls, *of_companion.calls]
        made = [call for call in calls if call.path and _gives_a_mode(call, folder)]
        if open_ones := [str(call) for call in made if call.mode & 0o077]:
            return Trial(fault, Result.LOST, f"made open to others: {', '.join(sorted(set(open_ones)))}")
        assert len(made) >= 11, made
        return await judge(fault, bench, device, outcome)
    raise AssertionError("nothing is suppressed")


async def _traced_init(command: list[str], pid_file: Path, device: Device, names: tuple[str, ...]) -> list[Call]:
    """What another device does that makes its code, in a state folder that is not there yet."""
    path = device.path.with_name("made")
    path.mkdir()
    settings = path / device.config.name
    settings.write_bytes(device.config.read_bytes())
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, "--config", str(settings), stdin=quiet, stdout=quiet)
    pid = await programs.stopped_pid(pid_file)
    async with trace.attached(pid, names=names) as seen:
        programs.go_on(pid)
        assert await process.wait() == 0
    assert (path / "state" / LABEL_FILE).exists()
    return seen.calls


def _gives_a_mode(call: Call, folder: Path) -> bool:
    assert call.path is not None
    makes = call.name == "mkdir" or "O_CREAT" in call.flags
    return call.path.is_relative_to(folder) and (makes or call.name in trace.MODES)
