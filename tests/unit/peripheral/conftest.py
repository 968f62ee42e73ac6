import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator

import pytest
from unit.peripheral.fake_bluez import FakeBlueZ


@pytest.fixture(scope="session")
def private_bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a bus that nobody else is on."""
    if shutil.which("dbus-daemon") is None:
        pytest.skip("there is no dbus-daemon here (on Debian and Ubuntu: apt-get install dbus)")
    folder = tmp_path_factory.mktemp("bus")
    command = ["dbus-daemon", "--session", "--nofork", "--print-address=1", f"--address=unix:path={folder}/socket"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        yield daemon.stdout.readline().strip()
        daemon.terminate()


@pytest.fixture
async def bluez(private_bus: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeBlueZ]:
    """A BlueZ that runs, with one adapter, which is switched on."""
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", private_bus)
    fake = FakeBlueZ(private_bus)
    # An address of its own: an adapter is claimed for the whole machine, and tests run side by side.
    fake.plug(address=":".join(f"{octet:02X}" for octet in secrets.token_bytes(6)))
    await fake.start()
    yield fake
    await fake.stop()
