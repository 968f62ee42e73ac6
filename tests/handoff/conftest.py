from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from handoff.bench import Bench, InProcess, Processes, Programs, open_bench

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
