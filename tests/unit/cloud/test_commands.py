"""Commands to a device over its socket, and what MODE knows of its connections."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from unit.cloud.world import StartWorld, World, key_header, until
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bletoken.sim.cloud import command_api
from bletoken.sim.cloud.commands import CommandHub
from bletoken.sim.cloud.settings import Refusal


async def send(world: World, device: dict[str, Any], **command: object) -> httpx.Response:
    return await world.client.put(f"/devices/{device['id']}/command", json=command, headers=world.user)


async def seen(world: World, device: dict[str, Any]) -> dict[str, Any]:
    answer = await world.client.get(f"/devices/{device['id']}", headers=world.user)
    seen = answer.raise_for_status().json()
    assert isinstance(seen, dict)
    return seen


async def test_a_command_reaches_every_socket_of_its_device_and_no_other(world: World) -> None:
    device, other = await world.device(), await world.device()
    by_query = f"{world.command_url(device)}?authToken={device['apiKey']}"
    async with (
        world.commands(device) as one,
        connect(by_query, proxy=None) as two,
        world.commands(other) as elsewhere,
    ):
        assert (await send(world, device, action="blink", parameters={"n": [1, "ü"]})).status_code == 204
        assert (await send(world, other, action="rest")).status_code == 204
        for socket in (one, two):
            assert json.loads(await socket.recv()) == {"action": "blink", "parameters": {"n": [1, "ü"]}}
        # What the other device hears first is its own.
        assert json.loads(await elsewhere.recv()) == {"action": "rest", "parameters": {}}


async def test_a_command_may_be_a_form(world: World) -> None:
    device = await world.device()
    async with world.commands(device) as socket:
        body = {"action": "blink", "parameters": '{"n":1}'}
        answer = await world.client.put(f"/devices/{device['id']}/command", data=body, headers=world.user)
        assert answer.status_code == 204
        assert json.loads(await socket.recv()) == {"action": "blink", "parameters": {"n": 1}}


async def test_a_command_to_a_device_that_is_not_connected_is_refused(world: World) -> None:
    device = await world.device()
    answer = await send(world, device, action="blink")
    assert (answer.status_code, answer.json()) == (409, {"reason": "DEVICE_OFFLINE"})
    for command in ({}, {"action": ""}, {"action": 1}, {"action": "x", "parameters": []}):
        assert (await send(world, device, **command)).status_code == 400


async def test_only_members_command_and_only_the_device_listens(world: World) -> None:
    device, stranger = await world.device(), await world.stranger()
    path, body = f"/devices/{device['id']}/command", {"action": "x"}
    for headers, status in [({}, 401), (stranger.user, 403), (key_header(device["apiKey"]), 403), (world.project, 403)]:
        assert (await world.client.put(path, json=body, headers=headers)).status_code == status
    other = await world.device()
    for headers, status in [({}, 401), (key_header("?"), 401), (world.user, 403), (key_header(other["apiKey"]), 403)]:
        with pytest.raises(InvalidStatus) as caught:
            await connect(world.command_url(device), additional_headers=headers, proxy=None)
        assert caught.value.response.status_code == status


async def test_mode_knows_when_a_device_is_connected_and_tells_its_home(world: World) -> None:
    device = await world.device()
    assert (await seen(world, device))["isConnected"] is False
    assert "lastConnectTime" not in await seen(world, device)
    async with world.events() as app:
        async with world.commands(device):
            event = json.loads(await app.recv())
            assert event.pop("timestamp").endswith("Z")
            assert event == {
                "homeId": world.seed["homeId"],
                "eventType": "_deviceConnected_",
                "eventData": {},
                "originDeviceId": device["id"],
            }
            now = await seen(world, device)
            assert now["isConnected"] is True
            assert "lastDisconnectTime" not in now
            # A second socket is nothing new.
            async with world.commands(device):
                pass
        assert json.loads(await app.recv())["eventType"] == "_deviceDisconnected_"
        now = await seen(world, device)
        assert now["isConnected"] is False
        assert now["lastConnectTime"] <= now["lastDisconnectTime"]


async def test_every_socket_may_make_its_events(start_world: StartWorld) -> None:
    world = await start_world(connection_events_of_each=True)
    device = await world.device()
    async with world.events() as app:
        async with world.commands(device), world.commands(device):
            pass
        heard = [json.loads(await app.recv())["eventType"] for _ in range(4)]
    assert heard == ["_deviceConnected_"] * 2 + ["_deviceDisconnected_"] * 2


async def test_a_device_may_have_five_sockets_and_no_more(world: World, start_world: StartWorld) -> None:
    device = await world.device()
    async with (
        world.commands(device),
        world.commands(device),
        world.commands(device),
        world.commands(device),
        world.commands(device) as last,
    ):
        with pytest.raises(InvalidStatus) as caught:
            await world.commands(device)
        assert caught.value.response.status_code == 429
        await last.close()

        async def one_less() -> bool:
            return world.server.store.devices()[0].disconnect_ns is not None

        await until(one_less)
        async with world.commands(device):
            pass
    strict = await start_world(connections_of_device=0, connections_refused=Refusal(503, "FULL"))
    with pytest.raises(InvalidStatus) as caught:
        await strict.commands(await strict.device())
    assert caught.value.response.status_code == 503


async def test_the_sockets_of_a_removed_device_close(world: World) -> None:
    await world.seed_again(onDemand=False)
    kept = await world.made_device()
    await world.register(kept, claimable=True, duration=60)
    await world.claim(kept)
    await world.seed_again(onDemand=True)
    gone = await world.device()
    for device in (kept, gone):
        async with world.commands(device) as one, world.commands(device) as two:
            path = f"/devices/{device['id']}"
            assert (await world.client.delete(path, headers=world.user)).status_code == 204
            for socket in (one, two):
                with pytest.raises(ConnectionClosed):
                    await socket.recv()
    # One made ahead of time still has its key, and may come back.
    async with world.commands(kept):
        pass
    with pytest.raises(InvalidStatus):
        await world.commands(gone)


async def test_a_socket_closes_too_when_another_process_takes_its_device_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_api, "CHECK_S", 0.01)
    device = await world.device()
    async with world.commands(device) as socket:
        # As `bletoken-sim cloud device remove` does it: the running server hears nothing.
        world.server.store.delete_device(device["id"])
        with pytest.raises(ConnectionClosed):
            await socket.recv()


async def test_a_slow_device_loses_commands_and_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bletoken.sim.cloud.commands.BACKLOG", 2)
    hub = CommandHub()
    with hub.connected(1) as inbox:
        assert [hub.send(1, str(n)) for n in range(4)] == [True] * 4
        assert [inbox.get_nowait(), inbox.get_nowait()] == ["0", "1"]
        hub.send(1, "late")
        hub.disconnect(1)
        assert inbox.get_nowait() is None
    assert hub.send(1, "x") is False
    assert hub.sockets(1) == 0


async def test_a_command_socket_can_be_made_to_fail(world: World) -> None:
    device = await world.device()
    wait = "GET /devices/{id}/command"
    faults = {wait: [{"error": {"status": 503}, "count": 1}], "PUT /devices/{id}/command": {"drop": "before"}}
    (await world.client.put("/_sim/faults", json=faults)).raise_for_status()
    with pytest.raises(InvalidStatus):
        await world.commands(device)
    async with world.commands(device):
        with pytest.raises(httpx.RemoteProtocolError):
            await send(world, device, action="x")
    (await world.client.put("/_sim/faults", json={wait: {"drop": "after"}})).raise_for_status()
    async with world.commands(device) as cut:
        with pytest.raises(ConnectionClosed):
            await cut.recv()
    async with asyncio.timeout(30):
        while (await seen(world, device))["isConnected"]:
            pass
    assert [request.status for request in world.server.log.requests(wait)] == [503, 101, 101]
