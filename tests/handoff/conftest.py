from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from handoff.bench import Bench, Ends, InProcess, OnRig, Processes, Programs, open_bench

from bletoken_peripheral import onboarding

BENCHES: dict[str, tuple[Programs, Ends]] = {
    "in-process": (InProcess(), Ends()),
    "processes": (Processes(), Ends()),
    # In one process as well: a program takes many seconds to start in an emulated machine.
    "bluez": (InProcess(), Ends(device=True, companion=True)),
    "bluez-peripheral": (InProcess(), Ends(device=True)),
    "bluez-companion": (InProcess(), Ends(companion=True)),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        mark = item.get_closest_marker("essential_on")
        if mark and item.callspec.params["bench"] in mark.args:  # type: ignore[attr-defined]
            item.add_marker(pytest.mark.essential)


@pytest.fixture(
    params=[
        *(
            pytest.param(name, marks=[pytest.mark.bluez] if ends != Ends() else [])
            for name, (_, ends) in BENCHES.items()
        ),
        pytest.param("hardware", marks=pytest.mark.hardware),
    ]
)
async def bench(request: pytest.FixtureRequest, tmp_path: Path, records: Path) -> AsyncIterator[Bench]:
    """A bench: both sides in the test's process, each in its own, BlueZ at either end, and hardware.

    `@pytest.mark.bench(...)` gives it settings of the local MODE, and `link=` a link model.
    """
    mark = request.node.get_closest_marker("bench")
    options: dict[str, Any] = mark.kwargs if mark else {}
    if request.param == "hardware":
        rig = request.getfixturevalue("rig")
        async with open_bench(OnRig(rig), tmp_path, rig=rig, **options) as opened:
            yield opened
        return
    programs, ends = BENCHES[request.param]
    if ends != Ends():
        options |= {"daemon": request.getfixturevalue("bluetoothd")}
    async with open_bench(programs, tmp_path, ends=ends, btsnoop=records / "air.btsnoop", **options) as opened:
        yield opened


class Clock:
    """The device's boot clock, in the test's hands; for devices in the test's own process."""

    def __init__(self, boot_clock: Callable[[], float]) -> None:
        self._boot_clock = boot_clock
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return self._boot_clock() + self.ahead_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock(onboarding._now)
    monkeypatch.setattr(onboarding, "_now", made)
    monkeypatch.setattr(onboarding, "LONGEST_NAP_S", 0.02)
    return made
