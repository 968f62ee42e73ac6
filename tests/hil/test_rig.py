"""How the hardware is named, and what goes to a device over ssh; here a shell in the place of the other machine."""

import asyncio
import signal
import stat
from pathlib import Path

import pytest
from hil.rig import Rig

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
# Takes the options that it is given, and runs the command as sshd would, by a login shell.
while [ "$1" != -- ]; do shift; done
exec sh -c "$2"
"""

PROGRAM = """#!/bin/sh
trap 'echo asked to end; exit 0' TERM
echo "$@"
while :; do sleep 0.1; done
"""


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    for name, content in (("ssh", SSH), ("program", PROGRAM)):
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    return Rig(DEVICE, COMPANION, "pi", str(tmp_path / "bin" / "program"))


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


async def test_a_program_over_ssh_does_not_outlive_the_connection(rig: Rig, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *rig.program(8080, "run"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    async with asyncio.timeout(30):
        await process.stdout.readline()
        process.stdin.close()
        assert await process.wait() == 128 + signal.SIGKILL


def test_a_folder_is_there_what_it_is_here_and_back(rig: Rig, tmp_path: Path) -> None:
    # The other machine is this one, so that both have the folder at the same place: what is added counts.
    folder = tmp_path / "a device"
    (folder / "state").mkdir(parents=True, mode=0o700)
    secret = folder / "state" / "journal.json"
    secret.write_text("{}")
    secret.chmod(0o600)
    rig.fetch(folder)
    assert secret.read_text() == "{}"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(secret.parent.stat().st_mode) == 0o700


async def test_a_power_cycle_that_fails_is_told() -> None:
    await Rig(DEVICE, COMPANION, power_cycle="true").cut_power()
    with pytest.raises(AssertionError, match="'exit 3' ended with 3"):
        await Rig(DEVICE, COMPANION, power_cycle="exit 3").cut_power()
