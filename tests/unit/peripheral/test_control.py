"""The local channel takes one bounded command from the device's own user, and nothing stops it."""

import asyncio
import contextlib
import json
import socket
import stat
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from bletoken.errors import BletokenError, NotRunningError, StorageError, UsageError
from bletoken_peripheral import control
from bletoken_peripheral.control import Command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # Deeper than a socket's address is long.
    path = tmp_path / ("x" * 120)
    path.mkdir(mode=0o700)
    return path


@contextlib.asynccontextmanager
async def serving(
    folder: Path, answer: control.Answer = lambda command, number: {"did": command.value}
) -> AsyncIterator[None]:
    task = asyncio.create_task(control.serve(folder, answer))
    await asyncio.sleep(0)
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def ask(folder: Path, command: Command) -> dict[str, object]:
    return await asyncio.to_thread(control.ask, folder, command)


async def say(folder: Path, octets: bytes) -> bytes:
    """Whatever one likes, instead of a command."""

    def talk() -> bytes:
        with socket.socket(socket.AF_UNIX) as connection, control._short(folder / "control") as address:
            connection.connect(address)
            connection.sendall(octets)
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                return connection.recv(4096)
            return b""

    return await asyncio.to_thread(talk)


@pytest.mark.parametrize("command", list(Command))
async def test_a_command_is_carried_out_and_answered(folder: Path, command: Command) -> None:
    async with serving(folder):
        assert stat.S_IMODE((folder / "control").stat().st_mode) == 0o600
        assert await ask(folder, command) == {"did": command.value}
        assert await ask(folder, command) == {"did": command.value}
    assert not (folder / "control").exists()


async def test_without_a_running_device_there_is_a_typed_error(folder: Path) -> None:
    with pytest.raises(NotRunningError):
        control.ask(folder, Command.OPEN)
    (folder / "control").write_text("")
    with pytest.raises(NotRunningError):
        control.ask(folder, Command.OPEN)


@pytest.mark.parametrize("error", [StorageError("the disk is full"), UsageError("no"), BletokenError("no")])
async def test_what_goes_wrong_there_is_told_here(folder: Path, error: BletokenError) -> None:
    def fail(_: Command, __: int) -> Mapping[str, object]:
        raise error

    async with serving(folder, fail):
        with pytest.raises(BletokenError, match=str(error)) as caught:
            await ask(folder, Command.UNLOCK)
    assert isinstance(caught.value, StorageError) is isinstance(error, StorageError)


async def test_a_number_goes_with_a_command(folder: Path) -> None:
    async with serving(folder, lambda command, number: {"number": number}):
        assert await asyncio.to_thread(control.ask, folder, Command.CLAIM, 300) == {"number": 300}
        assert await ask(folder, Command.CLAIM) == {"number": 0}
        for line in (b"claim -1\n", b"claim 86401\n", b"claim 3.5\n", b"claim 1 2\n", b"claim  \n"):
            assert not json.loads(await say(folder, line))["ok"]


@pytest.mark.parametrize("octets", [b"", b"\n", b"reset\n", b"open", b"OPEN\n", b"\xff\n", b"x" * 100_000, b"open\0\n"])
async def test_what_is_no_command_does_nothing_and_the_next_one_works(folder: Path, octets: bytes) -> None:
    done: list[Command] = []
    async with serving(folder, lambda command, _: done.append(command) or {}):  # type: ignore[func-returns-value]
        answer = await say(folder, octets)
        assert answer == b"" or json.loads(answer)["ok"] is (octets == b"open")
        assert done == ([Command.OPEN] if octets == b"open" else [])
        await ask(folder, Command.STATUS)
    assert done[-1] is Command.STATUS


async def test_one_who_says_nothing_holds_nobody_up_for_long(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_TIMEOUT_S", 0.2)
    async with serving(folder):
        with socket.socket(socket.AF_UNIX) as silent, control._short(folder / "control") as address:
            await asyncio.to_thread(silent.connect, address)
            while True:
                with contextlib.suppress(StorageError):
                    assert await ask(folder, Command.STATUS) == {"did": "status"}
                    break


async def test_what_a_killed_process_left_behind_is_replaced(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead, control._short(folder / "control") as address:
        dead.bind(address)
    async with serving(folder):
        assert await ask(folder, Command.OPEN)


@pytest.mark.parametrize(
    "make", [lambda path: path.write_text("x"), lambda path: path.mkdir(), lambda path: path.symlink_to("/")]
)
async def test_what_is_no_socket_is_left_alone(folder: Path, make: object) -> None:
    make(folder / "control")  # type: ignore[operator]
    with pytest.raises(StorageError, match="not a socket"):
        await control.serve(folder, lambda _: {})
    assert (folder / "control").exists()


async def test_an_open_folder_is_not_trusted(folder: Path) -> None:
    folder.chmod(0o755)
    with pytest.raises(StorageError, match="chmod 700"):
        control.ask(folder, Command.OPEN)
