"""A hub and a server in the test's own event loop, and the check that nothing is left over."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from unit.air.station import Air, Recorder, server_on

from bletoken.sim.air import bless_server
from bletoken.sim.air.hub import Hub
from bletoken.sim.air.link import LinkModel


@pytest.fixture(autouse=True)
def _advertise_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bless_server, "_ADVERTISING_INTERVAL_MS", 20.0)


@pytest.fixture
def model() -> LinkModel:
    """How the air behaves in the test; without an interval things go as fast as the machine can."""
    return LinkModel(connection_interval_s=0, supervision_timeout_s=0.1)


@pytest.fixture
async def hub(tmp_path: Path, model: LinkModel) -> AsyncIterator[Hub]:
    async with Hub.open(f"unix:{tmp_path}/air.sock", model=model) as hub:
        yield hub
        async with asyncio.timeout(5):
            while hub.ports:  # Every scanner, client and server gives its radio back.
                await asyncio.sleep(0.001)
    # What was abandoned takes a few turns of the loop to end.
    with suppress(TimeoutError):
        async with asyncio.timeout(5):
            while asyncio.all_tasks() != {asyncio.current_task()}:
                await asyncio.sleep(0.001)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.fixture
async def air(hub: Hub) -> AsyncIterator[Air]:
    peers = Recorder()
    async with server_on(hub.radio, peers=peers) as server:
        yield Air(hub, server, peers)
