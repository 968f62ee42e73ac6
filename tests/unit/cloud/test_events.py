import json
from typing import Any

import pytest
from unit.cloud.world import World, key_header
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus


async def test_members_hear_their_home_s_events_and_strangers_do_not(world: World) -> None:
    device, stranger = await world.device(), await world.stranger()
    path, own_key = f"/devices/{device['id']}/event", key_header(device["apiKey"])
    by_query = f"{world.socket_url}?authToken={world.seed['userKey']}"
    async with (
        connect(world.socket_url, additional_headers=world.user, proxy=None) as member,
        connect(by_query, proxy=None) as same_member,
        connect(world.socket_url, additional_headers=stranger.user, proxy=None) as other,
    ):
        body = {"eventType": "provisioned", "eventData": {"n": [1, "ü"]}}
        assert (await world.client.put(path, json=body, headers=own_key)).status_code == 204
        for socket in (member, same_member):
            event = json.loads(await socket.recv())
            assert event.pop("timestamp").endswith("Z")
            assert event == {**body, "homeId": world.seed["homeId"], "originDeviceId": device["id"]}

        # What the stranger hears first is the stranger's own.
        own = await stranger.device()
        await world.client.put(
            f"/devices/{own['id']}/event", json={"eventType": "mine"}, headers=key_header(own["apiKey"])
        )
        event = json.loads(await other.recv())
        assert (event["eventType"], event["eventData"]) == ("mine", {})


async def test_a_socket_needs_a_user_s_key(world: World) -> None:
    device = await world.device()
    for headers, status in [({}, 401), (key_header("wrong"), 401), (key_header(device["apiKey"]), 403)]:
        with pytest.raises(InvalidStatus) as caught:
            async with connect(world.socket_url, additional_headers=headers, proxy=None):
                pass
        assert caught.value.response.status_code == status
        assert b"reason" in (caught.value.response.body or b"")


async def test_what_the_client_says_is_ignored(world: World) -> None:
    device = await world.device()
    async with connect(world.socket_url, additional_headers=world.user, proxy=None) as socket:
        await socket.send("hello")
        await socket.send(b"\xff")
        await world.client.put(
            f"/devices/{device['id']}/event", json={"eventType": "x"}, headers=key_header(device["apiKey"])
        )
        assert json.loads(await socket.recv())["eventType"] == "x"


@pytest.mark.parametrize("body", [{}, {"eventType": ""}, {"eventType": 1}, {"eventType": "x", "eventData": []}])
async def test_an_event_needs_a_type_and_an_object(world: World, body: dict[str, Any]) -> None:
    device = await world.device()
    answer = await world.client.put(f"/devices/{device['id']}/event", json=body, headers=key_header(device["apiKey"]))
    assert answer.status_code == 400


async def test_a_socket_that_does_not_exist_is_a_404_in_mode_s_form(world: World) -> None:
    with pytest.raises(InvalidStatus) as caught:
        await connect(f"{world.socket_url}/nowhere", additional_headers=world.user, proxy=None)
    assert (caught.value.response.status_code, caught.value.response.body) == (404, b'{"reason":"NOT_FOUND"}')
