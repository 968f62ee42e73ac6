"""A program on a BlueZ of its own that is a fake: when it is on the air, what it has used so far, and a companion.

What is measured is read from the kernel's books about the process; nothing is in the process that would not be there
on a device.
"""

import asyncio
import contextlib
import json
import re
import secrets
import shutil
import socket
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dbus_fast import Message, Variant
from package.environments import clean_environment
from unit.peripheral.fake_bluez import FakeBlueZ

WAIT_S = 60
"""How long anything may take before the measurement gives up."""

MTU = 247

_INTROSPECTABLE = """<interface name="org.freedesktop.DBus.Introspectable">
<method name="Introspect"><arg name="xml" type="s" direction="out"/></method></interface>"""

_ROOT = f"""<node>{_INTROSPECTABLE}<interface name="org.freedesktop.DBus.ObjectManager">
<method name="GetManagedObjects"><arg name="objects" type="a{{oa{{sa{{sv}}}}}}" direction="out"/></method>
<signal name="InterfacesAdded"><arg name="object" type="o"/><arg name="interfaces" type="a{{sa{{sv}}}}"/></signal>
<signal name="InterfacesRemoved"><arg name="object" type="o"/><arg name="interfaces" type="as"/></signal></interface>
<node name="org"/></node>"""

_ADAPTER = f"""<node>{_INTROSPECTABLE}<interface name="org.bluez.Adapter1">
<method name="StartDiscovery"/><method name="StopDiscovery"/>
<method name="SetDiscoveryFilter"><arg name="properties" type="a{{sv}}" direction="in"/></method>
<method name="GetDiscoveryFilters"><arg name="filters" type="as" direction="out"/></method>
<method name="RemoveDevice"><arg name="device" type="o" direction="in"/></method>
<property name="Address" type="s" access="read"/><property name="AddressType" type="s" access="read"/>
<property name="Name" type="s" access="read"/><property name="Modalias" type="s" access="read"/>
<property name="Powered" type="b" access="readwrite"/><property name="Discoverable" type="b" access="readwrite"/>
<property name="Pairable" type="b" access="readwrite"/><property name="Alias" type="s" access="readwrite"/>
<property name="Class" type="u" access="read"/>
<property name="DiscoverableTimeout" type="u" access="readwrite"/>
<property name="PairableTimeout" type="u" access="readwrite"/><property name="Discovering" type="b" access="read"/>
<property name="UUIDs" type="as" access="read"/><property name="Roles" type="as" access="read"/></interface>
<interface name="org.freedesktop.DBus.Properties">
<method name="Get"><arg name="interface" type="s" direction="in"/><arg name="name" type="s" direction="in"/>
<arg name="value" type="v" direction="out"/></method>
<method name="Set"><arg name="interface" type="s" direction="in"/><arg name="name" type="s" direction="in"/>
<arg name="value" type="v" direction="in"/></method>
<method name="GetAll"><arg name="interface" type="s" direction="in"/>
<arg name="properties" type="a{{sv}}" direction="out"/></method>
<signal name="PropertiesChanged"><arg name="interface" type="s"/><arg name="changed_properties" type="a{{sv}}"/>
<arg name="invalidated_properties" type="as"/></signal></interface>
<interface name="org.bluez.GattManager1">
<method name="RegisterApplication"><arg name="application" type="o" direction="in"/>
<arg name="options" type="a{{sv}}" direction="in"/></method>
<method name="UnregisterApplication"><arg name="application" type="o" direction="in"/></method></interface>
<interface name="org.bluez.LEAdvertisingManager1">
<method name="RegisterAdvertisement"><arg name="advertisement" type="o" direction="in"/>
<arg name="options" type="a{{sv}}" direction="in"/></method>
<method name="UnregisterAdvertisement"><arg name="service" type="o" direction="in"/></method>
<property name="ActiveInstances" type="y" access="read"/><property name="SupportedInstances" type="y" access="read"/>
<property name="SupportedIncludes" type="as" access="read"/></interface></node>"""


def missing() -> str | None:
    """Why nothing can be measured here; None where it can."""
    if not Path("/proc/self/smaps_rollup").exists():
        return "the kernel keeps no books on memory here: this needs Linux"
    if shutil.which("dbus-daemon") is None:
        return "there is no dbus-daemon here (on Debian and Ubuntu: apt-get install dbus)"
    return None


class BlueZ(FakeBlueZ):
    """The fake, with what bless as it is asks beyond what ours does."""

    async def _Introspect(self, message: Message) -> tuple[str, list[str]]:  # noqa: N802 D-Bus's own name
        return "s", [_ROOT if message.path == "/" else _ADAPTER]


@dataclass(frozen=True)
class Memory:
    """Octets in memory: `resident`, of these what no other process shares (`unshared`)."""

    resident: int
    unshared: int


class Program:
    """A program that has a BlueZ for itself.

    Attributes:
        bluez: What it is on.
        pid: Its process.
        steps: What it said of its progress.
        pings: The signs of life that it gave to who started it.
        start_s: Seconds from its start to its first advert.
        start_cpu_s: Seconds of CPU time until then.
    """

    def __init__(self, bluez: BlueZ, process: asyncio.subprocess.Process) -> None:
        self.bluez = bluez
        self.pid = process.pid
        self.steps: list[str] = []
        self.pings = 0
        self.start_s = self.start_cpu_s = 0.0
        self._process = process
        self._said = asyncio.Event()

    @property
    def cpu_s(self) -> float:
        """Seconds of CPU time it has had so far, in all its threads."""
        # The CPU clock of another process; the kernel makes its id like this (clock_getcpuclockid(3)).
        return time.clock_gettime((~self.pid << 3) | 2)

    @property
    def memory(self) -> Memory:
        """What it has in memory."""
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        kilobytes = {name: int(size) for name, size in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}
        unshared = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
        return Memory(kilobytes["Rss"] * 1024, unshared * 1024)

    @property
    def wakeups(self) -> int:
        """How often one of its threads has waited for something, and came back."""
        found = 0
        for status in Path(f"/proc/{self.pid}/task").glob("*/status"):
            found += int(status.read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0])
        return found

    async def settled(self) -> None:
        """Wait until it does nothing any more."""
        async with asyncio.timeout(WAIT_S):
            used = -1.0
            while used != self.cpu_s:
                used = self.cpu_s
                await asyncio.sleep(0.3)

    async def listen(self, *, as_json: bool) -> None:
        """Read what it says until its end."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            if as_json:
                self.steps.append(json.loads(line).get("step", ""))
                self._said.set()

    async def says(self, step: str) -> None:
        """Wait until it has said so."""
        async with asyncio.timeout(WAIT_S):
            while step not in self.steps:
                self._said.clear()
                await self._said.wait()


@contextlib.asynccontextmanager
async def running(
    command: list[str], folder: Path, variables: Mapping[str, str], *, as_json: bool = False, advertises: bool = True
) -> AsyncIterator[Program]:
    """Run a program while inside.

    Args:
        command: The program.
        folder: A folder that is there, for sockets.
        variables: More of its environment.
        as_json: Whether it tells its progress as JSON objects.
        advertises: Whether it is to be waited for until it does.
    """
    async with contextlib.AsyncExitStack() as closing:
        address = await closing.enter_async_context(_bus(folder / f"bus-{secrets.token_hex(4)}"))
        bluez = BlueZ(address)
        # An address of its own, as our programs hold an adapter for the whole machine.
        bluez.plug(address=":".join(f"{octet:02X}" for octet in secrets.token_bytes(6)))
        await bluez.start()
        closing.push_async_callback(bluez.stop)
        systemd = closing.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        systemd.bind(str(folder / f"notify-{secrets.token_hex(4)}"))
        systemd.setblocking(False)
        watched = {"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "60000000"}
        environment = {**clean_environment(), "DBUS_SYSTEM_BUS_ADDRESS": address, **watched, **variables}
        on_air = asyncio.Event()
        began_at = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, env=environment
        )
        program = Program(bluez, process)

        def called(member: str) -> None:
            if member == "RegisterAdvertisement" and not on_air.is_set():
                program.start_s, program.start_cpu_s = time.monotonic() - began_at, program.cpu_s
                on_air.set()

        def pinged() -> None:
            program.pings += systemd.recv(4096) == b"WATCHDOG=1"

        bluez.on_call = called
        loop = asyncio.get_running_loop()
        loop.add_reader(systemd, pinged)
        closing.callback(loop.remove_reader, systemd)
        listening = asyncio.create_task(program.listen(as_json=as_json))
        closing.push_async_callback(_end, process, listening)
        if advertises:
            async with asyncio.timeout(WAIT_S):
                await on_air.wait()
        yield program


async def _end(process: asyncio.subprocess.Process, listening: asyncio.Task[None]) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    async with asyncio.timeout(WAIT_S):
        await process.wait()
        await listening
    if process.returncode != 0:
        raise RuntimeError(f"the program that was measured ended with {process.returncode}")


@contextlib.asynccontextmanager
async def _bus(path: Path) -> AsyncIterator[str]:
    command = [
        "dbus-daemon",
        "--session",
        "--nofork",
        "--nopidfile",
        "--print-address=1",
        f"--address=unix:path={path}",
    ]
    # Its standard error is about limits that only a whole system's bus needs.
    pipe, nowhere = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    daemon = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=nowhere)
    assert daemon.stdout is not None
    try:
        address = (await daemon.stdout.readline()).decode().strip()
        if not address:
            raise RuntimeError("dbus-daemon did not start")
        yield address
    finally:
        daemon.terminate()
        await daemon.wait()


class Companion:
    """One connection to a program, over the fake BlueZ."""

    def __init__(self, bluez: BlueZ) -> None:
        self._bluez = bluez
        self._peer = bluez.appears(":".join(f"{octet:02X}" for octet in secrets.token_bytes(6)))
        self._heard = len(bluez.notified)

    async def read(self, uuid: str) -> bytes:
        """Read a characteristic."""
        return await self._bluez.read(uuid, self._peer, mtu=Variant("q", MTU))

    async def subscribe(self, uuid: str) -> None:
        """Ask to be notified."""
        await self._bluez.subscribe(uuid)

    async def write(self, uuid: str, value: bytes) -> None:
        """Write to a characteristic."""
        await self._bluez.write(uuid, value, self._peer, mtu=Variant("q", MTU))

    async def notified(self) -> bytes:
        """The next notification."""
        async with asyncio.timeout(WAIT_S):
            await self._bluez.until(lambda: len(self._bluez.notified) > self._heard)
        self._heard += 1
        return self._bluez.notified[self._heard - 1]

    def leave(self) -> None:
        """Disconnect."""
        self._bluez.connects(self._peer, connected=False)
