"""The hardware that the hand-off suite runs on where pytest's options name it: two adapters, or a device over ssh."""

import asyncio
import contextlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

REBOOT_S = 600
"""How long a device may take to have its power cut, and to answer again."""

_COPY_S = 60

_SSH = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5"]

_UNDER_CONTROL = """
exec 3<&0
"$@" < /dev/null &
program=$!
{ read -r signal <&3 || signal=KILL; kill -s "$signal" "$program"; } > /dev/null 2>&1 &
wait "$program"
"""
"""Runs a program that ends by the signal that is named on standard input, and when the connection ends."""

OPTIONS = {
    "--device-adapter": ("ADDRESS", "the device's Bluetooth adapter"),
    "--companion-adapter": ("ADDRESS", "this machine's adapter for the companion"),
    "--device-host": ("[USER@]HOST", "the device is another machine, reached with ssh"),
    "--device-program": ("PATH", "bletoken-peripheral on that machine; by default it is found there"),
    "--power-cycle-command": ("COMMAND", "takes the device's power away and gives it back, whenever a test kills it"),
}


def add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("hardware", "hardware in the loop: see tests/hil/README.md")
    for name, (metavar, text) in OPTIONS.items():
        group.addoption(name, metavar=metavar, help=text)


@dataclass(frozen=True)
class Rig:
    """Real adapters, and the device's machine.

    Attributes:
        device_adapter: The address of the device's.
        companion_adapter: The address of the companion's, which is this machine's.
        device_host: Where ssh finds the device; empty where it is this machine.
        device_program: bletoken-peripheral there.
        power_cycle: A command of this machine's shell.
    """

    device_adapter: str
    companion_adapter: str
    device_host: str = ""
    device_program: str = "bletoken-peripheral"
    power_cycle: str = ""

    def __post_init__(self) -> None:
        for name in ("device_adapter", "companion_adapter"):
            if not re.fullmatch(r"([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}", address := getattr(self, name)):
                raise pytest.UsageError(
                    f"{_option(name)} is {address!r} and no address such as AA:BB:CC:DD:EE:FF;"
                    " bluetoothctl list shows them"
                )
        if self.device_adapter.upper() == self.companion_adapter.upper():
            raise pytest.UsageError("device and companion need an adapter each, and both options name the same")
        if not re.fullmatch(r"([A-Za-z0-9_][A-Za-z0-9_.@%:-]*)?", self.device_host):
            raise pytest.UsageError(f"--device-host is {self.device_host!r}, and no [USER@]HOST for ssh")

    @classmethod
    def of(cls, options: Mapping[str, str | None]) -> "Rig | None":
        """What pytest's options name; None if they name nothing.

        Raises:
            pytest.UsageError: They name it wrong.
        """
        given = {name: value for name in OPTIONS if (value := options.get(name)) is not None}
        if not given:
            return None
        if missing := {"--device-adapter", "--companion-adapter"} - given.keys():
            raise pytest.UsageError(f"with {', '.join(given)} there must be {' and '.join(sorted(missing))}")
        if "--device-program" in given and "--device-host" not in given:
            raise pytest.UsageError("--device-program is on another machine, so it needs --device-host")
        if "" in given.values():
            raise pytest.UsageError(f"{next(name for name in given if not given[name])} is empty")
        return cls(
            **{name.removeprefix("--").removesuffix("-command").replace("-", "_"): given[name] for name in given}
        )

    # Adapters ---------------------------------------------------------------------------------------------------------

    async def radios(self) -> dict[str, str]:
        """The radios of both ends, as the programs take them. That BlueZ has what is on this machine is seen to."""
        from bluez import bus, stack  # its library is there on Linux only

        try:
            async with bus.BlueZ.open(stack.Daemon()) as bluez:
                companion = await bluez.named(self.companion_adapter.upper())
                if not self.device_host:
                    await bluez.named(self.device_adapter.upper())
        except OSError as e:
            raise AssertionError(f"there is no system bus (D-Bus) to reach BlueZ on: {e}") from e
        return {"device": f"system:{self.device_adapter}", "companion": f"system:{companion}"}

    # The device's machine ---------------------------------------------------------------------------------------------

    @property
    def there(self) -> list[str]:
        """What runs a command line on the device's machine where that is another."""
        return [*_SSH, self.device_host, "--"] if self.device_host else []

    def on_device(self, *words: str) -> list[str]:
        """The command of this machine that runs a command on the device's."""
        return [*self.there, shlex.join(words)] if self.device_host else list(words)

    def program(self, port: int, *words: str) -> list[str]:
        """The command that runs the device's program there; this machine's port is the device's as well."""
        assert self.device_host
        forward = ["-o", "ExitOnForwardFailure=yes", "-R", f"{port}:127.0.0.1:{port}"]
        command = shlex.join(["sh", "-c", _UNDER_CONTROL, "sh", self.device_program, *words])
        return [*_SSH, *forward, self.device_host, "--", command]

    def give(self, folder: Path) -> None:
        """Make a folder on the device's machine what it is on this one."""
        path = shlex.quote(str(folder))
        unpack = self.on_device("sh", "-c", f"rm -rf {path} && mkdir -p {path} && tar -x --no-same-owner -C {path}")
        packed = subprocess.run(["tar", "-c", "-C", str(folder), "."], stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(unpack, input=packed, check=True, timeout=_COPY_S)

    def fetch(self, folder: Path) -> None:
        """Make a folder on this machine what it is on the device's."""
        packed = subprocess.run(
            self.on_device("tar", "-c", "-C", str(folder), "."), stdout=subprocess.PIPE, check=True, timeout=_COPY_S
        ).stdout
        shutil.rmtree(folder)
        folder.mkdir()
        subprocess.run(["tar", "-x", "-C", str(folder)], input=packed, check=True)

    async def cut_power(self) -> None:
        """Run the command that takes the device's power away and gives it back."""
        assert self.power_cycle
        process = await asyncio.create_subprocess_shell(self.power_cycle, stdin=asyncio.subprocess.DEVNULL)
        try:
            async with asyncio.timeout(REBOOT_S):
                status = await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        assert status == 0, f"{self.power_cycle!r} ended with {status}"

    async def answers(self) -> None:
        """Wait until the device's machine is there again."""
        async with asyncio.timeout(REBOOT_S):
            while True:
                process = await asyncio.create_subprocess_exec(
                    *self.on_device("true"), stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
                )
                if await process.wait() == 0:
                    return
                await asyncio.sleep(1)


def _option(field: str) -> str:
    return "--" + field.replace("_", "-")
