from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from handoff.bench import Bench, InProcess, Processes, Programs, open_bench

from bletoken_peripheral import onboarding

PROGRAMS: dict[str, Programs] = {"in-process": InProcess(), "processes": Processes()}


@pytest.fixture(params=list(PROGRAMS))
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """A bench, once with both sides in the test's process and once with each in its own.

    `@pytest.mark.bench(...)` gives it settings of the local MODE, and `link=` a link model.
    """
    mark = request.node.get_closest_marker("bench")
    options: dict[str, Any] = mark.kwargs if mark else {}
    async with open_bench(PROGRAMS[request.param], tmp_path, **options) as opened:
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
    monkeypatch.setattr(onboarding, "_LONGEST_NAP_S", 0.02)
    return made
