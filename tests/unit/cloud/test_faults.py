import asyncio
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from unit.cloud.world import World, until
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidMessage, InvalidStatus

from bletoken.errors import UsageError
from bletoken.sim.cloud.faults import ErrorAnswer, Fault

REDEEM = "POST /devices"
LISTEN = "GET /userSession/websocket"


async def arm(world: World, faults: dict[str, Any]) -> None:
    (await world.client.put("/_sim/faults", json=faults)).raise_for_status()


async def redemptions(world: World) -> list[tuple[int | None, int | None, str | None]]:
    log = (await world.client.get("/_sim/requests")).json()
    return [(r["decided"], r["status"], r["fault"]) for r in log if r["endpoint"] == REDEEM]


async def device_count(world: World) -> int:
    return len((await world.client.get("/_sim/devices")).json())


async def held(world: World) -> None:
    async def is_held() -> bool:
        return bool((await world.client.get("/_sim/faults")).json()["held"])

    await until(is_held)


def send_raw(url: str, data: bytes) -> tuple[bytes, str]:
    """Everything the server answers, and how the connection ended."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall(data)
        received = b""
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except ConnectionResetError:
            return received, "reset"
        return received, "end"


@pytest.mark.parametrize(("when", "decided", "devices"), [("before", None, 0), ("after", 201, 1)])
@pytest.mark.parametrize("reset", [False, True])
async def test_a_dropped_connection_carries_not_one_byte(
    world: World, when: str, decided: int | None, devices: int, reset: bool
) -> None:
    body = b'{"token":"%s"}' % (await world.token()).encode()
    await arm(world, {REDEEM: {"drop": when, "reset": reset, "count": 1}})
    request = b"POST /devices HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    assert await asyncio.to_thread(send_raw, world.server.url, request) == (b"", "reset" if reset else "end")
    assert await redemptions(world) == [(decided, None, "drop")]
    assert await device_count(world) == devices


async def test_a_client_sees_a_drop_as_a_lost_answer_and_the_next_request_works(world: World) -> None:
    token = await world.token()
    await arm(world, {REDEEM: [{"drop": "before", "count": 1}]})
    with pytest.raises(httpx.RemoteProtocolError):
        await world.client.post("/devices", json={"token": token})
    assert (await world.client.post("/devices", json={"token": token})).status_code == 201


async def test_a_truncated_answer_ends_in_the_middle_of_its_body(world: World) -> None:
    token = await world.token()
    await arm(world, {REDEEM: {"truncate": True}})
    async with world.client.stream("POST", "/devices", json={"token": token}) as answer:
        assert answer.status_code == 201
        with pytest.raises(httpx.RemoteProtocolError):
            await answer.aread()
    assert await device_count(world) == 1


async def test_a_truncated_answer_without_a_body_is_lost(world: World) -> None:
    device = await world.device()
    await arm(world, {"PATCH /devices/{id}": {"truncate": True}})
    with pytest.raises(httpx.RemoteProtocolError):
        await world.client.patch(f"/devices/{device['id']}", json={"name": "n"}, headers=world.user)
    assert world.server.store.devices()[0].name == "n"


@pytest.mark.parametrize(("when", "devices"), [("before", 0), ("after", 1)])
async def test_an_error_replaces_the_answer(world: World, when: str, devices: int) -> None:
    token = await world.token()
    error = {"status": 503, "reason": "BUSY", "retry_after": "3", "when": when}
    await arm(world, {REDEEM: {"error": error, "count": 1}})
    answer = await world.client.post("/devices", json={"token": token})
    assert (answer.status_code, answer.json(), answer.headers["Retry-After"]) == (503, {"reason": "BUSY"}, "3")
    assert await device_count(world) == devices


async def test_an_error_may_be_a_page_instead_of_json(world: World) -> None:
    await arm(world, {"GET /auth": {"error": {"status": 200, "body": "<p>Welcome ü", "content_type": "text/html"}}})
    answer = await world.client.get("/auth")
    assert (answer.status_code, answer.content) == (200, "<p>Welcome ü".encode())
    assert answer.headers["Content-Type"] == "text/html"


async def test_a_redirect_leads_elsewhere(world: World) -> None:
    await arm(world, {REDEEM: {"redirect": "http://127.0.0.1:9/devices"}})
    answer = await world.client.post("/devices", json={"token": await world.token()})
    assert (answer.status_code, answer.headers["Location"]) == (307, "http://127.0.0.1:9/devices")
    assert await device_count(world) == 0


@pytest.mark.parametrize(("when", "decided"), [("before", None), ("after", 201)])
async def test_a_held_request_is_answered_when_it_is_released(world: World, when: str, decided: int | None) -> None:
    token = await world.token()
    await arm(world, {REDEEM: {"hold": when}})
    async with asyncio.TaskGroup() as tasks:
        request = tasks.create_task(world.client.post("/devices", json={"token": token}))
        await held(world)
        assert await redemptions(world) == [(decided, None, "hold")]
        assert (await world.client.post("/_sim/release", json={"endpoint": "GET /auth"})).json() == {"released": 0}
        assert (await world.client.post("/_sim/release")).json() == {"released": 1}
    assert request.result().status_code == 201
    assert await redemptions(world) == [(201, 201, "hold")]


@pytest.mark.parametrize(("when", "devices"), [("before", 0), ("after", 1)])
async def test_a_held_request_takes_effect_though_its_client_gave_up(world: World, when: str, devices: int) -> None:
    token = await world.token()
    await arm(world, {REDEEM: {"hold": when}})
    request = asyncio.create_task(world.client.post("/devices", json={"token": token}))
    await held(world)
    request.cancel()
    await asyncio.wait([request])
    assert await device_count(world) == devices
    await world.client.post("/_sim/release")

    async def is_answered() -> bool:
        return await redemptions(world) == [(201, 201, "hold")]

    await until(is_answered)
    assert await device_count(world) == 1


async def test_clearing_faults_does_not_release_what_is_held(world: World) -> None:
    await arm(world, {"GET /auth": {"hold": "before"}})
    async with asyncio.TaskGroup() as tasks:
        request = tasks.create_task(world.client.get("/auth"))
        await held(world)
        assert (await world.client.delete("/_sim/faults")).status_code == 204
        assert (await world.client.get("/auth")).status_code == 200
        assert not request.done()
        world.server.faults.release()
    assert request.result().status_code == 200


async def test_a_delay_alone_changes_nothing_else(world: World) -> None:
    await arm(world, {REDEEM: {"delay_s": 0.001}})
    answer = await world.client.post("/devices", json={"token": await world.token()})
    assert answer.status_code == 201
    assert await redemptions(world) == [(201, 201, "delay")]


async def test_faults_strike_in_order_and_as_often_as_they_count(world: World) -> None:
    world.server.faults.arm(
        "GET /auth",
        Fault(error=ErrorAnswer(status=429), count=2),
        Fault(error=ErrorAnswer(status=500), count=1),
    )
    assert [(await world.client.get("/auth")).status_code for _ in range(4)] == [429, 429, 500, 200]
    assert [each["left"] for each in world.server.faults.to_json()["faults"]["GET /auth"]] == [0, 0]


async def test_a_probability_is_repeatable_by_its_seed(world: World) -> None:
    async def pattern(seed: int) -> list[int]:
        world.server.faults.arm("GET /auth", Fault(error=ErrorAnswer(status=500), probability=0.5, seed=seed))
        return [(await world.client.get("/auth")).status_code for _ in range(20)]

    first = await pattern(1)
    assert set(first) == {200, 500}
    assert await pattern(1) == first
    assert await pattern(2) != first


async def test_arming_one_endpoint_leaves_the_others_armed(world: World) -> None:
    world.server.faults.arm("GET /auth", Fault(drop="before"))
    world.server.faults.arm(REDEEM, Fault(drop="after"))
    assert world.server.faults.to_json()["faults"].keys() == {"GET /auth", REDEEM}
    await arm(world, {REDEEM: []})
    assert (await world.client.get("/auth")).status_code == 200


async def test_websockets_are_refused_cut_or_held_like_any_request(world: World) -> None:
    url = f"{world.socket_url}?authToken={world.seed['userKey']}"
    await arm(world, {LISTEN: {"error": {"status": 503, "reason": "BUSY"}, "count": 1}})
    with pytest.raises(InvalidStatus) as refused:
        await connect(url, proxy=None)
    assert refused.value.response.status_code == 503
    await arm(world, {LISTEN: {"drop": "before", "count": 1}})
    with pytest.raises((InvalidMessage, OSError, EOFError)):
        await connect(url, proxy=None)
    await arm(world, {LISTEN: {"drop": "after", "count": 1}})
    async with connect(url, proxy=None) as cut:
        with pytest.raises(ConnectionClosedError):
            await cut.recv()
    await arm(world, {LISTEN: {"hold": "before", "count": 1}})
    async with asyncio.TaskGroup() as tasks:
        opening = tasks.create_task(connect(url, proxy=None).__aenter__())
        await held(world)
        world.server.faults.release()
    await opening.result().close()
    assert [(r.decided, r.status) for r in world.server.log.requests(LISTEN)] == [
        (None, 503),
        (None, None),
        (101, 101),
        (101, 101),
    ]


@pytest.mark.parametrize(
    "faults",
    [
        {"POST /nowhere": {"drop": "before"}},
        {"POST /_sim/seed": {"drop": "before"}},
        {REDEEM: 5},
        {REDEEM: "drop"},
        {REDEEM: None},
        {REDEEM: [["drop"]]},
        {REDEEM: {"drop": "sometimes"}},
        {REDEEM: {"drop": ["before"]}},
        {REDEEM: {"drop": "before", "truncate": True}},
        {REDEEM: {"explode": True}},
        {REDEEM: {"delay_s": -1}},
        {REDEEM: {"delay_s": "1"}},
        {REDEEM: {"count": 0}},
        {REDEEM: {"count": True}},
        {REDEEM: {"probability": 1.5}},
        {REDEEM: {"seed": None}},
        {REDEEM: {"reset": 1}},
        {REDEEM: {"truncate": "yes"}},
        {REDEEM: {"redirect": "http://x/\r\nX: y"}},
        {REDEEM: {"error": {}}},
        {REDEEM: {"error": 503}},
        {REDEEM: {"error": {"status": 204}}},
        {REDEEM: {"error": {"status": 99}}},
        {REDEEM: {"error": {"status": True}}},
        {REDEEM: {"error": {"status": 503, "retry_after": "1\r\n"}}},
        {REDEEM: {"error": {"status": 503, "when": None}}},
        {LISTEN: {"hold": "after"}},
        {LISTEN: {"truncate": True}},
        {LISTEN: {"error": {"status": 500, "when": "after"}}},
    ],
)
async def test_a_fault_that_makes_no_sense_is_refused_with_words_and_changes_nothing(
    world: World, faults: dict[str, Any]
) -> None:
    await arm(world, {"GET /auth": {"delay_s": 0.5}})
    answer = await world.client.put("/_sim/faults", json=faults)
    assert answer.status_code == 400
    assert answer.json()["detail"]
    assert world.server.faults.to_json()["faults"] == {"GET /auth": [{"delay_s": 0.5, "left": None}]}


def test_faults_are_checked_when_made_in_python_too() -> None:
    with pytest.raises(UsageError):
        Fault(drop="before", hold="after")
