import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from pathlib import Path

import pytest
from unit.mode.conftest import CA
from unit.mode.loopback import answer, free_port, serve
from websockets.asyncio.server import Request, Response, ServerConnection
from websockets.asyncio.server import serve as serve_socket

from bletoken.errors import (
    CloudError,
    CloudNoAnswerError,
    CloudRefusedError,
    CloudRetryLaterError,
    CloudUnreachableError,
    NotSignedInError,
    UsageError,
)
from bletoken.mode.http import LARGEST_OBJECT
from bletoken.mode.user_api import UserApi
from bletoken.mode.web_socket import MOST_WAITING

Talk = Callable[[ServerConnection], Awaitable[None]]


def event(number: int = 1, **changes: object) -> str:
    fields = {
        "homeId": 5,
        "timestamp": "2015-08-25T21:44:37.744323372Z",
        "eventType": f"e{number}",
        "originDeviceId": 7,
    }
    return json.dumps({**fields, **changes})


@contextlib.asynccontextmanager
async def mode(talk: Talk, ca: CA | None = None) -> AsyncIterator[str]:
    """A MODE whose web socket says what `talk` does."""

    def check(connection: ServerConnection, request: Request) -> Response | None:
        key = request.headers.get("Authorization")
        if request.path == "/userSession/websocket" and key == "ModeCloud v1.session":
            return None
        return connection.respond(HTTPStatus.UNAUTHORIZED, "no\n")

    tls = ca.server() if ca else None
    async with serve_socket(talk, "127.0.0.1", 0, process_request=check, ssl=tls) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"{'https' if ca else 'http'}://127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def listening(url: str, key: str = "v1.session", ca_file: Path | None = None) -> AsyncIterator[AsyncIterator]:  # type: ignore[type-arg]
    async with UserApi(url, key, ca_file=ca_file, timeout_s=5) as api, api.events() as events:
        yield events


async def stay(socket: ServerConnection) -> None:
    await socket.wait_closed()


async def test_events_arrive_in_order() -> None:
    async def talk(socket: ServerConnection) -> None:
        for number in range(3):
            await socket.send(event(number, eventData={"n": number}))
        await stay(socket)

    async with mode(talk) as url, listening(url) as events:
        for number in range(3):
            got = await anext(events)
            assert (got.event_type, got.event_data, got.origin_device_id) == (f"e{number}", {"n": number}, 7)


async def test_events_arrive_over_tls(ca: CA) -> None:
    async def talk(socket: ServerConnection) -> None:
        await socket.send(event())
        await stay(socket)

    async with mode(talk, ca) as url, listening(url, ca_file=ca.file) as events:
        assert (await anext(events)).event_type == "e1"


@pytest.mark.parametrize(
    "nonsense",
    [
        "",
        "{",
        "[]",
        "5",
        "[" * 50_000,
        event(homeId=True),
        event(timestamp="now"),
        event(eventType=5),
        b"\x00",
        event()[:-1],
    ],
)
async def test_what_is_no_event_is_skipped_and_only_its_length_is_logged(
    nonsense: str | bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def talk(socket: ServerConnection) -> None:
        await socket.send(nonsense)
        await socket.send(event(2))
        await stay(socket)

    async with mode(talk) as url, listening(url) as events:
        assert (await anext(events)).event_type == "e2"
    (record,) = (each for each in caplog.records if each.name == "bletoken.mode.web_socket")
    assert record.levelno == logging.WARNING
    assert len(record.getMessage()) < 100


async def test_an_event_may_come_in_many_fragments() -> None:
    async def pieces(socket: ServerConnection) -> None:
        text = event(eventData={"a": "x" * 5000})
        await socket.send([text[i : i + 7] for i in range(0, len(text), 7)])
        await stay(socket)

    async with mode(pieces) as url, listening(url) as events:
        assert (await anext(events)).event_data == {"a": "x" * 5000}


@pytest.mark.parametrize("fragments", [1, 9])
async def test_a_message_that_is_too_large_ends_the_connection(fragments: int) -> None:
    async def talk(socket: ServerConnection) -> None:
        await socket.send(event(1))
        size = LARGEST_OBJECT // fragments + 1
        await socket.send("x" * size if fragments == 1 else ["x" * size] * fragments)
        await stay(socket)

    async with mode(talk) as url, listening(url) as events:
        assert (await anext(events)).event_type == "e1"
        with pytest.raises(CloudNoAnswerError, match="lost"):
            await anext(events)


async def test_many_small_messages_are_not_one_large_one() -> None:
    count = LARGEST_OBJECT // 1000 + 5

    async def talk(socket: ServerConnection) -> None:
        for number in range(count):
            await socket.send(event(number, eventData={"a": "x" * 1000}))
        await stay(socket)

    async with mode(talk) as url, listening(url) as events:
        for number in range(count):
            assert (await anext(events)).event_type == f"e{number}"


async def _close(socket: ServerConnection) -> None:
    await socket.close()


async def _abort(socket: ServerConnection) -> None:
    socket.transport.abort()


async def _break_the_framing(socket: ServerConnection) -> None:
    socket.transport.write(b"\xff" * 64)
    await stay(socket)


@pytest.mark.parametrize("end", [_close, _abort, _break_the_framing])
async def test_the_end_of_the_connection_comes_after_the_last_event_and_stays(end: Talk) -> None:
    async def talk(socket: ServerConnection) -> None:
        await socket.send(event(1))
        await end(socket)

    async with mode(talk) as url, listening(url) as events:
        assert (await anext(events)).event_type == "e1"
        for _ in range(2):
            with pytest.raises(CloudNoAnswerError, match="lost"):
                await anext(events)


async def test_a_lost_connection_does_not_disturb_what_is_done_meanwhile() -> None:
    async with mode(_abort) as url, listening(url) as events:
        await asyncio.sleep(0.1)
        with pytest.raises(CloudNoAnswerError):
            await anext(events)


async def test_an_error_of_the_listener_comes_out_as_itself() -> None:
    async with mode(stay) as url:
        with pytest.raises(ZeroDivisionError):
            async with listening(url):
                raise ZeroDivisionError


async def test_a_listener_can_be_cancelled_and_hangs_up() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def talk(socket: ServerConnection) -> None:
        await socket.wait_closed()
        ended.set()

    async def listen(url: str) -> None:
        async with listening(url) as events:
            began.set()
            await anext(events)

    async with mode(talk) as url:
        task = asyncio.create_task(listen(url))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await ended.wait()


async def test_a_slow_listener_loses_the_oldest_events_and_not_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sent = asyncio.Event()

    async def talk(socket: ServerConnection) -> None:
        for number in range(MOST_WAITING + 10):
            await socket.send(event(number))
        # The answer to a ping shows that everything before it was taken in.
        await (await socket.ping())
        sent.set()
        await stay(socket)

    async with mode(talk) as url, listening(url) as events:
        await sent.wait()
        assert (await anext(events)).event_type == "e10"
    assert "dropped" in caplog.text


async def _opening(url: str, key: str = "v1.session") -> None:
    async with listening(url, key):
        pytest.fail("it opened")


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (answer(401), NotSignedInError),
        (answer(403), CloudRefusedError),
        (answer(429, headers={"Retry-After": "9"}), CloudRetryLaterError),
        (answer(500), CloudNoAnswerError),
        (answer(200), CloudNoAnswerError),
        (answer(302, headers={"Location": "/elsewhere"}), CloudNoAnswerError),
        (b"", CloudNoAnswerError),
    ],
)
async def test_a_web_socket_that_mode_does_not_open_is_the_error_of_its_answer(
    reply: bytes, error: type[CloudError]
) -> None:
    async with serve(reply) as server:
        with pytest.raises(CloudError) as caught:
            await _opening(server.url)
    assert type(caught.value) is error
    assert server.connections == 1


async def test_a_wrong_key_is_refused_and_in_no_log_and_no_url(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with mode(stay) as url:
        with pytest.raises(NotSignedInError):
            await _opening(url, "v1.canary")
    lines = [each.getMessage() for each in caplog.records if not each.name.startswith("websockets")]
    assert lines
    assert "v1.canary" not in "".join(lines)


async def test_nothing_left_when_the_connection_is_refused() -> None:
    with pytest.raises(CloudUnreachableError):
        await _opening(f"http://127.0.0.1:{free_port()}")


async def test_a_key_that_is_none_is_not_sent() -> None:
    with pytest.raises(UsageError):
        await _opening(f"http://127.0.0.1:{free_port()}", "a b")


async def test_opening_has_a_deadline() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serve(say_nothing) as server, UserApi(server.url, "k", timeout_s=1) as api:
        with pytest.raises(CloudNoAnswerError):
            async with api.events():
                pytest.fail("it opened")
