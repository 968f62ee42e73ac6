import httpx
from unit.cloud.world import World

from bletoken.sim.cloud import request_log
from bletoken.sim.cloud.app import create_app
from bletoken.sim.cloud.settings import Settings
from bletoken.sim.cloud.store import Store


async def test_a_seed_can_be_chosen_and_gives_a_working_key(world: World) -> None:
    wish = {
        "projectId": 2**64 - 1,
        "appId": "app",
        "email": "a@example.com",
        "password": "p",
        "homeName": "Cabin",
        "deviceClass": "lamp",
    }
    seed = (await world.client.post("/_sim/seed", json=wish)).raise_for_status().json()
    assert wish.items() <= seed.items()
    identity = await world.client.get("/auth", headers={"Authorization": f"ModeCloud {seed['userKey']}"})
    assert identity.json() == {
        "type": "user",
        "userId": seed["userId"],
        "projectId": seed["projectId"],
        "appId": "app",
    }


async def test_the_log_names_endpoints_and_statuses_and_nothing_else(world: World) -> None:
    assert (await world.client.get("/_sim/requests")).json() == []
    device = await world.device()
    await world.client.get(f"/devices/{device['id']}?secret=1", headers=world.user)
    await world.client.post("/devices", json={"token": "wrong"})
    await world.client.get("/secret")
    log = (await world.client.get("/_sim/requests")).json()
    assert [(r["number"], r["endpoint"], r["decided"], r["status"]) for r in log] == [
        (1, "POST /homes/{id}/deviceProvisioning", 200, 200),
        (2, "POST /devices", 201, 201),
        (3, "GET /devices/{id}", 200, 200),
        (4, "POST /devices", 403, 403),
        (5, "UNKNOWN", 404, 404),
    ]
    assert all(r.keys() == {"number", "endpoint", "decided", "status", "fault"} for r in log)
    assert (await world.client.delete("/_sim/requests")).status_code == 204
    assert (await world.client.get("/_sim/requests")).json() == []


async def test_the_log_is_bounded() -> None:
    log = request_log.RequestLog()
    for _ in range(request_log.CAPACITY + 5):
        log.begin("GET /auth", logged=True)
    numbers = [request.number for request in log.requests()]
    assert (len(numbers), numbers[0]) == (request_log.CAPACITY, 6)


async def test_the_dump_shows_all_devices_without_keys(world: World) -> None:
    device = await world.device(deviceTag="t")
    (dumped,) = (await world.client.get("/_sim/devices")).json()
    same = {k: device[k] for k in ("id", "projectId", "homeId", "deviceClass", "name", "tag")}
    assert dumped == {**same, "claimable": False, "claimExpirationTime": None}
    (dumped,) = (await world.client.get("/_sim/devices?secrets=1")).json()
    assert (dumped["apiKey"], dumped["claimCode"]) == (device["apiKey"], None)


async def test_a_device_can_be_made_ahead_of_time_where_none_is_made_on_demand(world: World) -> None:
    answer = await world.client.post("/_sim/devices")
    assert answer.status_code == 400
    assert "on demand" in answer.json()["detail"]
    assert (await world.seed_again(onDemand=False))["onDemand"] is False
    made = await world.made_device(tag="serial", name="Lamp")
    assert made["homeId"] is None
    assert (made["tag"], made["name"], made["deviceClass"]) == ("serial", "Lamp", "demo-class")
    assert 16 <= len(made["claimCode"]) <= 100
    assert (await world.client.get("/_sim/devices?secrets=1")).json() == [made]
    await world.register(made, claimable=True, duration=60)
    (dumped,) = (await world.client.get("/_sim/devices")).json()
    assert dumped["claimable"] is True
    assert dumped["claimExpirationTime"]
    assert not {"apiKey", "claimCode"} & dumped.keys()


async def test_other_machines_may_not_ask() -> None:
    with Store() as store:
        app, _, _ = create_app(Settings(), store, lambda: 0)
        for host, status in [("127.0.0.1", 200), ("::1", 200), ("192.0.2.1", 403)]:
            transport = httpx.ASGITransport(app, client=(host, 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://mode") as client:
                assert (await client.get("/_sim/requests")).status_code == status


async def test_a_defect_is_a_500_in_mode_s_form() -> None:
    store = Store()
    app, _, _ = create_app(Settings(), store, lambda: 0)
    store.close()
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://mode") as client:
        answer = await client.post("/devices", json={"token": "x"})
    assert (answer.status_code, answer.json()) == (500, {"reason": "INTERNAL_ERROR"})
