"""Adapters of this machine on the air; the kernel's end is a socket here, and real in tests/bluez."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bletoken.errors import RadioUnavailableError
from bletoken.sim.air import vhci
from bletoken.sim.air.hub import Hub

RESET = bytes.fromhex("01030c00")
RESET_DONE = bytes.fromhex("040e04")


class Kernel:
    """Takes one virtual controller and talks to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.end, self._device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.end.setblocking(False)
        open_file = os.open
        monkeypatch.setattr(
            os, "open", lambda path, *rest: self._device.detach() if path == vhci.DEVICE else open_file(path, *rest)
        )

    async def read(self) -> bytes:
        async with asyncio.timeout(10):
            return await asyncio.get_running_loop().sock_recv(self.end, 4096)

    def close(self) -> None:
        self.end.close()
        self._device.close()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    if not hasattr(socket, "AF_UNIX") or not hasattr(socket, "SOCK_SEQPACKET"):
        pytest.skip("this system has no sockets that keep packets apart")
    kernel = Kernel(monkeypatch)
    yield kernel
    kernel.close()


async def test_an_adapter_has_the_kernels_name_and_a_controller_on_the_air_until_it_is_pulled_out(
    kernel: Kernel, tmp_path: Path
) -> None:
    async with Hub.open(f"unix:{tmp_path}/air") as hub:
        plugging = asyncio.create_task(hub.plug_in())
        assert await kernel.read() == b"\xff\x00"
        kernel.end.send(bytes.fromhex("ff000301"))
        assert await plugging == "hci259"
        kernel.end.send(RESET)
        assert (await kernel.read()).startswith(RESET_DONE)
        assert hub.stats()["hosts"] == 1
        hub.pull_out("hci259")
        assert hub.stats()["hosts"] == 0
        assert await kernel.read() == b""


async def test_an_adapter_is_pulled_out_when_the_hub_ends(kernel: Kernel, tmp_path: Path) -> None:
    async with Hub.open(f"unix:{tmp_path}/air") as hub:
        kernel.end.send(bytes.fromhex("ff000000"))
        assert await hub.plug_in() == "hci0"
        assert await kernel.read() == b"\xff\x00"
    assert await kernel.read() == b""


async def test_a_machine_without_virtual_controllers_says_what_it_takes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(vhci, "DEVICE", str(tmp_path / "vhci"))
    async with Hub.open(f"unix:{tmp_path}/air") as hub:
        with pytest.raises(RadioUnavailableError, match="modprobe hci_vhci"):
            await hub.plug_in()
        assert hub.stats()["hosts"] == 0
