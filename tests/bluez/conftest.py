from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from bluez import bus, stack
from handoff.bench import Bench, Ends, Processes, open_bench

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.bluez)
            if not item.get_closest_marker("thorough"):
                item.add_marker(pytest.mark.essential)


@pytest.fixture
async def bluez(bluetoothd: stack.Daemon) -> AsyncIterator[bus.BlueZ]:
    """BlueZ, over D-Bus."""
    async with bus.BlueZ.open(bluetoothd) as opened:
        yield opened


@pytest.fixture
async def programs_bench(bluetoothd: stack.Daemon, tmp_path: Path, records: Path) -> AsyncIterator[Bench]:
    """A bench with the programs that people run, each on an adapter of BlueZ."""
    ends = Ends(device=True, companion=True)
    async with open_bench(
        Processes(), tmp_path, ends=ends, daemon=bluetoothd, btsnoop=records / "air.btsnoop"
    ) as opened:
        yield opened
