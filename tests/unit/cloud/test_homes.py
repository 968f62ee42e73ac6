"""Homes and who belongs to them, as apps see it, and what a project's own key may do."""

from typing import Any

import httpx
import pytest
from unit.cloud.world import StartWorld, World, key_header

from bletoken.sim.cloud.settings import Refusal


def refusal(answer: httpx.Response) -> tuple[int, str]:
    assert answer.json().keys() == {"reason"}
    return answer.status_code, answer.json()["reason"]


async def test_a_user_makes_renames_and_deletes_a_home(world: World) -> None:
    client = world.client
    made = await client.post("/homes", json={"name": "Cabin"}, headers=world.user)
    assert made.status_code == 201
    home = made.json()
    assert (home["name"], home["projectId"], home["deactivated"]) == ("Cabin", world.seed["projectId"], False)
    path = f"/homes/{home['id']}"
    assert (await client.patch(path, data={"name": "Lodge"}, headers=world.user)).status_code == 204
    assert (await client.get(path, headers=world.user)).json() == {**home, "name": "Lodge"}
    (member,) = (await client.get(f"{path}/members", headers=world.user)).json()
    assert (member["userId"], member["role"], member["verified"]) == (world.seed["userId"], "owner", True)
    assert member["email"] == world.seed["email"]
    assert refusal(await client.patch(path, json={}, headers=world.user)) == (400, "MISSING_PARAMETERS")
    assert refusal(await client.post("/homes", json={}, headers=world.user)) == (400, "MISSING_PARAMETERS")
    assert (await client.delete(path, headers=world.user)).status_code == 204
    assert refusal(await client.get(path, headers=world.user)) == (404, "NOT_FOUND")
    homes = await client.get("/homes", params={"userId": world.seed["userId"]}, headers=world.user)
    assert [each["id"] for each in homes.json()] == [world.seed["homeId"]]


async def test_a_deleted_home_takes_what_was_made_in_it_along(world: World) -> None:
    token, gone = await world.token(), await world.device()
    await world.seed_again(onDemand=False)
    kept = await world.made_device()
    await world.register(kept, claimable=True, duration=60)
    await world.claim(kept)
    assert (await world.client.delete(world.home_path, headers=world.user)).status_code == 204
    assert refusal(await world.client.post("/devices", json={"token": token})) == (403, "INVALID_TOKEN")
    assert (await world.client.get("/auth", headers=key_header(gone["apiKey"]))).json()["type"] == "nobody"
    assert (await world.client.get("/auth", headers=key_header(kept["apiKey"]))).json()["type"] == "device"
    (dumped,) = (await world.client.get("/_sim/devices")).json()
    assert (dumped["id"], dumped["homeId"]) == (kept["id"], None)


async def test_owners_say_who_belongs_to_a_home(world: World) -> None:
    mate, client = await world.housemate(), world.client
    members = f"{world.home_path}/members"
    joined = await client.post(members, json={"email": mate.seed["email"]}, headers=world.user)
    assert joined.status_code == 201
    assert (joined.json()["userId"], joined.json()["role"]) == (mate.seed["userId"], "member")
    assert (await client.get(members, headers=mate.user)).json()[1] == joined.json()
    assert (await client.get(world.home_path, headers=mate.user)).status_code == 200

    # A member lives there, and an owner decides.
    own = f"{members}/{mate.seed['userId']}"
    for answer in (
        await client.post(members, json={"email": "x@example.com"}, headers=mate.user),
        await client.patch(own, json={"role": "owner"}, headers=mate.user),
        await client.delete(f"{members}/{world.seed['userId']}", headers=mate.user),
        await client.delete(world.home_path, headers=mate.user),
    ):
        assert refusal(answer) == (403, "PERMISSION_DENIED")
    answer = await client.post(members, json={"email": mate.seed["email"]}, headers=world.user)
    assert refusal(answer) == (403, "MEMBER_EXISTS")
    answer = await client.post(members, json={"email": "nobody@example.com"}, headers=world.user)
    assert refusal(answer) == (404, "NOT_FOUND")
    answer = await client.post(members, json={"email": "x@example.com", "role": "king"}, headers=world.user)
    assert refusal(answer) == (400, "INVALID_PARAMETER")
    answer = await client.patch(f"{members}/99", json={"role": "owner"}, headers=world.user)
    assert refusal(answer) == (404, "NOT_FOUND")

    first = f"{members}/{world.seed['userId']}"
    assert refusal(await client.delete(first, headers=world.user)) == (403, "LAST_OWNER")
    assert refusal(await client.patch(first, json={"role": "member"}, headers=world.user)) == (403, "LAST_OWNER")
    assert (await client.patch(own, json={"role": "owner"}, headers=world.user)).status_code == 204
    assert (await client.delete(first, headers=world.user)).status_code == 204
    assert refusal(await client.get(world.home_path, headers=world.user)) == (403, "MEMBERS_ONLY")


async def test_a_member_may_leave(world: World) -> None:
    mate = await world.housemate()
    members = f"{world.home_path}/members"
    await world.client.post(members, json={"email": mate.seed["email"]}, headers=world.user)
    answer = await world.client.delete(f"{members}/{mate.seed['userId']}", headers=mate.user)
    assert answer.status_code == 204
    assert refusal(await world.client.get(members, headers=mate.user)) == (403, "MEMBERS_ONLY")


async def test_what_nobody_knows_of_homes_is_a_setting(start_world: StartWorld) -> None:
    world = await start_world(
        home_status=200,
        homes_of_user=2,
        homes_exceeded=Refusal(409, "MANY"),
        member_status=200,
        member_unknown=Refusal(400, "WHO"),
        member_exists=Refusal(409, "AGAIN"),
        last_owner=Refusal(409, "LAST"),
        owners_only=Refusal(401, "OWNER"),
    )
    mate, client = await world.housemate(), world.client
    members = f"{world.home_path}/members"
    assert (await client.post("/homes", json={"name": "a"}, headers=world.user)).status_code == 200
    assert refusal(await client.post("/homes", json={"name": "b"}, headers=world.user)) == (409, "MANY")
    joining = {"email": mate.seed["email"]}
    assert (await client.post(members, json=joining, headers=world.user)).status_code == 200
    assert refusal(await client.post(members, json=joining, headers=world.user)) == (409, "AGAIN")
    assert refusal(await client.post(members, json={"email": "?"}, headers=world.user)) == (400, "WHO")
    assert refusal(await client.post(members, json=joining, headers=mate.user)) == (401, "OWNER")
    answer = await client.delete(f"{members}/{world.seed['userId']}", headers=world.user)
    assert refusal(answer) == (409, "LAST")


async def test_a_project_s_key_sees_all_of_its_project_and_nothing_else(world: World) -> None:
    client, key = world.client, world.project
    await world.device()
    await world.seed_again(onDemand=False)
    pooled = await world.made_device()
    project_id = world.seed["projectId"]
    elsewhere = await world.seed_again(projectId=202)
    assert (await client.get("/auth", headers=key)).json() == {"type": "project key", "projectId": project_id}
    homes = (await client.get("/homes", params={"projectId": project_id}, headers=key)).json()
    assert [home["id"] for home in homes] == [world.seed["homeId"]]
    assert (await client.get(world.home_path, headers=key)).json() == homes[0]
    devices = (await client.get("/devices", params={"projectId": project_id}, headers=key)).json()
    assert [device["id"] for device in devices] == [1001, pooled["id"]]
    in_home = await client.get("/devices", params={"homeId": world.seed["homeId"]}, headers=key)
    assert in_home.json() == devices[:1]
    seen = (await client.get(f"/devices/{pooled['id']}", headers=key)).json()
    assert (seen["apiKey"], seen["claimCode"]) == (pooled["apiKey"], pooled["claimCode"])

    for url, status in [
        (f"/homes/{elsewhere['homeId']}", 404),
        (f"/devices?homeId={elsewhere['homeId']}", 404),
        ("/homes?projectId=202", 403),
        ("/devices?projectId=202", 403),
        ("/devices/99", 404),
    ]:
        assert (await client.get(url, headers=key)).status_code == status
    assert refusal(await client.delete(f"/devices/{pooled['id']}", headers=key)) == (403, "PERMISSION_DENIED")
    assert refusal(await client.patch(world.home_path, json={}, headers=key)) == (403, "PERMISSION_DENIED")
    made = await client.post("/homes", json={"name": "Show room"}, headers=key)
    assert made.status_code == 201
    assert world.server.store.members(made.json()["id"]) == {}


async def test_only_the_project_s_key_moves_a_device_or_changes_its_claim_code(world: World) -> None:
    client, key = world.client, world.project
    device = await world.device()
    path = f"/devices/{device['id']}"
    cabin = (await client.post("/homes", json={"name": "Cabin"}, headers=world.user)).json()
    elsewhere = await world.seed_again(projectId=202)
    for change in ({"homeId": cabin["id"]}, {"claimCode": "c" * 16}, {"name": "x", "homeId": cabin["id"]}):
        assert refusal(await client.patch(path, json=change, headers=world.user)) == (403, "PERMISSION_DENIED")
    assert (await client.patch(path, json={"homeId": cabin["id"], "name": "x"}, headers=key)).status_code == 204
    moved = (await client.get(path, headers=world.user)).json()
    assert (moved["homeId"], moved["name"]) == (cabin["id"], "x")
    assert (await client.patch(path, json={"claimCode": "c" * 16}, headers=key)).status_code == 204
    await world.seed_again(onDemand=False)
    other = await world.made_device()
    bad: list[dict[str, Any]] = [
        {"homeId": elsewhere["homeId"]},
        {"homeId": 99},
        {"homeId": "x"},
        {"claimCode": "short"},
        {"claimCode": "c" * 101},
        {"claimCode": other["claimCode"]},
    ]
    for change in bad:
        assert refusal(await client.patch(path, json=change, headers=key)) == (400, "INVALID_PARAMETER")
    assert refusal(await client.patch(path, json={}, headers=key)) == (400, "MISSING_PARAMETERS")
    assert refusal(await client.patch("/devices/99", json={"name": "x"}, headers=key)) == (404, "NOT_FOUND")
    assert (await client.get(path, headers=world.user)).json() == moved


@pytest.mark.parametrize("kind", ["user", "device", "project key"])
async def test_a_device_of_another_project_is_no_device(world: World, kind: str) -> None:
    elsewhere = await world.seed_again(projectId=202)
    other = await World(world.server, world.client, elsewhere).device()
    own = await world.device()
    headers = {"user": world.user, "device": key_header(own["apiKey"]), "project key": world.project}[kind]
    status = (await world.client.get(f"/devices/{other['id']}", headers=headers)).status_code
    assert status == (403 if kind == "device" else 404)
