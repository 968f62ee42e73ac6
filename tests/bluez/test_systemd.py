"""The shipped units, installed from the wheel under systemd as the page for device images says, over real BlueZ."""

import asyncio
import json
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from bluez import stack
from handoff.bench import Bench, Ends, InProcess, open_bench
from package import environments

from bletoken.mode.user_api import UserApi
from bletoken.protocol.setup_code import SetupCode, parse_setup_code

HOME = Path("/opt/bletoken")
LIBRARIES = Path("/opt/bletoken-libraries")
SHARE = HOME / "share/bletoken/systemd"
UNITS = Path("/run/systemd/system")
SLOW = UNITS / "bletoken-peripheral.service.d" / "slow.conf"
STATE = Path("/var/lib/bletoken")
NAMES = ("bletoken-peripheral.service", "bletoken-consumer.service", "bletoken-consumer.path")


def run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The wheel and its libraries in an environment of the system's own Python, the user, and the units."""
    python = shutil.which("python3", path="/usr/bin")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if python is None or version not in run(python, "--version"):
        pytest.skip(f"the units take the system's own Python, and /usr/bin/python3 is not {version}")
    assert not HOME.exists(), f"{HOME} is there already"
    wheel = os.environ.get("BLETOKEN_BUILT_WHEEL") or environments.build(tmp_path_factory.mktemp("wheel"))[0].path
    run(python, "-m", "venv", "--without-pip", HOME)
    # The libraries are those that the tests run with; mounted, as root's home is out of a unit's reach.
    LIBRARIES.mkdir()
    run("mount", "--bind", sysconfig.get_path("purelib"), LIBRARIES)
    (HOME / f"lib/python{version}/site-packages/libraries.pth").write_text(f"{LIBRARIES}\n")
    # As pip does it, in a tenth of pip's time in an emulated machine.
    run(HOME / "bin/python", "-m", "installer", "--no-compile-bytecode", wheel)
    users = Path("/etc/sysusers.d/bletoken.conf")
    users.parent.mkdir(exist_ok=True)
    shutil.copyfile(SHARE / "bletoken.sysusers", users)
    run("systemd-sysusers", users)
    for name in NAMES:
        shutil.copyfile(SHARE / name, UNITS / name)
    # Python takes many seconds to start in an emulated machine, and systemd waits for 90 unless it is told.
    SLOW.parent.mkdir()
    SLOW.write_text("[Service]\nTimeoutStartSec=600\n")
    stack.systemctl("daemon-reload")
    yield
    stack.systemctl("stop", *NAMES)
    for name in NAMES:
        (UNITS / name).unlink()
    shutil.rmtree(SLOW.parent)
    stack.systemctl("daemon-reload")
    run("umount", LIBRARIES)
    LIBRARIES.rmdir()
    shutil.rmtree(HOME)
    shutil.rmtree(STATE, ignore_errors=True)


@pytest.fixture
async def bench(bluetoothd: stack.Daemon, tmp_path: Path, records: Path) -> AsyncIterator[Bench]:
    """BlueZ for the device, which systemd runs; the companion is in the test's process, on the virtual radio."""
    options = {"daemon": bluetoothd, "btsnoop": records / "air.btsnoop"}
    async with open_bench(InProcess(), tmp_path, ends=Ends(device=True), **options) as opened:  # type: ignore[arg-type]
        yield opened


def configure(bench: Bench) -> None:
    path = Path("/etc/bletoken/peripheral.toml")
    path.parent.mkdir(exist_ok=True)
    settings = {"device_class": bench.seed["deviceClass"], "mode_url": bench.mode.url, "radio": bench.device_radio}
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
    path.chmod(0o644)


def setup_code() -> SetupCode:
    told = run("runuser", "-u", "bletoken", "--", HOME / "bin/bletoken-peripheral", "label", "--json")
    return parse_setup_code(json.loads(told)["qr"])


def shown(unit: str, *names: str) -> dict[str, str]:
    """Properties of a unit."""
    lines = stack.systemctl("show", unit, *(f"--property={name}" for name in names)).splitlines()
    return dict(line.split("=", 1) for line in lines)


async def test_the_unit_completes_a_handoff_under_its_own_user_and_the_consumer_gets_the_key(
    bench: Bench, installed: None
) -> None:
    configure(bench)
    await asyncio.to_thread(stack.systemctl, "start", "bletoken-consumer.path", "bletoken-peripheral.service")
    # It said that it is ready, and gave a first sign of life.
    properties = shown("bletoken-peripheral", "ActiveState", "Type", "MainPID", "WatchdogTimestampMonotonic")
    assert (properties["ActiveState"], properties["Type"]) == ("active", "notify")
    assert int(properties["WatchdogTimestampMonotonic"]) > 0
    own = pwd.getpwnam("bletoken")
    assert Path(f"/proc/{properties['MainPID']}").stat().st_uid == own.pw_uid != 0
    assert shown("bletoken-consumer.service", "ActiveState")["ActiveState"] == "inactive"

    async with UserApi(bench.mode.url, bench.seed["userKey"]) as user, user.events() as events:
        outcome = await bench.provision(setup_code())
        assert outcome.exit_code == 0, outcome
        async with asyncio.timeout(120):
            async for event in events:
                if event.event_type == "started":
                    break
        assert event.origin_device_id == outcome.device_id

    file = STATE / "credentials.json"
    assert (file.stat().st_uid, stat.S_IMODE(file.stat().st_mode)) == (own.pw_uid, 0o600)
    assert (STATE.stat().st_uid, stat.S_IMODE(STATE.stat().st_mode)) == (own.pw_uid, 0o700)
    consumer = shown("bletoken-consumer.service", "ActiveState", "MainPID")
    assert consumer["ActiveState"] == "active"
    assert Path(f"/proc/{consumer['MainPID']}").stat().st_uid not in (0, own.pw_uid)
    said = run("journalctl", "--quiet", "--output=cat", "--unit=bletoken-peripheral", "--unit=bletoken-consumer")
    assert json.loads(file.read_bytes())["api_key"] not in said

    # Ended by systemd it ends well.
    await asyncio.to_thread(stack.systemctl, "stop", "bletoken-peripheral.service")
    assert shown("bletoken-peripheral", "Result", "ExecMainStatus") == {"Result": "success", "ExecMainStatus": "0"}


def test_systemd_has_nothing_against_the_units_and_finds_them_well_protected(installed: None) -> None:
    assert run("systemd-analyze", "verify", *(UNITS / name for name in NAMES)) == ""
    for name in NAMES[:2]:
        told = run("systemd-analyze", "security", "--offline=true", UNITS / name)
        exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", told)
        assert exposure, told
        assert float(exposure[1]) <= 2.0
