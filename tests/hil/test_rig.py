"""How the hardware is named, and what goes to a device over ssh; here a shell in the place of the other machine."""

import asyncio
import os
import signal
import stat
import sys
from pathlib import Path

import pytest
from handoff.bench import OnRig, command, open_bench
from hil.rig import Rig

from bletoken_peripheral.redemption import Phase

DEVICE, COMPANION = "AA:BB:CC:DD:EE:01", "AA:BB:CC:DD:EE:02"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"device_adapter": "hci0"}, "--device-adapter is 'hci0' and no address such as"),
        ({"companion_adapter": "AA:BB:CC:DD:EE"}, "--companion-adapter is"),
        ({"companion_adapter": DEVICE.lower()}, "an adapter each"),
        ({"device_host": "-oProxyCommand=x"}, "--device-host is"),
        ({"device_host": "pi host"}, "--device-host is"),
    ],
)
def test_hardware_that_is_named_wrong_is_refused(options: dict[str, str], complaint: str) -> None:
    with pytest.raises(pytest.UsageError, match=complaint):
        Rig(**{"device_adapter": DEVICE, "companion_adapter": COMPANION, **options})


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--device-adapter", DEVICE], "there must be --companion-adapter"),
        (["--device-host", "pi"], "there must be --companion-adapter and --device-adapter"),
        (["--power-cycle-command", "true"], "there must be"),
        (
            ["--device-adapter", DEVICE, "--companion-adapter", COMPANION, "--device-program", "x"],
            "needs --device-host",
        ),
        (["--device-adapter", DEVICE, "--companion-adapter", COMPANION, "--power-cycle-command", ""], "is empty"),
    ],
)
def test_options_that_do_not_belong_together_are_refused(options: list[str], complaint: str) -> None:
    with pytest.raises(pytest.UsageError, match=complaint):
        Rig.of(dict(zip(options[::2], options[1::2], strict=True)))


def test_hardware_is_named_by_options() -> None:
    given = {"--device-adapter": DEVICE.lower(), "--companion-adapter": COMPANION, "--device-host": "me@pi.local"}
    assert Rig.of(given) == Rig(DEVICE.lower(), COMPANION, "me@pi.local")


# Over ssh -----------------------------------------------------------------------------------------------------------

SSH = """#!/bin/sh
# Takes the options that it is given, and runs the command as sshd would, by a login shell. What is HERE on this machine
# is THERE on the other.
while [ "$1" != -- ]; do shift; done
exec sh -c "$(printf %s "$2" | sed 's#HERE#THERE#g')"
"""

PROGRAM = """#!/bin/sh
trap 'echo asked to end; exit 0' TERM
echo "$@"
while :; do sleep 0.1; done
"""


def make_ssh(folder: Path, here: str, there: str) -> None:
    """Put the stand-in for ssh into a folder."""
    make_program(folder / "ssh", SSH.replace("THERE", there).replace("HERE", here))


def make_program(file: Path, content: str) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    file.chmod(0o755)
    return str(file)


def killing(pattern: str) -> str:
    """A command that kills all programs whose command line is like this, without a farewell."""
    return f"""
      for process in /proc/[0-9]*; do
        if tr '\\0' ' ' < $process/cmdline | grep -q '{pattern}'; then kill -KILL ${{process#/proc/}}; fi
      done 2> /dev/null
      true
    """


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of this machine; on the other one it is elsewhere."""
    make_ssh(tmp_path / "bin", f"{tmp_path}/here", f"{tmp_path}/there")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


@pytest.fixture
def rig(tmp_path: Path, here: Path) -> Rig:
    return Rig(DEVICE, COMPANION, "pi", make_program(tmp_path / "bin" / "program", PROGRAM))


@pytest.mark.parametrize(("asked", "status", "says"), [(b"TERM\n", 0, b"asked to end\n"), (b"KILL\n", 137, b"")])
async def test_a_program_over_ssh_ends_as_it_is_told(rig: Rig, asked: bytes, status: int, says: bytes) -> None:
    process = await asyncio.create_subprocess_exec(
        *rig.program(8080, "run", "a path"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    async with asyncio.timeout(30):
        assert await process.stdout.readline() == b"run a path\n"
        process.stdin.write(asked)
        assert await process.wait() == status
        assert await process.stdout.read() == says


async def test_a_program_over_ssh_does_not_outlive_the_connection(rig: Rig) -> None:
    process = await asyncio.create_subprocess_exec(
        *rig.program(8080, "run"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    async with asyncio.timeout(30):
        await process.stdout.readline()
        process.stdin.close()
        assert await process.wait() == 128 + signal.SIGKILL


def test_a_folder_is_there_what_it_is_here_and_back(rig: Rig, here: Path) -> None:
    folder, other = here / "a device", here.parent / "there" / "a device"
    (folder / "state").mkdir(parents=True, mode=0o700)
    secret = folder / "state" / "journal.json"
    secret.write_text("{}")
    secret.chmod(0o600)
    rig.give(folder)
    (folder / "only here").touch()
    (other / "state" / "journal.json").write_text("[]")
    (other / "only there").touch()
    rig.fetch(folder)
    assert secret.read_text() == "[]"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(secret.parent.stat().st_mode) == 0o700
    assert sorted(path.name for path in folder.iterdir()) == ["only there", "state"]
    rig.give(folder)
    assert sorted(path.name for path in other.iterdir()) == ["only there", "state"]


@pytest.mark.parametrize("has_power_cycle", [False, True])
async def test_a_device_over_ssh_is_killed_and_its_state_seen(here: Path, has_power_cycle: bool) -> None:
    program = str(Path(sys.executable).parent / "bletoken-peripheral")
    power_cycle = killing(f"run --json --config {here.parent}/[t]here/") if has_power_cycle else ""
    rig = Rig(DEVICE, COMPANION, "pi", program, power_cycle)
    # On the virtual air, as there is no adapter.
    async with open_bench(OnRig(rig), here) as bench:
        device = bench.device()
        await device.start()
        outcome = await bench.push(device.label.qr, await bench.token())
        assert outcome.exit_code == 0, outcome
        await device.saw("provisioned")
        assert device.journal is not None
        assert device.journal.phase is Phase.ANNOUNCED
        await device.kill()
        assert device.credentials is not None
        assert device.credentials.device_id == outcome.device_id
        device.folder.erase_onboarding()
        await device.start()
        assert device.credentials is None
        assert (await command(device, "status"))[1]["phase"] is None
        await device.stop()


async def test_a_power_cycle_that_fails_is_told() -> None:
    await Rig(DEVICE, COMPANION, power_cycle="true").cut_power()
    with pytest.raises(AssertionError, match="'exit 3' ended with 3"):
        await Rig(DEVICE, COMPANION, power_cycle="exit 3").cut_power()
