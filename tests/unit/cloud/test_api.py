import asyncio
import json
import re
from email.utils import parsedate_to_datetime

import httpx
import pytest
from unit.cloud.world import StartWorld, World, key_header

from bletoken.sim.cloud.settings import Refusal


def refusal(answer: httpx.Response) -> tuple[int, str]:
    assert answer.json().keys() == {"reason"}
    return answer.status_code, answer.json()["reason"]


async def test_a_device_is_provisioned_on_demand_from_sign_in_to_event(world: World) -> None:
    client, seed = world.client, world.seed
    login = {k: seed[k] for k in ("projectId", "appId", "email", "password")}
    signed_in = (await client.post("/auth/user", data=login)).raise_for_status().json()
    assert signed_in.keys() == {"token", "userId", "expirationTime"}
    user = key_header(signed_in["token"])

    (home,) = (await client.get("/homes", params={"userId": signed_in["userId"]}, headers=user)).json()
    assert home.keys() == {"id", "projectId", "creationTime", "name", "deactivated"}
    assert (await client.get(f"/homes/{home['id']}", headers=user)).json() == home

    issued = await client.post(
        f"/homes/{home['id']}/deviceProvisioning",
        json={"deviceClass": seed["deviceClass"], "deviceTag": "porch"},
        headers=user,
    )
    assert issued.status_code == 200
    assert issued.json().keys() == {"token", "expirationTime"}
    assert (await client.get("/devices", params={"homeId": home["id"]}, headers=user)).json() == []

    made = await client.post("/devices", json={"token": issued.json()["token"]})
    assert made.status_code == 201
    device = made.json()
    own_key = key_header(device.pop("apiKey"))
    assert (device["tag"], device["homeId"], device["deviceClass"]) == ("porch", home["id"], seed["deviceClass"])

    identity = await client.get("/auth", headers=own_key)
    assert identity.json() == {"deviceId": device["id"], "projectId": seed["projectId"], "type": "device"}
    event = await client.put(f"/devices/{device['id']}/event", json={"eventType": "provisioned"}, headers=own_key)
    assert (event.status_code, event.content) == (204, b"")

    # The key was given out once and never again.
    assert (await client.get("/devices", params={"homeId": home["id"]}, headers=user)).json() == [device]
    assert (await client.get(f"/devices/{device['id']}", headers=user)).json() == device
    assert (await client.get(f"/devices/{device['id']}", headers=own_key)).json() == device


async def test_every_call_takes_forms_and_json_alike(world: World) -> None:
    client, seed = world.client, world.seed
    login = {k: seed[k] for k in ("projectId", "appId", "email", "password")}
    assert (await client.post("/auth/user", json=login)).status_code == 200
    assert (await client.post("/auth/user", json={**login, "projectId": str(login["projectId"])})).status_code == 200
    issued = await client.post(
        world.provisioning_path, data={"deviceClass": seed["deviceClass"], "deviceTag": "ü&="}, headers=world.user
    )
    made = await client.post("/devices", data={"token": issued.json()["token"]})
    device = made.json()
    assert device["tag"] == "ü&="
    path, own_key = f"/devices/{device['id']}", key_header(device["apiKey"])
    assert (await client.patch(path, data={"name": "Lamp"}, headers=world.user)).status_code == 204
    event = {"eventType": "x", "eventData": '{"a":1}'}
    assert (await client.put(f"{path}/event", data=event, headers=own_key)).status_code == 204


@pytest.mark.parametrize("content", [b'{"token":"T"}', b"token=T"])
async def test_a_body_without_a_content_type_is_recognised(world: World, content: bytes) -> None:
    token = await world.token()
    answer = await world.client.post("/devices", content=content.replace(b"T", token.encode(), 1))
    assert answer.status_code == 201


async def test_answers_carry_mode_s_headers(world: World) -> None:
    for answer in [await world.client.get("/auth"), await world.client.get("/nowhere")]:
        assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Access-Control-Allow-Credentials"] == "false"
        assert answer.headers["Access-Control-Expose-Headers"] == "X-Xsrf-Guard"
        assert parsedate_to_datetime(answer.headers["Date"]).year > 2000
        assert "Server" not in answer.headers


async def test_a_wrong_login_is_refused(world: World) -> None:
    login = {k: world.seed[k] for k in ("projectId", "appId", "email", "password")}
    for name in login:
        answer = await world.client.post("/auth/user", data={**login, name: "77"})
        assert refusal(answer) == (401, "UNAUTHENTICATED_CLIENT")
        answer = await world.client.post("/auth/user", data={k: v for k, v in login.items() if k != name})
        assert refusal(answer) == (400, "MISSING_PARAMETERS")


async def test_auth_tells_the_kinds_of_keys_apart(world: World) -> None:
    get = world.client.get
    assert (await get("/auth", headers=world.user)).json()["type"] == "user"
    assert (await get("/auth", headers=world.user)).json()["userId"] == world.seed["userId"]
    for value in ["", "ModeCloud", "ModeCloud wrong", "ModeCloud \xff", "Bearer x"]:
        answer = await get("/auth", headers={b"Authorization": value.encode("latin-1")})
        assert (answer.status_code, answer.json()) == (200, {"type": "nobody"})


async def test_a_missing_key_a_wrong_key_and_a_key_of_the_wrong_kind_differ(world: World) -> None:
    device = await world.device()
    own_key = key_header(device["apiKey"])
    home, path = f"/homes/{world.seed['homeId']}", f"/devices/{device['id']}"
    for_users: list[tuple[str, str]] = [
        ("GET", f"/homes?userId={world.seed['userId']}"),
        ("GET", home),
        ("POST", f"{home}/deviceProvisioning"),
        ("GET", f"/devices?homeId={world.seed['homeId']}"),
        ("PATCH", path),
        ("DELETE", path),
    ]
    for method, url in [*for_users, ("GET", path), ("PUT", f"{path}/event")]:
        assert refusal(await world.client.request(method, url)) == (401, "AUTHORIZATION_REQUIRED")
        answer = await world.client.request(method, url, headers=key_header("wrong"))
        assert refusal(answer) == (401, "UNAUTHENTICATED_CLIENT")
    for method, url in for_users:
        assert refusal(await world.client.request(method, url, headers=own_key)) == (403, "PERMISSION_DENIED")
    answer = await world.client.put(f"{path}/event", json={"eventType": "x"}, headers=world.user)
    assert refusal(answer) == (403, "PERMISSION_DENIED")


async def test_a_stranger_sees_and_changes_nothing_of_a_home(world: World) -> None:
    device, stranger = await world.device(), (await world.stranger()).user
    home_id = world.seed["homeId"]
    for method, url in [
        ("GET", f"/homes/{home_id}"),
        ("POST", f"/homes/{home_id}/deviceProvisioning"),
        ("GET", f"/devices?homeId={home_id}"),
        ("GET", f"/devices/{device['id']}"),
        ("PATCH", f"/devices/{device['id']}"),
        ("DELETE", f"/devices/{device['id']}"),
    ]:
        answer = await world.client.request(method, url, headers=stranger)
        assert refusal(answer) == (403, "MEMBERS_ONLY")
    answer = await world.client.get("/homes", params={"userId": world.seed["userId"]}, headers=stranger)
    assert refusal(answer) == (403, "PERMISSION_DENIED")


async def test_a_device_speaks_only_for_itself(world: World) -> None:
    one, other = await world.device(), await world.device()
    key = key_header(one["apiKey"])
    assert refusal(await world.client.get(f"/devices/{other['id']}", headers=key)) == (403, "MATCHING_DEVICE_ONLY")
    answer = await world.client.put(f"/devices/{other['id']}/event", json={"eventType": "x"}, headers=key)
    assert refusal(answer) == (403, "MATCHING_DEVICE_ONLY")


async def test_what_does_not_exist_is_404_and_the_wrong_method_405(world: World) -> None:
    get = world.client.get
    assert refusal(await get("/homes/9", headers=world.user)) == (404, "NOT_FOUND")
    assert refusal(await get("/devices/9", headers=world.user)) == (404, "NOT_FOUND")
    assert refusal(await get("/devices", params={"homeId": 9}, headers=world.user)) == (404, "NOT_FOUND")
    assert refusal(await get("/auth/")) == (404, "NOT_FOUND")
    answer = await world.client.put("/auth")
    assert refusal(answer) == (405, "METHOD_NOT_ALLOWED")
    assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize("wrong_id", ["x", "-1", "1.0", "%20", "٣", str(2**64), "9" * 5000])
async def test_an_id_that_is_no_unsigned_64_bit_number_is_refused(world: World, wrong_id: str) -> None:
    for path in (f"/devices/{wrong_id}", f"/homes/{wrong_id}", f"/devices?homeId={wrong_id}"):
        assert refusal(await world.client.get(path, headers=world.user)) == (400, "INVALID_PARAMETER")


async def test_queries_without_their_parameter_are_refused(world: World) -> None:
    for path in ("/homes", "/devices"):
        assert refusal(await world.client.get(path, headers=world.user)) == (400, "MISSING_PARAMETERS")


async def test_a_device_is_renamed_tagged_and_deleted(world: World) -> None:
    device = await world.device(deviceTag="old")
    path, own_key = f"/devices/{device['id']}", key_header(device["apiKey"])
    client = world.client
    assert (await client.patch(path, json={"name": "Lamp"}, headers=world.user)).status_code == 204
    assert (await client.patch(path, json={"tag": ""}, headers=world.user)).status_code == 204
    changed = (await client.get(path, headers=world.user)).json()
    assert (changed["name"], changed["tag"]) == ("Lamp", "")
    assert refusal(await client.patch(path, json={}, headers=world.user)) == (400, "MISSING_PARAMETERS")
    assert refusal(await client.patch(path, json={"tag": 1}, headers=world.user)) == (400, "INVALID_PARAMETER")

    assert (await client.delete(path, headers=world.user)).status_code == 204
    assert refusal(await client.get(path, headers=world.user)) == (404, "NOT_FOUND")
    assert (await client.get("/auth", headers=own_key)).json() == {"type": "nobody"}
    assert refusal(await client.delete(path, headers=world.user)) == (404, "NOT_FOUND")


async def test_concurrent_redemptions_of_one_token_make_one_device(world: World) -> None:
    token = await world.token()
    answers = await asyncio.gather(*(world.client.post("/devices", json={"token": token}) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] + [403] * 7
    assert len((await world.client.get("/_sim/devices")).json()) == 1


async def test_an_authorization_header_does_not_matter_for_a_token(world: World) -> None:
    answer = await world.client.post("/devices", json={"token": await world.token()}, headers=key_header("wrong"))
    assert answer.status_code == 201


async def test_bad_expired_and_used_tokens_are_refused_as_set(start_world: StartWorld) -> None:
    now_ns = 10**18
    world = await start_world(
        clock=lambda: now_ns,
        token_lifetime_s=1.0,
        token_unknown=Refusal(404, "UNKNOWN"),
        token_expired=Refusal(410, "EXPIRED"),
        token_used=Refusal(409, "USED"),
    )
    used, expired = await world.token(), await world.token()
    assert (await world.client.post("/devices", json={"token": used})).status_code == 201
    now_ns += 10**9
    assert refusal(await world.client.post("/devices", json={"token": "x"})) == (404, "UNKNOWN")
    assert refusal(await world.client.post("/devices", json={"token": expired})) == (410, "EXPIRED")
    assert refusal(await world.client.post("/devices", json={"token": used})) == (409, "USED")
    assert refusal(await world.client.post("/devices", json={})) == (400, "MISSING_PARAMETERS")
    assert refusal(await world.client.post("/devices", json={"token": 5})) == (400, "INVALID_PARAMETER")


async def test_the_other_settings_are_heeded(start_world: StartWorld) -> None:
    world = await start_world(
        redeem_status=200,
        provisioning_status=201,
        token_single_use=False,
        token_length=300,
        tag_echoed=False,
        first_device_id=2**64 - 2,
        class_unknown=Refusal(404, "NO_SUCH_CLASS"),
    )
    issued = await world.client.post(
        world.provisioning_path, json={"deviceClass": "demo-class", "deviceTag": "t"}, headers=world.user
    )
    token = issued.json()["token"]
    assert (issued.status_code, len(token.encode())) == (201, 300)
    for device_id in (2**64 - 2, 2**64 - 1):
        made = await world.client.post("/devices", json={"token": token})
        assert made.status_code == 200
        assert (made.json()["id"], made.json()["tag"]) == (device_id, "")
        # The number on the wire is exact, without an exponent.
        assert f'"id":{device_id},' in made.text
        found = await world.client.get(f"/devices/{device_id}", headers=world.user)
        assert json.loads(found.text)["id"] == device_id
    answer = await world.client.post(world.provisioning_path, json={"deviceClass": "?"}, headers=world.user)
    assert refusal(answer) == (404, "NO_SUCH_CLASS")


async def test_no_tokens_are_issued_while_on_demand_provisioning_is_off(world: World) -> None:
    await world.seed_again(onDemand=False)
    answer = await world.client.post(world.provisioning_path, json={"deviceClass": "demo-class"}, headers=world.user)
    assert refusal(answer) == (403, "PERMISSION_DENIED")


@pytest.mark.parametrize(("digits", "fraction"), [(0, ""), (3, r"\.123"), (9, r"\.123456789")])
async def test_timestamps_have_as_many_digits_as_set(start_world: StartWorld, digits: int, fraction: str) -> None:
    world = await start_world(timestamp_digits=digits, clock=lambda: 1_440_538_777_123_456_789)
    home = (await world.client.get(f"/homes/{world.seed['homeId']}", headers=world.user)).json()
    assert re.fullmatch(rf"2015-08-25T21:39:37{fraction}Z", home["creationTime"])
