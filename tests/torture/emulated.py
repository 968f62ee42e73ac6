"""A machine of its own for devices, that can be cut: a stock Debian kernel in qemu, and their state on an ext4 disk.

Everything else is the host's: its files, which the machine cannot change, and by network MODE and the air. Whatever the
machine's kernel had in memory when it is cut is gone.
"""

import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from torture.plan import NotPossibleError

PROJECT = Path(__file__).parents[2]
INIT = Path(__file__).with_name("machine") / "init"

TOOLS = ("qemu-system-x86_64", "setpriv", "mkfs.ext4", "busybox", "modprobe")
_DRIVERS = ("virtio_pci", "virtio_blk", "virtio_net", "9pnet_virtio", "9p", "ext4")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

# The kernel's trial of its timer fails where a busy host emulates it too slowly, and it would panic.
_KERNEL_OPTIONS = ("quiet", "panic=-1", "mitigations=off", "no_timer_check")

BOOT_S = 180
"""Seconds after which a machine that does not come up is given up; it takes about ten."""

_LONGEST_LINE = 2**20
_FILE = re.compile(r"(\w+)/([^ ]*)= ([A-Za-z0-9+/=]*|shown)")
"""How `show` tells of a file, and with an empty name that there are no more."""


def missing() -> str:
    """What there is not of all that it needs."""
    return ", ".join(tool for tool in TOOLS if shutil.which(tool, path=_PATH) is None)


def kernel() -> Path:
    """The folder of a stock Debian kernel.

    Raises:
        NotPossibleError: None can be had.
    """
    found = subprocess.run(["scripts/kernel"], cwd=PROJECT, check=False, capture_output=True, text=True)
    if found.returncode != 0:
        raise NotPossibleError(f"no machine can be cut: {found.stderr.strip()}")
    return Path(found.stdout.strip())


@dataclass
class Console:
    """What the machine says.

    Attributes:
        steps: What each device said that it did, since the machine was switched on.
        ended: Why a device ended that did.
        files: What was shown of each device's files.
        last: The last lines, whatever they are.
    """

    steps: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    ended: dict[str, str] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=lambda: defaultdict(dict))
    last: deque[str] = field(default_factory=lambda: deque(maxlen=5))

    def clear(self) -> None:
        """Forget what was said before the machine was switched on."""
        self.steps.clear()
        self.ended.clear()
        self.last.clear()

    def take(self, line: str) -> None:
        """Take one line. The kernel, the shell and Python's tracebacks say what they like as well."""
        self.last.append(line)
        # What is neither base64 nor JSON is somebody else's.
        with contextlib.suppress(ValueError, RecursionError):
            if shown := _FILE.fullmatch(line):
                device, file, octets = shown.groups()
                self.files[device][file] = base64.b64decode(octets, validate=True) if file else b""
                return
            device, _, said = line.partition(": ")
            content = json.loads(said)
            if not isinstance(content, dict):
                return
            if "step" in content:
                self.steps[device].append(content["step"])
            else:
                self.ended[device] = content.get("message", "")


class Machine:
    """The machine. Its disk outlives it.

    Args:
        folder: For its disk and what it boots from.
        devices: The folders of all devices that are on the disk, by name.
        program: How a device is started, in the project's folder.
        ports: The host's ports that the devices connect to.
    """

    def __init__(self, folder: Path, devices: Iterable[Path], program: list[str], ports: Iterable[int]) -> None:
        self._folder = folder
        self._program = program
        self._ports = ports
        self._qemu: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._kernel = kernel()
        self._console = Console()
        self._make_disk(devices)
        self._make_root()

    @property
    def steps(self) -> dict[str, list[str]]:
        """What each device said that it did, since the machine was switched on."""
        return self._console.steps

    def _make_disk(self, devices: Iterable[Path]) -> None:
        content = self._folder / "disk"
        content.mkdir()
        for device in devices:
            shutil.copytree(device, content / device.name)
        disk = self._folder / "disk.ext4"
        command = ["mkfs.ext4", "-q", "-E", "root_owner=0:0", "-d", str(content), str(disk), "64M"]
        subprocess.run(command, check=True, env={"PATH": _PATH}, capture_output=True)

    def _make_root(self) -> None:
        """What it boots from: busybox, the drivers and the init program, packed as the kernel wants it."""
        root = self._folder / "root"
        for name in ("bin", "lib", "proc", "sys", "dev", "host"):
            (root / name).mkdir(parents=True)
        shutil.copy(shutil.which("busybox", path=_PATH) or "", root / "bin" / "busybox")
        shutil.copy(INIT, root / "init")
        for program in (root / "bin" / "busybox", root / "init"):
            program.chmod(0o755)
        version = self._kernel.name.removeprefix("linux-image-")
        names: list[str] = []
        for driver in _DRIVERS:
            command = ["modprobe", "-d", str(self._kernel), "-S", version, "--show-depends", driver]
            listed = subprocess.run(command, check=True, env={"PATH": _PATH}, capture_output=True, text=True).stdout
            for line in listed.splitlines():
                module = Path(line.split()[1])
                # A driver that only makes something faster, and only on other processors.
                if line.startswith("insmod") and module.name not in [*names, "crc32c-intel.ko"]:
                    shutil.copy(module, root / "lib")
                    names.append(module.name)
        (root / "modules").write_text("\n".join(names))
        files = "\n".join(sorted(str(path.relative_to(root)) for path in root.rglob("*")))
        with (self._folder / "initrd").open("wb") as packed:
            subprocess.run(
                ["busybox", "cpio", "-o", "-H", "newc"], input=files.encode(), stdout=packed, cwd=root, check=True
            )

    @contextlib.asynccontextmanager
    async def cut_at_the_end(self) -> AsyncIterator["Machine"]:
        """The machine, which is cut when the context ends, if not before."""
        try:
            yield self
        finally:
            await self.cut()

    async def boot(self, device: str) -> None:
        """Switch it on; this device starts."""
        self._console.clear()
        version = self._kernel.name.removeprefix("linux-image-")
        words = {
            "console": "ttyS0",
            "device": device,
            "ports": ",".join(map(str, self._ports)),
            "project": PROJECT,
            "tests": PROJECT / "tests",
            "program": ",".join(self._program),
        }
        self._qemu = await asyncio.create_subprocess_exec(
            # It ends with whoever started it, however that ends.
            *("setpriv", "--pdeathsig", "KILL"),
            *("qemu-system-x86_64", "-accel", "tcg,tb-size=256", "-cpu", "max", "-m", "768", "-no-reboot"),
            *("-display", "none", "-monitor", "none", "-serial", "stdio"),
            *("-kernel", str(self._kernel / "boot" / f"vmlinuz-{version}"), "-initrd", str(self._folder / "initrd")),
            *("-append", " ".join([*_KERNEL_OPTIONS, *(f"{name}={value}" for name, value in words.items())])),
            *("-drive", f"file={self._folder / 'disk.ext4'},if=virtio,format=raw"),
            *("-nic", "user,model=virtio-net-pci"),
            *("-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LONGEST_LINE,
        )
        self._reading = asyncio.create_task(self._read(self._qemu))

    async def cut(self) -> None:
        """Cut its power."""
        if self._qemu is not None and self._reading is not None:
            if self._qemu.returncode is None:
                os.kill(self._qemu.pid, signal.SIGKILL)
            await self._qemu.wait()
            await self._reading
            self._qemu = None

    async def refusal(self, device: str) -> str:
        """Wait until a device advertises. Returns why it does not, in its own words; nothing where it does."""
        ended = self._console.ended
        if not await self._until(lambda: "advertising" in self.steps[device] or device in ended):
            return f"nothing was heard of it; {self._last_words()}"
        return ended.get(device, "")

    def run(self, device: str) -> None:
        """Start another device."""
        self._say(f"run {device}")

    async def show(self, device: str) -> dict[str, bytes]:
        """What is in a device's state folder, as the machine has it on its disk."""
        files = self._console.files
        files.pop(device, None)
        self._say(f"show {device}")
        shown = await self._until(lambda: "" in files[device])
        assert shown, f"the files of {device} were not shown; {self._last_words()}"
        return {name: octets for name, octets in files[device].items() if name}

    async def _until(self, condition: Callable[[], bool]) -> bool:
        """Whether this comes to hold while the machine is on, as long as its patience lasts."""
        ends_at = time.monotonic() + BOOT_S
        while not condition():
            assert self._qemu is not None
            if self._qemu.returncode is not None or time.monotonic() >= ends_at:
                return False
            await asyncio.sleep(0.02)
        return True

    def _last_words(self) -> str:
        return f"the last of the machine's console: {' / '.join(self._console.last)}"

    def _say(self, line: str) -> None:
        assert self._qemu is not None
        assert self._qemu.stdin is not None
        self._qemu.stdin.write(f"{line}\n".encode())

    async def _read(self, qemu: asyncio.subprocess.Process) -> None:
        assert qemu.stdout is not None
        async for line in qemu.stdout:
            self._console.take(line.decode("utf-8", "replace").strip())
