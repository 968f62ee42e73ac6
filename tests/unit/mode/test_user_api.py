import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import pytest
from unit.mode.loopback import answer, serve

from bletoken.errors import CloudNoAnswerError, CloudRefusedError, CloudRetryLaterError, NotSignedInError
from bletoken.mode.http import LARGEST_LIST, LARGEST_OBJECT, parse_json
from bletoken.mode.models import Device, Home, Identity, ProvisioningToken, UserSession
from bletoken.mode.retry import RetryPolicy
from bletoken.mode.user_api import UserApi

AT_ONCE = RetryPolicy(first_delay_s=0.001, longest_delay_s=0.001, deadline_s=60)

CALLS: list[tuple[Callable[[UserApi], Awaitable[Any]], str, object, bytes, object]] = [
    (lambda api: api.identity(), "GET /auth", None, answer(200, {"type": "user", "userId": 3}), Identity("user", 3)),
    (lambda api: api.homes(3), "GET /homes?userId=3", None, answer(200, [{"id": 5, "name": "H"}]), [Home(5, "H")]),
    (
        lambda api: api.start_provisioning(5, "lamp", "t"),
        "POST /homes/5/deviceProvisioning",
        {"deviceClass": "lamp", "deviceTag": "t"},
        answer(201, {"token": "v1.t", "expirationTime": "2015-08-25T21:44:37.744Z"}),
        ProvisioningToken("v1.t", datetime(2015, 8, 25, 21, 44, 37, 744000, UTC)),
    ),
    (
        lambda api: api.start_provisioning(5, "lamp"),
        "POST /homes/5/deviceProvisioning",
        {"deviceClass": "lamp"},
        answer(200, {"token": "v1.t"}),
        ProvisioningToken("v1.t"),
    ),
    (
        lambda api: api.claim_device(5, "abcd-1234-efgh-5678"),
        "POST /devices",
        {"homeId": 5, "claimCode": "abcd-1234-efgh-5678"},
        answer(201, {"id": 7, "homeId": 5, "claimCode": "abcd-1234-efgh-5678"}),
        Device(7, home_id=5),
    ),
    (lambda api: api.devices(5), "GET /devices?homeId=5", None, answer(200, [{"id": 7}]), [Device(7)]),
    (lambda api: api.device(7), "GET /devices/7", None, answer(200, {"id": 7}), Device(7)),
    (lambda api: api.update_device(7, tag=""), "PATCH /devices/7", {"tag": ""}, answer(204), None),
    (
        lambda api: api.update_device(7, name="N", tag="t"),
        "PATCH /devices/7",
        {"name": "N", "tag": "t"},
        answer(204),
        None,
    ),
    (lambda api: api.delete_device(7), "DELETE /devices/7", None, answer(204), None),
]


@pytest.mark.parametrize(("call", "line", "sent", "reply", "result"), CALLS, ids=[each[1] for each in CALLS])
async def test_a_call_is_this_request_and_this_answer(
    call: Callable[[UserApi], Awaitable[Any]], line: str, sent: object, reply: bytes, result: object
) -> None:
    async with serve(reply) as server, UserApi(server.url, "v1.session") as api:
        assert await call(api) == result
    (heard,) = server.requests
    assert heard.line == f"{line} HTTP/1.1"
    assert heard.headers["authorization"] == "ModeCloud v1.session"
    assert (parse_json(heard.body) if heard.body else None) == sent


@pytest.mark.parametrize(("call", "line", "sent", "reply", "result"), CALLS, ids=[each[1] for each in CALLS])
async def test_every_call_is_repeated_when_mode_says_later(
    call: Callable[[UserApi], Awaitable[Any]], line: str, sent: object, reply: bytes, result: object
) -> None:
    async with serve(answer(429), answer(503), reply) as server, UserApi(server.url, "k", retry=AT_ONCE) as api:
        assert await call(api) == result
    assert server.connections == 3


@pytest.mark.parametrize(("call", "line", "sent", "reply", "result"), CALLS, ids=[each[1] for each in CALLS])
async def test_no_call_is_repeated_that_may_have_taken_effect(
    call: Callable[[UserApi], Awaitable[Any]], line: str, sent: object, reply: bytes, result: object
) -> None:
    async with serve(b"", reply) as server, UserApi(server.url, "k", retry=AT_ONCE) as api:
        with pytest.raises(CloudNoAnswerError):
            await call(api)
    assert server.connections == 1


@pytest.mark.parametrize(("call", "line", "sent", "reply", "result"), CALLS, ids=[each[1] for each in CALLS])
async def test_nobody_is_asked_before_somebody_is_signed_in(
    call: Callable[[UserApi], Awaitable[Any]], line: str, sent: object, reply: bytes, result: object
) -> None:
    async with serve(reply) as server, UserApi(server.url) as api:
        with pytest.raises(NotSignedInError):
            await call(api)
    assert server.connections == 0


@pytest.mark.parametrize("reason", ["DEVICE_NOT_CLAIMABLE", "DEVICE_ALREADY_IN_HOME"])
async def test_a_device_that_cannot_be_claimed_is_a_refusal_with_its_reason(reason: str) -> None:
    async with serve(answer(403, {"reason": reason})) as server, UserApi(server.url, "k", retry=AT_ONCE) as api:
        with pytest.raises(CloudRefusedError) as caught:
            await api.claim_device(5, "abcd-1234-efgh-5678")
    assert (caught.value.reason, server.connections) == (reason, 1)
    assert "abcd" not in str(caught.value)


async def test_a_claim_whose_answer_cannot_be_read_may_have_taken_effect_and_is_not_repeated() -> None:
    async with serve(answer(201, {})) as server, UserApi(server.url, "k", retry=AT_ONCE) as api:
        with pytest.raises(CloudNoAnswerError):
            await api.claim_device(5, "abcd-1234-efgh-5678")
    assert server.connections == 1


async def test_a_user_signs_in_with_a_form_and_the_session_is_used() -> None:
    session = {"token": "v1.session", "userId": 3, "expirationTime": "2015-08-25T21:44:37Z"}
    replies = answer(200, session), answer(200, {"type": "user"})
    async with serve(*replies) as server, UserApi(server.url) as api:
        signed_in = await api.sign_in(1, "app", "me@example.org", "pass&word")
        await api.identity()
    assert signed_in == UserSession("v1.session", 3, datetime(2015, 8, 25, 21, 44, 37, tzinfo=UTC))
    first, second = server.requests
    assert first.line == "POST /auth/user HTTP/1.1"
    assert "authorization" not in first.headers
    assert first.headers["content-type"] == "application/x-www-form-urlencoded"
    form = {"projectId": ["1"], "appId": ["app"], "email": ["me@example.org"], "password": ["pass&word"]}
    assert parse_qs(first.body.decode()) == form
    assert second.headers["authorization"] == "ModeCloud v1.session"


async def test_a_wrong_password_is_a_refusal() -> None:
    async with serve(answer(401)) as server, UserApi(server.url, retry=AT_ONCE) as api:
        with pytest.raises(CloudRefusedError):
            await api.sign_in(1, "app", "me@example.org", "wrong")
    assert server.connections == 1


async def test_waiting_longer_than_the_deadline_is_not_begun() -> None:
    async with serve(answer(429, headers={"Retry-After": "3000"})) as server, UserApi(server.url, "k") as api:
        with pytest.raises(CloudRetryLaterError) as caught:
            await api.identity()
    assert caught.value.retry_after_s == 3000
    assert server.connections == 1


async def test_a_list_may_be_larger_than_an_object_and_has_its_limit_too() -> None:
    long = answer(200, [{"id": n, "name": "x" * 1000} for n in range(1, 2 + LARGEST_OBJECT // 1000)])
    too_long = answer(200, [{"id": n, "name": "x" * 1000} for n in range(1, 2 + LARGEST_LIST // 1000)])
    async with serve(long, too_long) as server, UserApi(server.url, "k") as api:
        assert len(await api.devices(5)) > 60
        with pytest.raises(CloudNoAnswerError):
            await api.devices(5)


async def test_one_device_that_cannot_be_read_makes_the_list_unreadable() -> None:
    async with serve(answer(200, [{"id": 7}, {}])) as server, UserApi(server.url, "k") as api:
        with pytest.raises(CloudNoAnswerError):
            await api.devices(5)


def test_no_repr_shows_the_session_key() -> None:
    api = UserApi("https://h", "canary")
    assert "canary" not in repr(api) + repr(api.events)


def test_listening_is_what_loads_the_web_socket_library() -> None:
    check = "import sys, bletoken.mode.user_api; sys.exit(bool({'httpx_ws', 'wsproto'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
