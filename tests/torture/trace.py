"""What a program asks of the kernel, as strace tells it, and one of those calls made to go wrong.

Only the main thread is looked at: the programs do all that matters in it.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torture.plan import NotPossibleError

FILES = ("openat", "mkdir", "write", "fsync", "rename", "unlink")
"""The calls that change what is on a disk, or make it last."""

MODES = ("chmod", "fchmod", "fchmodat")
"""The calls that change who may read a file."""

SOCKETS = ("connect", "sendto", "recvfrom")
"""The calls by which our programs talk."""

_FOREVER_US = 10**9
_LINE = re.compile(r"(\w+)\((.*)\) += (-?\d+|\?)(.*)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_OPEN_FILE = re.compile(r"^(\d+)<([^>]*)>")
_NOTE = re.compile(r"[0-9a-f]{32}")
_PORT = re.compile(r"sin_port=htons\((\d+)\)")


def without_tag(name: str) -> str:
    """The name of a file, the same in each hand-off: a note's has a tag in it."""
    return _NOTE.sub("note", name)


@dataclass(frozen=True)
class Call:
    """One call, as the kernel carried it out.

    Attributes:
        name: Its name.
        number: The how-manieth of this name since the trace began, from 1.
        paths: The files that it names; for one about an open file, that file.
        octets: What was written, sent, read or received.
        result: What it returned; None where the program was killed in it.
        flags: The rest of its arguments, as strace writes them.
        port: The TCP port that it connects to, or that its socket is connected to; 0 for any other.
        number_there: The how-manieth of this name about this file or port: that is the same in every hand-off.
        was_held: Whether the program was kept from going on after it.
        was_failed: Whether it was made to fail.
    """

    name: str
    number: int
    paths: tuple[Path, ...] = ()
    octets: bytes = b""
    result: int | None = None
    flags: str = ""
    port: int = 0
    number_there: int = 0
    was_held: bool = False
    was_failed: bool = False

    @property
    def mode(self) -> int:
        """What whoever makes or changes a file lets be done with it; the mode is the last argument."""
        return int(self.flags.rsplit(", ", 1)[-1], 8)

    @property
    def path(self) -> Path | None:
        """The file that it is about; of a rename, the one that is replaced."""
        return self.paths[-1] if self.paths else None

    def __str__(self) -> str:
        where = without_tag(self.path.name) if self.path else "MODE" if self.port else "radio"
        return f"{self.name} {self.number_there} of {where}"


@dataclass(frozen=True)
class Injection:
    """What is to happen to one call.

    Attributes:
        name: Its name.
        number: The how-manieth of this name.
        effect: In strace's words.
        and_on: Whether it happens to all of this name after it as well.
    """

    name: str
    number: int
    effect: str
    and_on: bool = False

    def __str__(self) -> str:
        return f"inject={self.name}:{self.effect}:when={self.number}{'+' if self.and_on else ''}"


def killed_before(call: Call) -> Injection:
    """The program is killed on entering the call, which is not carried out."""
    return Injection(call.name, call.number, "signal=SIGKILL")


def held_after(call: Call) -> Injection:
    """The call is carried out, and the program kept from seeing that; then it is killed."""
    return Injection(call.name, call.number, f"delay_exit={_FOREVER_US}")


@dataclass
class Trace:
    """The calls of one program so far.

    Attributes:
        pid: The program.
        calls: What it did, in order.
        killed: Whether it ended by SIGKILL.
    """

    pid: int
    calls: list[Call] = field(default_factory=list)
    killed: bool = False
    _numbers: Counter[object] = field(default_factory=Counter)
    _ports: dict[str, int] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, condition: Callable[["Trace"], object]) -> None:
        """Wait until this holds of the trace."""
        while not condition(self):
            self._changed.clear()
            await self._changed.wait()

    def _take(self, line: str) -> None:
        if "killed by SIGKILL" in line:
            self.killed = True
        elif match := _LINE.match(line):
            self.calls.append(call := self._call(*match.groups()))
            if call.was_held:
                os.kill(self.pid, signal.SIGKILL)
        self._changed.set()

    def _call(self, name: str, arguments: str, result: str, rest: str) -> Call:
        self._numbers[name] += 1
        strings = [_octets(text) for text in _STRING.findall(arguments)]
        open_file = _OPEN_FILE.match(arguments)
        file_name = _octets(open_file[2]).decode() if open_file else ""
        if name == "connect" and (port := _PORT.search(arguments)):
            self._ports[file_name] = int(port[1])
        if name in ("openat", "mkdir", "rename", "unlink", "chmod", "fchmodat"):
            paths, octets = tuple(Path(text.decode()) for text in strings), b""
        else:
            paths = (Path(file_name),) if file_name.startswith("/") else ()
            # Of what came in, only as much is shown.
            octets = strings[0] if strings and name not in ("connect", "bind") else b""
        port = self._ports.get(file_name, 0)
        there = (name, paths, port)
        self._numbers[there] += 1
        return Call(
            name,
            self._numbers[name],
            paths,
            octets,
            None if result == "?" else int(result),
            _STRING.sub("", arguments),
            port,
            self._numbers[there],
            "(DELAYED)" in rest,
            "(INJECTED)" in rest,
        )


def _octets(text: str) -> bytes:
    """The octets that strace shows as hexadecimal; names without any are shown as they are."""
    return bytes.fromhex(text.replace("\\x", "")) if text.startswith("\\x") else text.encode()


@contextlib.asynccontextmanager
async def attached(
    pid: int, *injections: Injection, names: tuple[str, ...] = FILES + SOCKETS, paths: Sequence[Path] = ()
) -> AsyncIterator[Trace]:
    """Look at a running program while the context lasts; it counts from now on.

    Args:
        pid: The program.
        injections: What is to happen to some of its calls.
        names: The calls to look at.
        paths: The files to look at alone; no other call is counted then.

    Raises:
        NotPossibleError: That is not possible here.
    """
    if shutil.which("strace") is None:
        raise NotPossibleError("strace is not installed; let root run: apt-get install strace")
    words = ["-p", str(pid), "-y", "-xx", "-s", "65536", "-e", f"trace={','.join(names)}"]
    words += [word for path in paths for word in ("-P", str(path))]
    words += [word for injection in injections for word in ("-e", str(injection))]
    strace = await asyncio.create_subprocess_exec(
        "strace", *words, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, limit=2**20
    )
    assert strace.stderr is not None
    first = (await strace.stderr.readline()).decode()
    if "attached" not in first:
        await strace.wait()
        raise NotPossibleError(f"strace cannot look at a program here: {first.strip()}")
    trace = Trace(pid)
    reading = asyncio.create_task(_read(strace, trace))
    try:
        yield trace
    finally:
        _end(strace, signal.SIGTERM)
        await reading
        await strace.wait()


async def _read(strace: asyncio.subprocess.Process, trace: Trace) -> None:
    assert strace.stderr is not None
    async for line in strace.stderr:
        trace._take(line.decode("ascii", "replace"))
        if trace.calls and trace.calls[-1].was_held and not trace.killed:
            # Killed by now; but strace would sleep before it looks.
            trace.killed = True
            _end(strace, signal.SIGKILL)
            trace._changed.set()


def _end(strace: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Signal it. Where it has just ended by itself, asyncio's own way would lose its exit code, and say so."""
    if strace.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(strace.pid, number)


async def quiet(pid: int) -> None:
    """Wait until a program does nothing: it is done with starting, and what it does from here on can be counted."""
    last, same = -1, 0
    while same < 5:
        try:
            used = sum(int(n) for n in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])
        except (FileNotFoundError, ProcessLookupError):
            # It has ended, and does nothing any more.
            return
        same = same + 1 if used == last else 0
        last = used
        await asyncio.sleep(0.03)
