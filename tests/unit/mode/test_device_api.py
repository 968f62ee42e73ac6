import asyncio
import subprocess
import sys
from datetime import UTC, datetime
from urllib.parse import parse_qs

import pytest
from unit.mode.loopback import answer, free_port, read_request, reset, serve

from bletoken.errors import (
    CloudError,
    CloudNoAnswerError,
    CloudRefusedError,
    CloudRetryLaterError,
    CloudUnreachableError,
    NotSignedInError,
)
from bletoken.mode.device_api import DeviceApi
from bletoken.mode.http import parse_json
from bletoken.mode.models import Device, DeviceCredentials, Identity

DEVICE = {"id": 2**63 + 1, "apiKey": "v1.key", "homeId": 5, "deviceClass": "lamp", "projectId": 2}


@pytest.mark.parametrize("status", [200, 201, 299])
async def test_a_token_becomes_an_id_and_a_key(status: int) -> None:
    async with serve(answer(status, DEVICE)) as server, DeviceApi(server.url) as api:
        assert await api.redeem("v1.token") == DeviceCredentials(2**63 + 1, "v1.key", 5, "lamp")
    (heard,) = server.requests
    assert heard.line == "POST /devices HTTP/1.1"
    assert "authorization" not in heard.headers
    assert parse_json(heard.body) == {"token": "v1.token"}


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (answer(400, {"reason": "INVALID_TOKEN"}), CloudRefusedError),
        (answer(401, {"reason": "INVALID_TOKEN"}), CloudRefusedError),
        (answer(403, {"reason": "INVALID_TOKEN"}), CloudRefusedError),
        (answer(404), CloudRefusedError),
        (answer(429, headers={"Retry-After": "1"}), CloudRetryLaterError),
        (answer(503), CloudRetryLaterError),
        (answer(408), CloudNoAnswerError),
        (answer(500), CloudNoAnswerError),
        (answer(502), CloudNoAnswerError),
        (answer(307, headers={"Location": "/devices"}), CloudNoAnswerError),
        (answer(204), CloudNoAnswerError),
        (answer(200, {}), CloudNoAnswerError),
        (answer(200, {"id": 7}), CloudNoAnswerError),
        (answer(200, {"id": "7", "apiKey": "k"}), CloudNoAnswerError),
        (answer(200, DEVICE, headers={"Content-Type": "text/plain"}), CloudNoAnswerError),
        (answer(200, DEVICE)[:-1], CloudNoAnswerError),
        (b"", CloudNoAnswerError),
    ],
)
async def test_a_redemption_ends_in_exactly_one_way_after_exactly_one_request(
    reply: bytes, error: type[CloudError]
) -> None:
    async with serve(reply) as server, DeviceApi(server.url) as api:
        with pytest.raises(CloudError) as caught:
            await api.redeem("v1.token")
    assert type(caught.value) is error
    assert server.connections == 1


async def test_a_401_to_a_token_is_a_refusal_with_its_reason_and_no_question_of_signing_in() -> None:
    async with serve(answer(401, {"reason": "INVALID_TOKEN"})) as server, DeviceApi(server.url) as api:
        with pytest.raises(CloudRefusedError) as caught:
            await api.redeem("v1.token")
    assert (caught.value.status, caught.value.reason) == (401, "INVALID_TOKEN")


async def test_a_reset_connection_leaves_the_outcome_of_a_redemption_open() -> None:
    async def reset_after_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        reset(writer)

    async with serve(reset_after_request) as server, DeviceApi(server.url) as api:
        with pytest.raises(CloudNoAnswerError):
            await api.redeem("v1.token")
    assert server.connections == 1


async def test_a_refused_connection_keeps_the_token_usable() -> None:
    async with DeviceApi(f"http://127.0.0.1:{free_port()}") as api:
        with pytest.raises(CloudUnreachableError):
            await api.redeem("v1.token")


async def test_a_redemption_can_be_cancelled() -> None:
    heard = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        heard.set()
        await reader.read()

    async with serve(wait) as server, DeviceApi(server.url) as api:
        redeeming = asyncio.create_task(api.redeem("v1.token"))
        await heard.wait()
        redeeming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await redeeming


async def test_a_key_is_shown_to_mode_to_learn_whose_it_is() -> None:
    async with serve(answer(200, {"type": "device", "deviceId": 7})) as server, DeviceApi(server.url) as api:
        assert await api.identity("v1.key") == Identity("device", device_id=7)
    assert server.requests[0].line == "GET /auth HTTP/1.1"
    assert server.requests[0].headers["authorization"] == "ModeCloud v1.key"


async def test_a_key_that_mode_does_not_accept_is_told_apart() -> None:
    async with serve(answer(401)) as server, DeviceApi(server.url) as api:
        with pytest.raises(NotSignedInError):
            await api.identity("v1.key")


async def test_a_device_sees_itself() -> None:
    async with serve(answer(200, {**DEVICE, "isConnected": False, "tag": "t"})) as server, DeviceApi(server.url) as api:
        device = await api.device(2**63 + 1, "v1.key")
    assert device == Device(2**63 + 1, home_id=5, project_id=2, device_class="lamp", tag="t", is_connected=False)
    assert server.requests[0].line == f"GET /devices/{2**63 + 1} HTTP/1.1"


@pytest.mark.parametrize("home", [{}, {"homeId": None}, {"homeId": 0}])
async def test_a_device_sees_that_it_is_in_no_home(home: dict[str, object]) -> None:
    async with serve(answer(200, {"id": 7, **home})) as server, DeviceApi(server.url) as api:
        assert (await api.device(7, "v1.key")).home_id is None


@pytest.mark.parametrize("other", [{"id": 8}, {"homeId": "7"}, {"homeId": True}, {"homeId": -1}, {"homeId": 2**64}])
async def test_what_is_not_clearly_about_the_device_and_its_home_is_no_answer(other: dict[str, object]) -> None:
    async with serve(answer(200, {"id": 7, "homeId": 5, **other})) as server, DeviceApi(server.url) as api:
        with pytest.raises(CloudNoAnswerError):
            await api.device(7, "v1.key")


@pytest.mark.parametrize("year", ["0001-01-01", "1970-01-01", "2106-01-01", "9999-12-31"])
async def test_a_claim_window_that_ends_in_another_century_is_no_answer(year: str) -> None:
    content = {"claimExpirationTime": f"{year}T00:00:00Z"}
    async with serve(answer(200, content)) as server, DeviceApi(server.url) as api:
        with pytest.raises(CloudNoAnswerError):
            await api.open_claim_window(7, "v1.key", 300)


@pytest.mark.parametrize(
    ("data", "sent"), [(None, {"eventType": "on"}), ({"a": 1}, {"eventType": "on", "eventData": {"a": 1}})]
)
async def test_an_event_is_put_with_or_without_data(data: dict[str, int] | None, sent: object) -> None:
    async with serve(answer(204)) as server, DeviceApi(server.url) as api:
        await api.trigger_event(7, "v1.key", "on", data)
    assert server.requests[0].line == "PUT /devices/7/event HTTP/1.1"
    assert parse_json(server.requests[0].body) == sent


async def test_a_claim_window_is_opened_with_the_form_that_mode_shows() -> None:
    reply = answer(200, {"claimExpirationTime": "2015-08-25T21:44:37.744323372Z"})
    async with serve(reply) as server, DeviceApi(server.url) as api:
        ends_at = await api.open_claim_window(7, "v1.key", 300)
    assert ends_at == datetime(2015, 8, 25, 21, 44, 37, 744323, UTC)
    (heard,) = server.requests
    assert heard.line == "POST /deviceRegistration HTTP/1.1"
    assert heard.headers["authorization"] == "ModeCloud v1.key"
    assert heard.headers["content-type"] == "application/x-www-form-urlencoded"
    assert parse_qs(heard.body.decode()) == {"deviceId": ["7"], "claimable": ["1"], "duration": ["300"]}


@pytest.mark.parametrize("content", [{}, {"claimExpirationTime": "soon"}, {"claimExpirationTime": 1}, [], None])
async def test_a_claim_window_without_a_readable_end_is_no_answer(content: object) -> None:
    async with serve(answer(200, content)) as server, DeviceApi(server.url) as api:
        with pytest.raises(CloudNoAnswerError):
            await api.open_claim_window(7, "v1.key", 300)


async def test_a_claim_window_of_another_device_is_refused_with_the_reason() -> None:
    async with serve(answer(403, {"reason": "MATCHING_DEVICE_ONLY"})) as server, DeviceApi(server.url) as api:
        with pytest.raises(CloudRefusedError) as caught:
            await api.open_claim_window(8, "v1.key", 300)
    assert (caught.value.status, caught.value.reason) == (403, "MATCHING_DEVICE_ONLY")


@pytest.mark.parametrize("reply", [answer(204), answer(200, {}), answer(200, body=b"?")])
async def test_a_claim_window_is_closed_whatever_a_success_says(reply: bytes) -> None:
    async with serve(reply) as server, DeviceApi(server.url) as api:
        await api.close_claim_window(7, "v1.key")
    (heard,) = server.requests
    assert heard.line == "POST /deviceRegistration HTTP/1.1"
    assert heard.headers["authorization"] == "ModeCloud v1.key"
    assert parse_json(heard.body) == {"deviceId": 7, "claimable": False}


def test_a_device_loads_no_web_socket_library() -> None:
    check = "import sys, bletoken.mode.device_api; sys.exit(bool({'httpx_ws', 'wsproto'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
