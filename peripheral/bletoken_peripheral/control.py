"""The local channel to a running device: one command in, one JSON object out, then the end. It decides nothing.

It is a socket in the private state folder, so the folder's mode says who may use it: the device's own user.
"""

import asyncio
import contextlib
import json
import os
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final

from bletoken import files
from bletoken.errors import BletokenError, NotRunningError, StorageError
from bletoken_peripheral.store import CONTROL_SOCKET

_TIMEOUT_S: Final = 5
"""Seconds for one command, on either side: both ends are on this machine."""

_LONGEST_COMMAND: Final = 64
_LONGEST_ANSWER: Final = 4096
_LARGEST_NUMBER: Final = 86400


class Command(Enum):
    """What can be asked of a running device; the value is the line that asks for it."""

    OPEN = "open"
    """Open the window, anew or for longer."""
    UNLOCK = "unlock"
    """Take PINs again."""
    STATUS = "status"
    """Tell what only the running device knows."""
    CLAIM = "claim"
    """The claim mode was turned on for so many seconds from now; off with 0."""


Answer = Callable[[Command, int], Mapping[str, object]]
"""Carries a command out at once, with its number (0 where none was given); may raise `BletokenError`."""


async def serve(folder: Path, answer: Answer) -> None:
    """Take commands until cancelled. The folder's lock must be held, so that nobody else serves there.

    Raises:
        StorageError: The socket cannot be made.
    """
    if not hasattr(socket, "AF_UNIX"):
        # Python has no such sockets on Windows. All but `open` works without.
        return
    path = folder / CONTROL_SOCKET
    _remove(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.setblocking(False)
        with files.translated(path, "make"), _short(path) as address:
            listener.bind(address)
            path.chmod(0o600)
            listener.listen(8)
        try:
            while True:
                await _serve_one(listener, answer)
        finally:
            with contextlib.suppress(StorageError):
                _remove(path)


def ask(folder: Path, command: Command, number: int = 0) -> dict[str, Any]:
    """Have a running device carry out a command; returns its answer.

    Raises:
        NotRunningError: There is none.
        BletokenError: What went wrong there, with its exit code.
    """
    files.check_folder(folder)
    if not hasattr(socket, "AF_UNIX"):
        raise NotRunningError("on this platform a running device takes no commands")
    path = folder / CONTROL_SOCKET
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT_S)
            with _short(path) as address:
                connection.connect(address)
            line = f"{command.value} {number}" if number else command.value
            connection.sendall(line.encode("ascii") + b"\n")
            octets = b""
            while len(octets) <= _LONGEST_ANSWER and (more := connection.recv(_LONGEST_ANSWER)):
                octets += more
    except TimeoutError as e:
        raise StorageError(f"the running device does not answer at {path}") from e
    except OSError as e:
        # What a killed process left behind refuses connections; what is no socket does so too.
        raise NotRunningError(f"nothing is running with {folder}") from e
    return _parsed(octets, path)


def _parsed(octets: bytes, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(octets)
        if not isinstance(content, dict):
            raise TypeError("not an object")
        if content.pop("ok") is True:
            return content
        message, exit_code = str(content["message"]), int(content["exit_code"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise StorageError(f"the running device gave no usable answer at {path}") from None
    raise StorageError(message) if exit_code == StorageError.exit_code else BletokenError(message)


async def _serve_one(listener: socket.socket, answer: Answer) -> None:
    """One command after the other: whoever may connect is one user on one machine."""
    loop = asyncio.get_running_loop()
    try:
        connection, _ = await loop.sock_accept(listener)
    except OSError:
        # Too many open files, say: that passes, and it is no reason to end the device's work.
        await asyncio.sleep(1)
        return
    with connection, contextlib.suppress(OSError):
        connection.setblocking(False)
        async with asyncio.timeout(_TIMEOUT_S):
            line = b""
            while b"\n" not in line and len(line) <= _LONGEST_COMMAND:
                more = await loop.sock_recv(connection, _LONGEST_COMMAND)
                if not more:
                    break
                line += more
            await loop.sock_sendall(connection, _answered(line, answer))


def _answered(line: bytes, answer: Answer) -> bytes:
    content: dict[str, object]
    try:
        word, _, number = line.partition(b"\n")[0].decode("ascii").partition(" ")
        content = {"ok": True, **answer(Command(word), _number(number))}
    except ValueError:
        content = {"ok": False, "message": "an unknown command", "exit_code": BletokenError.exit_code}
    except BletokenError as e:
        content = {"ok": False, "message": str(e)[:500], "exit_code": e.exit_code}
    return json.dumps(content).encode("ascii") + b"\n"


def _number(text: str) -> int:
    number = int(text or "0")
    if not 0 <= number <= _LARGEST_NUMBER:
        raise ValueError(text)
    return number


def _remove(path: Path) -> None:
    """Remove the socket that an earlier process left behind, and nothing else."""
    with files.translated(path, "remove"):
        if not os.path.lexists(path):
            return
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise StorageError(f"{path} is not a socket")
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """An address for the socket: these hold about a hundred octets, and state folders may have longer paths."""
    if len(os.fsencode(path)) < 100 or not Path("/proc/self/fd").is_dir():
        yield str(path)
        return
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)
