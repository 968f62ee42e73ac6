import asyncio
import json
import socket
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.cloud.world import StartWorld, World, key_header, until

from bletoken.sim.cloud.answers import RefusedError
from bletoken.sim.cloud.body import parse_object

HOSTILE = [
    b"[" * 10_000,
    b'{"token":' * 5_000,
    b'{"token":{"a":' + b"[" * 40 + b"]" * 40 + b"}}",
    b"[]",
    b"5",
    b'"text"',
    b"null",
    b'{"token":NaN}',
    b'{"token":-Infinity}',
    b'{"token":1e999}',
    b'{"token":18446744073709551616}',
    b'{"token":-9223372036854775809}',
    b'{"token":' + b"9" * 5000 + b"}",
    b'{"token":"\\ud800"}',
    b'{"\\udfff":1}',
    b'{"token":"\xff"}',
    b"\xef\xbb\xbf{}",
    '{"token":"x"}'.encode("utf-16"),
    b'{"token":"x"',
    b'{"token":"x"} trailing',
    b"{'token':1}",
    b"\x00",
]

ENDPOINTS = [
    ("POST", "/auth/user"),
    ("GET", "/auth"),
    ("GET", "/homes?userId={user}"),
    ("GET", "/homes/{home}"),
    ("POST", "/homes/{home}/deviceProvisioning"),
    ("GET", "/devices?homeId={home}"),
    ("POST", "/devices"),
    ("GET", "/devices/{device}"),
    ("PATCH", "/devices/{device}"),
    ("PUT", "/devices/{device}/event"),
    ("POST", "/_sim/seed"),
    ("PUT", "/_sim/faults"),
    ("POST", "/_sim/release"),
]


@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: body[:20].hex())
async def test_hostile_json_is_a_400_everywhere_a_body_is_read(world: World, body: bytes) -> None:
    device = await world.device()
    own_key = key_header(device["apiKey"])
    path = f"/devices/{device['id']}"
    for method, url, headers in [
        ("POST", "/auth/user", {}),
        ("POST", world.provisioning_path, world.user),
        ("POST", "/devices", {}),
        ("PATCH", path, world.user),
        ("PUT", f"{path}/event", own_key),
        ("POST", "/_sim/seed", {}),
        ("PUT", "/_sim/faults", {}),
        ("POST", "/_sim/release", {}),
    ]:
        typed = {**headers, "Content-Type": "application/json"}
        answer = await world.client.request(method, url, content=body, headers=typed)
        assert (answer.status_code, answer.json()["reason"]) == (400, "INVALID_PARAMETER")


async def test_hostile_json_inside_a_form_is_a_400(world: World) -> None:
    device = await world.device()
    for text in ["[]", "5", '{"a":NaN}', '{"a":' * 5_000, '{"a":"\\ud800"}', "{", ""]:
        event = {"eventType": "x", "eventData": text}
        answer = await world.client.put(
            f"/devices/{device['id']}/event", data=event, headers=key_header(device["apiKey"])
        )
        assert (answer.status_code, answer.json()) == (400, {"reason": "INVALID_PARAMETER"})


@pytest.mark.parametrize("body", [b"token=%ff", b"token=\xff", b"&".join(b"a=1" for _ in range(200))])
async def test_hostile_forms_are_a_400(world: World, body: bytes) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await world.client.post("/devices", content=body, headers=headers)
    assert (answer.status_code, answer.json()) == (400, {"reason": "INVALID_PARAMETER"})


def test_a_body_may_be_nested_so_deep_and_no_deeper() -> None:
    def nested(depth: int) -> bytes:
        return b'{"a":' * depth + b"1" + b"}" * depth

    assert parse_object(nested(32))
    with pytest.raises(RefusedError):
        parse_object(nested(33))


def test_the_largest_numbers_that_fit_64_bits_are_taken() -> None:
    assert parse_object(b'{"a":18446744073709551615,"b":-9223372036854775808}') == {"a": 2**64 - 1, "b": -(2**63)}


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_is_bounded_whether_its_length_is_declared_or_not(start_world: StartWorld, chunked: bool) -> None:
    world = await start_world(max_body_size=1000)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(1001):
            yield b"x"

    answer = await world.client.post("/devices", content=chunks() if chunked else b"x" * 1001)
    assert (answer.status_code, answer.json()) == (413, {"reason": "REQUEST_TOO_LARGE"})
    answer = await world.client.post("/devices", content=b"token=" + b"x" * 994)
    assert answer.status_code == 403


async def test_a_body_that_never_ends_is_a_408(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bletoken.sim.cloud.body.BODY_TIMEOUT_S", 0.01)
    answer = await raw(world.server.url, b"POST /devices HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx")
    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_a_client_that_leaves_in_the_middle_of_its_body_changes_nothing(world: World) -> None:
    reader, writer = await asyncio.open_connection(*address(world.server.url))
    writer.write(b"POST /devices HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx")
    await writer.drain()

    async def has_arrived() -> bool:
        return bool(world.server.log.requests())

    await until(has_arrived)
    writer.close()
    await writer.wait_closed()
    assert await reader.read() == b""
    assert (await world.client.get("/auth")).status_code == 200
    assert world.server.log.requests()[0].decided is None


@pytest.mark.parametrize(
    "line",
    [b"OPTIONS * HTTP/1.1", b"GET http://mode/auth HTTP/1.1", b"CONNECT mode:80 HTTP/1.1", b"G\x00T / HTTP/1.1", b"?"],
)
async def test_odd_request_lines_are_refused(world: World, line: bytes) -> None:
    answer = await raw(world.server.url, line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer[:10] in (b"HTTP/1.1 4", b"HTTP/1.0 4")


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    [
        *("projectId", "appId", "email", "password", "deviceClass", "deviceTag", "token", "name", "tag"),
        *("eventType", "eventData", "homeName", "endpoint", "POST /devices", "GET /auth"),
    ]
)
BODIES = st.one_of(
    st.binary(max_size=200),
    ANY_JSON.map(json.dumps).map(str.encode),
    st.dictionaries(NAMES, ANY_JSON, max_size=6).map(json.dumps).map(str.encode),
)
KINDS = st.sampled_from(["application/json", "application/x-www-form-urlencoded", "multipart/form-data", "", "é"])


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(endpoint=st.sampled_from(ENDPOINTS), body=BODIES, kind=KINDS, as_device=st.booleans())
async def test_no_body_on_any_endpoint_is_a_5xx(
    world: World, endpoint: tuple[str, str], body: bytes, kind: str, as_device: bool
) -> None:
    if not world.server.store.devices():
        world.seed["device"] = await world.device()
    device = world.seed["device"]
    url = endpoint[1].format(user=world.seed["userId"], home=world.seed["homeId"], device=device["id"])
    key = device["apiKey"] if as_device else world.seed["userKey"]
    headers = {b"Authorization": f"ModeCloud {key}".encode(), b"Content-Type": kind.encode()}
    answer = await world.client.request(endpoint[0], url, content=body, headers=headers)
    world.server.faults.clear()
    assert answer.status_code < 500
    json.loads(answer.content or b"null")


async def test_a_body_sent_with_get_is_ignored(world: World) -> None:
    answer = await world.client.request("GET", "/auth", content=b"[" * 10_000, headers=world.user)
    assert answer.json()["type"] == "user"


def address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


async def raw(url: str, data: bytes) -> bytes:
    def exchange() -> bytes:
        with socket.create_connection(address(url), timeout=20) as connection:
            connection.sendall(data)
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
            return received

    return await asyncio.to_thread(exchange)
