"""Devices that were made ahead of time: how they get into a home, and how not."""

import asyncio
import re
from typing import Any

import httpx
import pytest
from unit.cloud.world import StartWorld, World, key_header

from bletoken.sim.cloud.settings import Refusal


def refusal(answer: httpx.Response) -> tuple[int, str]:
    assert answer.json().keys() == {"reason"}
    return answer.status_code, answer.json()["reason"]


@pytest.fixture
async def pool(world: World) -> World:
    """A world whose project makes its devices ahead of time."""
    await world.seed_again(onDemand=False)
    return world


async def test_a_device_is_claimed_from_the_factory_to_the_home(pool: World) -> None:
    device = await pool.made_device(tag="serial-1")
    own_key = key_header(device["apiKey"])
    assert (await pool.client.get("/auth", headers=own_key)).json()["deviceId"] == device["id"]
    assert "homeId" not in (await pool.client.get(f"/devices/{device['id']}", headers=own_key)).json()

    answer = await pool.register(device, claimable=True, duration=300)
    assert answer.status_code == 200
    assert answer.json().keys() == {"claimExpirationTime"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", answer.json()["claimExpirationTime"])
    seen = (await pool.client.get(f"/devices/{device['id']}", headers=own_key)).json()
    assert seen["claimExpirationTime"] == answer.json()["claimExpirationTime"]

    claimed = await pool.claim(device)
    assert claimed.status_code == 201
    assert claimed.json()["id"] == device["id"]
    assert claimed.json()["homeId"] == pool.seed["homeId"]
    assert claimed.json()["tag"] == "serial-1"
    assert claimed.json()["claimTime"]
    # The key is the device's already, and nobody else is to have it; the code has done its work.
    assert not {"apiKey", "claimCode", "claimExpirationTime"} & claimed.json().keys()
    listed = (await pool.client.get("/devices", params={"homeId": pool.seed["homeId"]}, headers=pool.user)).json()
    assert listed == [claimed.json()]


@pytest.mark.parametrize("on", [True, "true", "1", 1, "TRUE"])
@pytest.mark.parametrize("off", [False, "false", "0", 0])
async def test_claim_mode_is_switched_with_json_and_forms_in_every_spelling(pool: World, on: Any, off: Any) -> None:
    device = await pool.made_device()
    own_key = key_header(device["apiKey"])
    for how in ("json", "data"):
        body: Any = {"deviceId": device["id"], "claimable": on, "duration": 60}
        answer = await pool.client.post("/deviceRegistration", headers=own_key, **{how: body})
        assert answer.status_code == 200
        body = {"deviceId": str(device["id"]), "claimable": off}
        answer = await pool.client.post("/deviceRegistration", headers=own_key, **{how: body})
        assert (answer.status_code, answer.json()) == (200, {})
    assert refusal(await pool.claim(device)) == (403, "DEVICE_NOT_CLAIMABLE")


async def test_a_claim_is_taken_as_a_form_too(pool: World) -> None:
    device = await pool.made_device()
    await pool.register(device, claimable=True, duration=60)
    body = {"homeId": str(pool.seed["homeId"]), "claimCode": device["claimCode"]}
    assert (await pool.client.post("/devices", data=body, headers=pool.user)).status_code == 201


async def test_a_device_switches_only_its_own_claim_mode(pool: World) -> None:
    one, other = await pool.made_device(), await pool.made_device()
    body = {"deviceId": other["id"], "claimable": True, "duration": 60}
    for device_id in (other["id"], 99):
        answer = await pool.client.post(
            "/deviceRegistration", json={**body, "deviceId": device_id}, headers=key_header(one["apiKey"])
        )
        assert refusal(answer) == (403, "MATCHING_DEVICE_ONLY")
    answer = await pool.client.post("/deviceRegistration", json=body)
    assert refusal(answer) == (401, "AUTHORIZATION_REQUIRED")
    answer = await pool.client.post("/deviceRegistration", json=body, headers=key_header("wrong"))
    assert refusal(answer) == (401, "UNAUTHENTICATED_CLIENT")
    answer = await pool.client.post("/deviceRegistration", json=body, headers=pool.user)
    assert refusal(answer) == (403, "PERMISSION_DENIED")
    assert refusal(await pool.claim(other)) == (403, "DEVICE_NOT_CLAIMABLE")


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({}, "MISSING_PARAMETERS"),
        ({"claimable": True}, "MISSING_PARAMETERS"),
        ({"duration": 60}, "MISSING_PARAMETERS"),
        ({"claimable": True, "duration": 0}, "INVALID_PARAMETER"),
        ({"claimable": True, "duration": -1}, "INVALID_PARAMETER"),
        ({"claimable": True, "duration": 60.5}, "INVALID_PARAMETER"),
        ({"claimable": True, "duration": "60s"}, "INVALID_PARAMETER"),
        ({"claimable": True, "duration": 86401}, "INVALID_PARAMETER"),
        ({"claimable": True, "duration": 2**64 - 1}, "INVALID_PARAMETER"),
        ({"claimable": "yes", "duration": 60}, "INVALID_PARAMETER"),
        ({"claimable": 2, "duration": 60}, "INVALID_PARAMETER"),
        ({"claimable": [], "duration": 60}, "INVALID_PARAMETER"),
        ({"claimable": True, "duration": 60, "deviceId": "x"}, "INVALID_PARAMETER"),
    ],
)
async def test_a_registration_that_makes_no_sense_is_refused(
    pool: World, parameters: dict[str, Any], reason: str
) -> None:
    device = await pool.made_device()
    assert refusal(await pool.register(device, **parameters)) == (403, reason)
    assert refusal(await pool.claim(device)) == (403, "DEVICE_NOT_CLAIMABLE")


async def test_a_claim_that_cannot_be_says_why(pool: World) -> None:
    device, stranger = await pool.made_device(), await pool.stranger()
    # Never claimable, switched off again, in a home already: each has its reason.
    assert refusal(await pool.claim(device)) == (403, "DEVICE_NOT_CLAIMABLE")
    await pool.register(device, claimable=True, duration=60)
    await pool.register(device, claimable=False)
    assert refusal(await pool.claim(device)) == (403, "DEVICE_NOT_CLAIMABLE")
    await pool.register(device, claimable=True, duration=60)
    assert refusal(await pool.claim({"claimCode": "wrong"})) == (404, "NOT_FOUND")
    body = {"homeId": pool.seed["homeId"], "claimCode": device["claimCode"]}
    post = pool.client.post
    assert refusal(await post("/devices", json=body)) == (401, "AUTHORIZATION_REQUIRED")
    assert refusal(await post("/devices", json=body, headers=key_header("?"))) == (401, "UNAUTHENTICATED_CLIENT")
    answer = await post("/devices", json=body, headers=key_header(device["apiKey"]))
    assert refusal(answer) == (403, "PERMISSION_DENIED")
    assert refusal(await post("/devices", json=body, headers=stranger.user)) == (403, "MEMBERS_ONLY")
    answer = await post("/devices", json={**body, "homeId": 99}, headers=pool.user)
    assert refusal(answer) == (404, "NOT_FOUND")
    answer = await post("/devices", json={"claimCode": device["claimCode"]}, headers=pool.user)
    assert refusal(answer) == (400, "MISSING_PARAMETERS")
    answer = await post("/devices", json={**body, "claimCode": ""}, headers=pool.user)
    assert refusal(answer) == (400, "MISSING_PARAMETERS")
    answer = await post("/devices", json={**body, "claimCode": 5}, headers=pool.user)
    assert refusal(answer) == (400, "INVALID_PARAMETER")

    assert (await pool.claim(device)).status_code == 201
    assert refusal(await pool.claim(device)) == (403, "DEVICE_ALREADY_IN_HOME")
    elsewhere = {"homeId": stranger.seed["homeId"], "claimCode": device["claimCode"]}
    answer = await post("/devices", json=elsewhere, headers=stranger.user)
    assert refusal(answer) == (403, "DEVICE_ALREADY_IN_HOME")
    assert refusal(await pool.register(device, claimable=True, duration=60)) == (403, "DEVICE_ALREADY_IN_HOME")
    assert (await pool.register(device, claimable=False)).status_code == 200


async def test_a_claim_window_ends_at_its_time_and_can_be_opened_again(start_world: StartWorld) -> None:
    now_ns = 1_440_538_777_744_323_372
    world = await start_world(clock=lambda: now_ns)
    await world.seed_again(onDemand=False)
    device = await world.made_device()
    answer = await world.register(device, claimable=True, duration=300)
    assert answer.json() == {"claimExpirationTime": "2015-08-25T21:44:37.744323372Z"}
    now_ns += 300 * 10**9
    assert refusal(await world.claim(device)) == (403, "DEVICE_NOT_CLAIMABLE")
    await world.register(device, claimable=True, duration=300)
    now_ns += 300 * 10**9 - 1
    assert (await world.claim(device)).status_code == 201


async def test_a_real_second_ends_a_claim_window_of_one_second(pool: World) -> None:
    device = await pool.made_device()
    await pool.register(device, claimable=True, duration=1)
    dumped: Any = [{"claimable": True}]
    async with asyncio.timeout(30):
        while dumped[0]["claimable"]:
            dumped = (await pool.client.get("/_sim/devices")).json()
    assert refusal(await pool.claim(device)) == (403, "DEVICE_NOT_CLAIMABLE")


async def test_a_removed_device_can_be_claimed_again_with_the_same_key_and_code(pool: World) -> None:
    device = await pool.made_device()
    path = f"/devices/{device['id']}"
    await pool.register(device, claimable=True, duration=60)
    await pool.claim(device)
    assert (await pool.client.delete(path, headers=pool.user)).status_code == 204
    assert refusal(await pool.client.get(path, headers=pool.user)) == (403, "MEMBERS_ONLY")
    assert (await pool.client.get("/auth", headers=key_header(device["apiKey"]))).json()["type"] == "device"
    assert refusal(await pool.claim(device)) == (403, "DEVICE_NOT_CLAIMABLE")
    await pool.register(device, claimable=True, duration=60)
    assert (await pool.claim(device)).status_code == 201


async def test_nobody_hears_a_device_that_is_in_no_home(pool: World) -> None:
    device = await pool.made_device()
    answer = await pool.client.put(
        f"/devices/{device['id']}/event", json={"eventType": "x"}, headers=key_header(device["apiKey"])
    )
    assert answer.status_code == 204


async def test_what_nobody_knows_of_claiming_is_a_setting(start_world: StartWorld) -> None:
    world = await start_world(
        registration_invalid_status=400,
        claim_longest_s=60,
        claim_off="time",
        claim_status=200,
        claim_code_unknown=Refusal(403, "WRONG"),
        claim_not_possible=Refusal(409, "CLOSED"),
        claim_in_home=Refusal(409, "TAKEN"),
        removed_device_kept=False,
        event_without_home_taken=False,
    )
    await world.seed_again(onDemand=False)
    device = await world.made_device()
    own_key = key_header(device["apiKey"])
    assert refusal(await world.register(device, claimable=True, duration=61)) == (400, "INVALID_PARAMETER")
    assert refusal(await world.claim(device)) == (409, "CLOSED")
    assert (await world.register(device, claimable=False)).json().keys() == {"claimExpirationTime"}
    assert refusal(await world.claim({"claimCode": "?"})) == (403, "WRONG")
    answer = await world.client.put(f"/devices/{device['id']}/event", json={"eventType": "x"}, headers=own_key)
    assert refusal(answer) == (403, "MEMBERS_ONLY")
    await world.register(device, claimable=True, duration=60)
    assert (await world.claim(device)).status_code == 200
    assert refusal(await world.claim(device)) == (409, "TAKEN")
    await world.client.delete(f"/devices/{device['id']}", headers=world.user)
    assert (await world.client.get("/auth", headers=own_key)).json() == {"type": "nobody"}


async def test_switching_claim_mode_off_may_answer_nothing(start_world: StartWorld) -> None:
    world = await start_world(claim_off="nothing")
    await world.seed_again(onDemand=False)
    answer = await world.register(await world.made_device(), claimable=False)
    assert (answer.status_code, answer.content) == (204, b"")


async def test_claiming_can_be_made_to_fail_like_everything_else(pool: World) -> None:
    device = await pool.made_device()
    error = {"error": {"status": 503, "reason": "BUSY"}, "count": 1}
    faults = {"POST /deviceRegistration": error, "POST /devices": {"drop": "after", "count": 1}}
    (await pool.client.put("/_sim/faults", json=faults)).raise_for_status()
    assert refusal(await pool.register(device, claimable=True, duration=60)) == (503, "BUSY")
    await pool.register(device, claimable=True, duration=60)
    with pytest.raises(httpx.RemoteProtocolError):
        await pool.claim(device)
    assert refusal(await pool.claim(device)) == (403, "DEVICE_ALREADY_IN_HOME")


async def test_neither_the_log_nor_anything_printed_holds_a_key_or_claim_code(
    pool: World, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="bletoken")
    caplog.set_level("DEBUG", logger="uvicorn")
    device = await pool.made_device()
    await pool.register(device, claimable=True, duration=60)
    await pool.client.get(f"/devices/1?authToken={device['apiKey']}&claimCode={device['claimCode']}")
    async with pool.commands(device):
        await pool.claim(device)
    said = f"{(await pool.client.get('/_sim/requests')).text}{caplog.text}{capfd.readouterr()}"
    said += repr(pool.server.store.devices())
    for secret in (device["apiKey"], device["claimCode"], pool.seed["userKey"]):
        assert secret not in said
