from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from unit.cloud.world import StartWorld, World

from bletoken.sim.cloud.server import serve
from bletoken.sim.cloud.settings import Settings


@pytest.fixture
async def start_world() -> AsyncIterator[StartWorld]:
    """Starts a local MODE with these settings (and a `clock`), which ends with the test."""
    async with AsyncExitStack() as stack:

        async def start(**options: object) -> World:
            values: dict[str, Any] = dict(options)
            others = {"clock": values.pop("clock")} if "clock" in values else {}
            server = await stack.enter_async_context(serve(Settings(**values), **others))
            client = await stack.enter_async_context(httpx.AsyncClient(base_url=server.url, trust_env=False))
            seed = (await client.post("/_sim/seed")).raise_for_status().json()
            return World(server, client, seed)

        yield start


@pytest.fixture
async def world(start_world: StartWorld) -> World:
    return await start_world()
