"""What systemd is told, and that nobody else is."""

import asyncio
import math
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bletoken_peripheral.supervisor import Supervisor

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="systemd is Linux's")


@pytest.fixture
def line(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(10)
        yield listener


async def told(line: socket.socket) -> bytes:
    return await asyncio.to_thread(line.recv, 100)


async def test_systemd_hears_ready_signs_of_life_and_the_end(line: socket.socket) -> None:
    supervisor = Supervisor({"NOTIFY_SOCKET": line.getsockname(), "WATCHDOG_USEC": "20000"})
    async with supervisor.watched():
        assert await told(line) == b"WATCHDOG=1"
        supervisor.ready()
        heard = set()
        while heard != {b"WATCHDOG=1", b"READY=1"}:
            heard.add(await told(line))
    line.setblocking(False)
    last = b""
    while last != b"STOPPING=1":
        last = line.recv(100)
    with pytest.raises(BlockingIOError):
        line.recv(100)


async def test_with_each_sign_of_life_what_can_be_done_then_is_done(line: socket.socket) -> None:
    done = asyncio.Event()
    supervisor = Supervisor({"NOTIFY_SOCKET": line.getsockname(), "WATCHDOG_USEC": "20000"})
    assert supervisor.interval_s == 0.01
    async with asyncio.timeout(10), supervisor.watched(done.set):
        for _ in range(3):
            await done.wait()
            done.clear()


async def test_a_name_in_the_abstract_namespace_is_found() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0bletoken-test-{os.getpid()}")
        Supervisor({"NOTIFY_SOCKET": f"@bletoken-test-{os.getpid()}"}).ready()
        listener.settimeout(10)
        assert await told(listener) == b"READY=1"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"NOTIFY_SOCKET": ""},
        {"NOTIFY_SOCKET": "/nowhere/at/all", "WATCHDOG_USEC": "20000"},
        {"NOTIFY_SOCKET": "x" * 1000, "WATCHDOG_USEC": "-5"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "often"},
    ],
)
async def test_without_systemd_nothing_happens(environment: dict[str, str]) -> None:
    supervisor = Supervisor(environment)
    async with supervisor.watched():
        supervisor.ready()
        await asyncio.sleep(0)
    if "WATCHDOG_USEC" not in environment:
        assert supervisor.interval_s == math.inf


async def test_another_processs_watchdog_gets_no_signs_of_life(line: socket.socket) -> None:
    others = {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
    async with Supervisor({"NOTIFY_SOCKET": line.getsockname(), **others}).watched():
        await asyncio.sleep(0)
    assert await told(line) == b"STOPPING=1"
