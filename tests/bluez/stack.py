"""BlueZ of the machine that the tests run on: its daemon under systemd, and records of what it does.

It changes nothing on disk outside /run.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
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
    return "the kernel has died: see the journal of the first test that failed" if tainted & _DIED else None


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
    # Its enhanced ATT would talk to itself, as both adapters are on one daemon; the interval is what the page for a
    # device image says.
    _MAIN_CONF.write_text(
        "[GATT]\nChannels = 1\n[LE]\nMinAdvertisementInterval = 160\nMaxAdvertisementInterval = 160\n"
    )
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


# Records ------------------------------------------------------------------------------------------------------------


_RECORDS = {
    # What it prints is not wanted, and what it writes goes where it would print.
    "kernel.btsnoop": "exec btmon --write /proc/self/fd/3 3>&1 > /dev/null",
    "dbus.log": """exec dbus-monitor --system "sender='org.bluez'" "destination='org.bluez'" 2>&1""",
}
"""Files, and the commands whose output they are."""

_BTSNOOP_HEADER = 16


class Recorder:
    """What happens on a machine: HCI as the kernel sees it, BlueZ's D-Bus traffic, the journal.

    It runs for a whole run of tests, as a start for each takes seconds in an emulated machine.

    Args:
        folder: Where it may put its files.
        elsewhere: What runs a command on another machine.
    """

    def __init__(self, folder: Path, elsewhere: Sequence[str]) -> None:
        self._folder = folder
        self._elsewhere = elsewhere
        self._began = time.monotonic()
        self._sizes: dict[str, int] = {}

    @classmethod
    @contextlib.contextmanager
    def running(cls, folder: Path, elsewhere: Sequence[str] = ()) -> Iterator["Recorder"]:
        with contextlib.ExitStack() as closing:
            recorder = cls(folder, elsewhere)
            for name, command in _RECORDS.items():
                out = closing.enter_context((folder / name).open("wb"))
                process = closing.enter_context(
                    subprocess.Popen(recorder._there(["sh", "-c", command]), stdin=subprocess.DEVNULL, stdout=out)
                )
                closing.callback(process.terminate)
            yield recorder

    def begin(self) -> None:
        """What comes from now on is wanted."""
        self._began = time.monotonic()
        self._sizes = {name: (self._folder / name).stat().st_size for name in _RECORDS}

    def keep(self, folder: Path) -> None:
        """Write what has come into a folder."""
        prefix = "device-" if self._elsewhere else ""
        for name in _RECORDS:
            octets = (self._folder / name).read_bytes()
            header = _BTSNOOP_HEADER if name.endswith("btsnoop") else 0
            (folder / f"{prefix}{name}").write_bytes(octets[:header] + octets[max(header, self._sizes.get(name, 0)) :])
        # By how long ago, as another machine's clock may be wrong.
        since = f"--since=-{int(time.monotonic() - self._began) + 1}s"
        with (folder / f"{prefix}journal.log").open("wb") as journal:
            command = self._there(["journalctl", "--output=short-precise", since])
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=journal)

    def _there(self, command: Sequence[str]) -> list[str]:
        return [*self._elsewhere, *([shlex.join(command)] if self._elsewhere else command)]


_UNIT_PROCESS_EXIT = "98e322203f7a4ed290d09fe03c09fe15"
"""SD_MESSAGE_UNIT_PROCESS_EXIT (systemd's sd-messages.h)."""

_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}


def death(since_s: float) -> str | None:
    """How the kernel or bluetoothd has died by itself since a time; None if neither has.

    Either is BlueZ's own failure, whatever a program asked of it; no test kills it by such a signal.
    """
    if why := broken():
        return why
    command = ["journalctl", "--output=json", f"--since=@{int(since_s)}", "_PID=1", "UNIT=bluetooth.service"]
    lines = subprocess.run(
        [*command, f"MESSAGE_ID={_UNIT_PROCESS_EXIT}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for entry in map(json.loads, lines):
        is_later = int(entry["__REALTIME_TIMESTAMP"]) / 1e6 >= since_s
        if is_later and entry["EXIT_CODE"] in ("killed", "dumped") and int(entry["EXIT_STATUS"]) in _CRASHES:
            return f"bluetoothd crashed: {signal.Signals(int(entry['EXIT_STATUS'])).name}"
    return None
