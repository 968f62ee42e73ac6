import asyncio
import socket
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
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
        ("POST", "/homes", world.user),
        ("PATCH", world.home_path, world.user),
        ("POST", f"{world.home_path}/members", world.user),
        ("PATCH", f"{world.home_path}/members/{world.seed['userId']}", world.user),
        ("PUT", f"{path}/command", world.user),
        ("POST", "/_sim/seed", {}),
        ("POST", "/_sim/devices", {}),
        ("PUT", "/_sim/faults", {}),
        ("POST", "/_sim/release", {}),
    ]:
        typed = {**headers, "Content-Type": "application/json"}
        answer = await world.client.request(method, url, content=body, headers=typed)
        assert (answer.status_code, answer.json()["reason"]) == (400, "INVALID_PARAMETER")
    # Of this one alone MODE's documents say that it answers 403 to invalid data.
    typed = {**own_key, "Content-Type": "application/json"}
    answer = await world.client.post("/deviceRegistration", content=body, headers=typed)
    assert (answer.status_code, answer.json()["reason"]) == (403, "INVALID_PARAMETER")


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
