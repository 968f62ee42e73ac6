"""BlueZ of the machine that the tests run on: its daemon under systemd, and records of what it does.

It changes nothing on disk outside /run.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bletoken.sim.air.link import LinkModel

BLUEZ_AIR = LinkModel(connection_interval_s=0.0075, control_delay_s=0.1)
"""With link control any faster BlueZ answers Connect before it has set Connected, and bleak gives up."""

_DIED = 1 << 7
"""The kernel's mark that it has oopsed (Documentation/admin-guide/tainted-kernels)."""

_DROP_IN = Path("/run/systemd/system/bluetooth.service.d/bletoken-tests.conf")
_MAIN_CONF = Path("/run/bletoken-tests-main.conf")


def missing() -> str | None:
    """Why the tests cannot run over BlueZ here, or None."""
    if not os.environ.get("BLETOKEN_TEST_BLUEZ"):
        return "it takes a machine with BlueZ and virtual adapters: run scripts/bluez"
    return None


def broken() -> str | None:
    """Why nothing that BlueZ does here means anything any more, or None."""
    tainted = int(Path("/proc/sys/kernel/tainted").read_text())
    return "the kernel died in an earlier test: see the journal of the first that failed" if tainted & _DIED else None


def version() -> str | None:
    """The version of the BlueZ that is installed."""
    daemon = _daemon()
    return subprocess.run([daemon, "--version"], capture_output=True, text=True).stdout.strip() if daemon else None


def _daemon() -> str | None:
    places = ["/usr/libexec/bluetooth", "/usr/lib/bluetooth", "/usr/sbin"]
    return shutil.which("bluetoothd", path=":".join(places))


def systemctl(*words: str) -> str:
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"systemctl {' '.join(words)}: {done.stderr}"
    return done.stdout


class Daemon:
    """bluetoothd, as the unit of the distribution runs it, with its debug log in the journal."""

    def start(self) -> None:
        systemctl("start", "bluetooth.service")

    def stop(self) -> None:
        systemctl("stop", "bluetooth.service")

    def restart(self) -> None:
        systemctl("restart", "bluetooth.service")

    def kill(self) -> None:
        """Kill it, and leave it dead."""
        systemctl("kill", "--signal=KILL", "bluetooth.service")


@contextlib.contextmanager
def running_daemon() -> Iterator[Daemon]:
    """bluetoothd for the length of the block."""
    program = _daemon()
    assert program, "bluetoothd is not installed"
    assert Path("/run/systemd/system").is_dir(), "systemd does not run here"
    # Its enhanced ATT would talk to itself: both adapters are on one daemon.
    _MAIN_CONF.write_text("[GATT]\nChannels = 1\n")
    _DROP_IN.parent.mkdir(parents=True, exist_ok=True)
    _DROP_IN.write_text(f"[Service]\nExecStart=\nExecStart={program} -d -f {_MAIN_CONF}\n")
    systemctl("daemon-reload")
    daemon = Daemon()
    try:
        daemon.restart()
        yield daemon
    finally:
        _DROP_IN.unlink()
        _MAIN_CONF.unlink()
        systemctl("daemon-reload")
        daemon.stop()


@contextlib.contextmanager
def recorded(folder: Path) -> Iterator[None]:
    """Record into a folder what happens meanwhile: HCI as the kernel sees it, BlueZ's D-Bus traffic, the journal."""
    cursor = subprocess.run(
        ["journalctl", "--quiet", "--lines=0", "--show-cursor"], capture_output=True, text=True, check=True
    ).stdout.partition("cursor: ")[2]
    with contextlib.ExitStack() as stack:
        for command, file in (
            (["btmon", "-w", str(folder / "kernel.btsnoop")], None),
            (["dbus-monitor", "--system", "sender='org.bluez'", "destination='org.bluez'"], "dbus.log"),
        ):
            out = stack.enter_context((folder / file).open("wb")) if file else subprocess.DEVNULL
            process = stack.enter_context(subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT))
            stack.callback(process.terminate)
        try:
            yield
        finally:
            with (folder / "journal.log").open("wb") as journal:
                since = [f"--after-cursor={cursor.strip()}"] if cursor else []
                subprocess.run(["journalctl", "--output=short-precise", *since], stdout=journal, check=True)
