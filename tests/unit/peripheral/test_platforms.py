"""The device's side where there is no BlueZ: on stock bless, and without a module that only Linux has."""

import subprocess
import sys

import pytest

ELSEWHERE = """
import asyncio, enum, sys, types

# Loaded as what this machine is; only our own modules are to believe that it is another.
import cbor2, cryptography.hazmat.primitives.asymmetric.x25519, cryptography.hazmat.primitives.ciphers.aead, httpx

sys.platform, calls = sys.argv[1], []
for name in (*(f"bletoken_peripheral.bluez{part}" for part in ("", "_bus", "_objects")), "dbus_next", "dbus_fast"):
    sys.modules[name] = None  # Whoever imports it gets an ImportError.
if sys.platform == "win32":
    sys.modules["fcntl"] = None
    sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, locking=lambda fd, mode, size: calls.append("locked"))


class Flags(enum.Flag):
    read = write = notify = readable = writeable = 1


class BlessServer:
    def __init__(self, name):
        calls.append(f"server {name}")

    async def add_new_service(self, uuid): ...
    async def add_new_characteristic(self, *_): ...
    async def start(self): calls.append("started")
    async def stop(self): calls.append("stopped")


def module(name, **content):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(content, __path__=[])


module("bless", BlessServer=BlessServer)
module("bless.backends")
module("bless.backends.attribute", GATTAttributePermissions=Flags)
module("bless.backends.characteristic", GATTCharacteristicProperties=Flags)

import pathlib, tempfile
from bletoken.protocol.wire import HELLO_UUID, TOKEN_UUID
from bletoken_peripheral import cli, device, gatt_server, onboarding, store


class Companions:
    def connected(self, peer): calls.append(f"connected {peer}")
    def disconnected(self, peer): calls.append(f"disconnected {peer}")
    def hello(self, peer): return b"hello"
    def token_written(self, peer, frame): calls.append(f"{peer} wrote {frame}")


async def main():
    async with gatt_server.GattServer("system", "name", Companions()) as server:
        bless = server._server
        assert bless.read_request_func(types.SimpleNamespace(uuid=HELLO_UUID)) == b"hello"
        bless.write_request_func(types.SimpleNamespace(uuid=TOKEN_UUID), bytearray(b"frame"))
        await server.rename("other")
        await server.disconnect("*")


asyncio.run(main())
folder = store.StateFolder(pathlib.Path(tempfile.mkdtemp()))
with folder.lock():
    pass
print(calls)
"""


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_the_device_runs_on_stock_bless_and_nothing_of_linux_is_imported(platform: str) -> None:
    command = [sys.executable, "-W", "error", "-c", ELSEWHERE, platform]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(
        [
            "server name",
            "connected *",
            "started",
            "* wrote b'frame'",
            "stopped",
            "disconnected *",
            *(["locked"] if platform == "win32" else []),
        ]
    )


def test_on_linux_the_virtual_radio_needs_nothing_of_bluez() -> None:
    script = """
import sys
sys.modules["bletoken_peripheral.bluez"] = None
from bletoken_peripheral.gatt_server import _bless_server
import asyncio
async def main(): _bless_server("air:unix:/nowhere", "name")
asyncio.run(main())
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
