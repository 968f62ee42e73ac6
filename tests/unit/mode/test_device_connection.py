import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import pytest
from httpcore import AnyIOBackend, WriteError
from unit.mode.conftest import CA
from unit.mode.loopback import Handler, Loopback, answer, free_port, read_request, reset, serve
from websockets.asyncio.server import Request, Response, ServerConnection
from websockets.asyncio.server import serve as serve_socket
from websockets.datastructures import Headers
from websockets.utils import accept_key

from bletoken.errors import (
    CloudError,
    CloudNoAnswerError,
    CloudRefusedError,
    CloudRetryLaterError,
    CloudUnreachableError,
    DeviceRemovedError,
    NotSignedInError,
    UsageError,
)
from bletoken.mode.credentials import Credentials
from bletoken.mode.device_connection import DeviceConnection
from bletoken.mode.http import LARGEST_OBJECT
from bletoken.mode.models import Command
from bletoken.mode.retry import RetryPolicy
from bletoken.mode.web_socket import MOST_WAITING, _BoundedStream

Talk = Callable[[ServerConnection], Awaitable[None]]

OURS: dict[str, object] = {"type": "device", "deviceId": 7, "projectId": 2}
NOBODY: dict[str, object] = {"type": "nobody"}


@dataclass
class Mode:
    """A MODE with one device, whose command socket says what `talk` does."""

    talk: Talk
    url: str = ""
    port: int = 0
    identity: dict[str, object] = field(default_factory=lambda: OURS)
    refusal: HTTPStatus | None = None
    asked: list[Request] = field(default_factory=list)

    def process(self, connection: ServerConnection, request: Request) -> Response | None:
        self.asked.append(request)
        authorized = request.headers.get("Authorization") == "ModeCloud v1.key"
        if request.path == "/auth":
            body = json.dumps(self.identity if authorized else NOBODY).encode()
            headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body))})
            return Response(200, "OK", headers, body)
        if request.path != "/devices/7/command":
            return connection.respond(HTTPStatus.NOT_FOUND, "no\n")
        if not authorized or self.refusal:
            return connection.respond(self.refusal or HTTPStatus.UNAUTHORIZED, "no\n")
        return None

    @contextlib.asynccontextmanager
    async def running(self, ca: CA | None = None) -> AsyncIterator["Mode"]:
        tls = ca.server() if ca else None
        async with serve_socket(self.talk, "127.0.0.1", self.port, process_request=self.process, ssl=tls) as server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            self.url = f"{'https' if ca else 'http'}://127.0.0.1:{self.port}"
            yield self

    @property
    def connections(self) -> int:
        return sum(request.path == "/devices/7/command" for request in self.asked)


class Time:
    """Time that passes only when somebody sleeps, or when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self._paused = asyncio.Condition()

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        async with self._paused:
            self.pauses.append(seconds)
            self._paused.notify_all()

    async def first_pauses(self, count: int) -> list[float]:
        async with self._paused:
            await self._paused.wait_for(lambda: len(self.pauses) >= count)
        return self.pauses[:count]


class Changes:
    """What a device is told of its connection."""

    def __init__(self) -> None:
        self.told: list[CloudError | None] = []
        self._waiting: asyncio.Queue[CloudError | None] = asyncio.Queue()

    def __call__(self, error: CloudError | None) -> None:
        self.told.append(error)
        self._waiting.put_nowait(error)

    async def next(self) -> CloudError | None:
        return await self._waiting.get()


@pytest.fixture
def time() -> Time:
    return Time()


def connection(url: str, time: Time, key: str = "v1.key", **options: Any) -> DeviceConnection:
    defaults = {"timeout_s": 5, "sleep": time.sleep, "clock": lambda: time.now, "jitter": lambda: 0.0}
    return DeviceConnection(Credentials(7, key, url), **{**defaults, **options})


def command(number: int, **parameters: object) -> str:
    return json.dumps({"action": f"a{number}", "parameters": parameters})


async def stay(socket: ServerConnection) -> None:
    await socket.wait_closed()


# Commands -----------------------------------------------------------------------------------------------------------


async def three_commands(socket: ServerConnection) -> None:
    for number in range(3):
        await socket.send(command(number, n=number))
    await stay(socket)


async def test_commands_arrive_in_order(time: Time) -> None:
    async with Mode(three_commands).running() as mode, connection(mode.url, time) as device:
        commands = device.commands()
        assert [await anext(commands) for _ in range(3)] == [Command(f"a{n}", {"n": n}) for n in range(3)]


async def test_commands_arrive_over_tls(time: Time, ca: CA) -> None:
    async with (
        Mode(three_commands).running(ca) as mode,
        connection(mode.url, time, ca_file=ca.file) as device,
    ):
        assert (await anext(device.commands())).action == "a0"


async def test_the_key_is_in_a_header_and_in_no_url_no_log_and_no_repr(
    time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with Mode(three_commands).running() as mode, connection(mode.url, time) as device:
        await anext(device.commands())
        assert "v1.key" not in repr(device)
    [request] = mode.asked
    assert (request.path, request.headers["Authorization"]) == ("/devices/7/command", "ModeCloud v1.key")
    lines = [each.getMessage() for each in caplog.records if not each.name.startswith("websockets")]
    assert lines
    assert "v1.key" not in "".join(lines)


@pytest.mark.parametrize("said", ['{"action": "on"}', '{"action": "on", "parameters": null}'])
async def test_a_command_without_parameters_has_none(time: Time, said: str) -> None:
    async def talk(socket: ServerConnection) -> None:
        await socket.send(said)
        await stay(socket)

    async with Mode(talk).running() as mode, connection(mode.url, time) as device:
        assert await anext(device.commands()) == Command("on", {})


@pytest.mark.parametrize(
    "nonsense",
    ["", "{", "[]", "5", "{}", '{"action": 5}', '{"action": "on", "parameters": [1]}', b"\x00", "[" * 50_000],
)
async def test_what_is_no_command_is_skipped_and_only_its_length_is_logged(
    time: Time, nonsense: str | bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def talk(socket: ServerConnection) -> None:
        await socket.send(nonsense)
        await socket.send(command(2))
        await stay(socket)

    async with Mode(talk).running() as mode, connection(mode.url, time) as device:
        assert (await anext(device.commands())).action == "a2"
    (record,) = (each for each in caplog.records if each.levelno == logging.WARNING)
    assert len(record.getMessage()) < 100
    assert time.pauses == []


async def test_a_slow_taker_loses_the_oldest_commands_and_not_the_connection(time: Time) -> None:
    sent = asyncio.Event()

    async def talk(socket: ServerConnection) -> None:
        for number in range(MOST_WAITING + 10):
            await socket.send(command(number))
        # The answer to a ping shows that everything before it was taken in.
        await (await socket.ping())
        sent.set()
        await stay(socket)

    async with Mode(talk).running() as mode, connection(mode.url, time) as device:
        await sent.wait()
        assert (await anext(device.commands())).action == "a10"
    assert mode.connections == 1


async def test_each_command_is_given_to_one_taker(time: Time) -> None:
    async with Mode(three_commands).running() as mode, connection(mode.url, time) as device:
        taken = await asyncio.gather(*(anext(device.commands()) for _ in range(3)))
    assert sorted(each.action for each in taken) == ["a0", "a1", "a2"]


# Reconnection -------------------------------------------------------------------------------------------------------


async def _close(socket: ServerConnection) -> None:
    await socket.close()


async def _abort(socket: ServerConnection) -> None:
    socket.transport.abort()


async def _break_the_framing(socket: ServerConnection) -> None:
    socket.transport.write(b"\xff" * 64)
    await stay(socket)


async def _say_too_much(socket: ServerConnection) -> None:
    await socket.send("x" * (LARGEST_OBJECT + 1))
    await stay(socket)


@pytest.mark.parametrize("end", [_close, _abort, _break_the_framing, _say_too_much])
async def test_commands_go_on_over_a_connection_that_is_lost_again_and_again(time: Time, end: Talk) -> None:
    async def talk(socket: ServerConnection) -> None:
        await socket.send(command(mode.connections))
        await end(socket)

    async with Mode(talk).running() as mode, connection(mode.url, time) as device:
        commands = device.commands()
        assert [(await anext(commands)).action for _ in range(4)] == ["a1", "a2", "a3", "a4"]
    assert len(time.pauses) >= 3


async def test_commands_go_on_after_mode_was_away(time: Time) -> None:
    async def talk(socket: ServerConnection) -> None:
        await socket.send(command(mode.connections))
        await stay(socket)

    changes = Changes()
    mode = Mode(talk, port=free_port())
    async with connection(f"http://127.0.0.1:{mode.port}", time, on_change=changes) as device:
        commands = device.commands()
        # It is not even there at first.
        assert isinstance(await changes.next(), CloudUnreachableError)
        async with mode.running():
            assert await changes.next() is None
            assert (await anext(commands)).action == "a1"
        assert isinstance(await changes.next(), CloudNoAnswerError)
        await time.first_pauses(len(time.pauses) + 3)
        async with mode.running():
            assert (await anext(commands)).action == "a2"
    # However often it was tried meanwhile.
    assert [error is None for error in changes.told][:4] == [False, True, False, True]


async def test_a_peer_that_is_gone_is_noticed(time: Time) -> None:
    async def talk(socket: ServerConnection) -> None:
        if mode.connections > 1:
            await socket.send(command(2))
            await stay(socket)
            return
        # As when the network's plug is pulled: nothing arrives, and nothing ends.
        socket.transport.pause_reading()
        while mode.connections == 1:
            await asyncio.sleep(0)
        socket.transport.abort()

    async with Mode(talk).running() as mode, connection(mode.url, time, ping_s=0.2) as device:
        assert (await anext(device.commands())).action == "a2"


async def test_a_peer_that_is_there_is_left_alone(time: Time) -> None:
    pings = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal pings
        request = await read_request(reader)
        accept = accept_key(request.headers["sec-websocket-key"])
        upgrade = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n"
        writer.write(f"HTTP/1.1 101 Go\r\n{upgrade}\r\n".encode())
        while pings < 3:
            # A masked ping of 32 octets.
            frame = await reader.readexactly(2 + 4 + 32)
            assert frame[:2] == b"\x89\xa0"
            mask, payload = frame[2:6], frame[6:]
            writer.write(b"\x8a\x20" + bytes(octet ^ mask[i % 4] for i, octet in enumerate(payload)))
            pings += 1
        text = command(pings).encode()
        writer.write(bytes([0x81, len(text)]) + text)
        await reader.read()

    async with serve(talk) as server, connection(server.url, time, ping_s=0.5) as device:
        assert (await anext(device.commands())).action == "a3"
    assert (server.connections, time.pauses) == (1, [])


async def test_writing_to_a_peer_that_reads_nothing_ends() -> None:
    async def read_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with serve(read_nothing) as server:
        port = int(server.url.rpartition(":")[2])
        stream = _BoundedStream(await AnyIOBackend().connect_tcp("127.0.0.1", port), 0.1)
        with pytest.raises(WriteError):
            await stream.write(b"x" * 50_000_000)
        await stream.aclose()


@pytest.mark.parametrize(
    ("jitter", "expected"), [(0.0, [0.5, 1, 2, 4, 8, 16, 30, 30]), (1.0, [1, 2, 4, 8, 16, 32, 60, 60])]
)
async def test_pauses_grow_to_a_minute_and_are_never_none(time: Time, jitter: float, expected: list[float]) -> None:
    async with (
        serve(answer(500)) as server,
        connection(server.url, time, jitter=lambda: jitter),
    ):
        assert await time.first_pauses(8) == expected


async def test_pauses_begin_anew_after_a_connection_that_lasted(time: Time) -> None:
    def on_change(error: CloudError | None) -> None:
        if error is None and mode.connections == 4:
            time.now += 60

    async with Mode(_close).running() as mode, connection(mode.url, time, on_change=on_change):
        assert await time.first_pauses(6) == [0.5, 1, 2, 0.5, 1, 2]


@pytest.mark.parametrize("status", [429, 503])
async def test_mode_is_left_alone_for_as_long_as_it_says(time: Time, status: int) -> None:
    replies = answer(status, headers={"Retry-After": "300"}), answer(status)
    async with serve(*replies) as server, connection(server.url, time):
        assert await time.first_pauses(3) == [300, 1, 2]


async def test_the_device_is_told_why_it_is_not_connected(time: Time) -> None:
    changes = Changes()
    async with serve(answer(429)) as server, connection(server.url, time, on_change=changes):
        assert isinstance(await changes.next(), CloudRetryLaterError)


# The key ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", [NOBODY, {"type": "device", "deviceId": 8}, {"type": "user", "userId": 7}])
@pytest.mark.parametrize("refusal", [401, 403, 404])
async def test_a_key_that_is_not_accepted_any_more_ends_it_for_ever(
    time: Time, identity: dict[str, object], refusal: int
) -> None:
    async with (
        Mode(stay, identity=identity, refusal=HTTPStatus(refusal)).running() as mode,
        connection(mode.url, time) as device,
    ):
        for _ in range(2):
            with pytest.raises(DeviceRemovedError, match="device 7") as caught:
                await anext(device.commands())
    assert "reset" in caught.value.advice
    assert mode.connections == 1


async def test_a_device_that_is_removed_while_it_is_connected_ends_as_well(time: Time) -> None:
    async def talk(socket: ServerConnection) -> None:
        await socket.send(command(1))
        mode.identity = NOBODY
        await socket.close(1008)

    async with Mode(talk).running() as mode, connection(mode.url, time) as device:
        commands = device.commands()
        assert (await anext(commands)).action == "a1"
        with pytest.raises(DeviceRemovedError):
            await anext(commands)
    assert mode.connections == 1


async def test_a_refusal_ends_nothing_while_the_key_is_accepted(time: Time) -> None:
    mode = Mode(three_commands, refusal=HTTPStatus.FORBIDDEN)
    async with mode.running(), connection(mode.url, time) as device:
        await time.first_pauses(3)
        mode.refusal = None
        assert (await anext(device.commands())).action == "a0"


async def test_a_refusal_ends_nothing_while_nobody_can_say_whose_key_it_is(time: Time) -> None:
    async with serve(answer(403), answer(500)) as server, connection(server.url, time):
        await time.first_pauses(3)
    assert server.connections >= 4


async def test_whoever_did_not_ask_for_commands_is_told_on_leaving(time: Time) -> None:
    changes = Changes()
    async with Mode(stay, refusal=HTTPStatus.UNAUTHORIZED, identity=NOBODY).running() as mode:
        with pytest.raises(DeviceRemovedError):
            async with connection(mode.url, time, on_change=changes) as device:
                await asyncio.wait({device._running})


async def test_a_key_that_is_none_is_not_sent(time: Time) -> None:
    async with connection(f"http://127.0.0.1:{free_port()}", time, key="a b") as device:
        with pytest.raises(UsageError):
            await anext(device.commands())


@pytest.mark.parametrize("url", ["", "ftp://mode.example"])
def test_an_unusable_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(UsageError):
        DeviceConnection(Credentials(7, "k", url))


# Leaving ------------------------------------------------------------------------------------------------------------


async def _until_connected(device: DeviceConnection, changes: Changes) -> None:
    assert await changes.next() is None


async def _until_pausing(device: DeviceConnection, changes: Changes) -> None:
    assert await changes.next() is not None


async def _at_once(device: DeviceConnection, changes: Changes) -> None:
    pass


@pytest.mark.parametrize(
    ("refusal", "until"),
    [(None, _until_connected), (HTTPStatus.INTERNAL_SERVER_ERROR, _until_pausing), (None, _at_once)],
)
@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_leaving_leaves_nothing_behind(
    refusal: HTTPStatus | None,
    until: Callable[[DeviceConnection, Changes], Awaitable[None]],
    is_cancelled: bool,
    time: Time,
) -> None:
    hung_up = asyncio.Event()

    async def talk(socket: ServerConnection) -> None:
        await socket.wait_closed()
        hung_up.set()

    async def forever(_: float) -> None:
        await asyncio.Event().wait()

    inside = asyncio.Event()
    changes = Changes()
    taken: list[Command] = []

    async def take(device: DeviceConnection) -> None:
        taken.extend([command async for command in device.commands()])

    async def run() -> None:
        async with connection(mode.url, time, sleep=forever, on_change=changes) as device:
            taking = asyncio.create_task(take(device))
            await until(device, changes)
            inside.set()
            if is_cancelled:
                await asyncio.Event().wait()
        # Whoever takes commands elsewhere comes to an end without an error.
        await taking

    async with Mode(talk, refusal=refusal).running() as mode:
        before = asyncio.all_tasks()
        running = asyncio.create_task(run())
        await inside.wait()
        if is_cancelled:
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        await asyncio.wait({running})
        if until is _until_connected:
            await hung_up.wait()
        # What is left is the server's.
        assert [task for task in asyncio.all_tasks() - before if "websockets" not in repr(task)] == []


async def test_leaving_does_not_wait_for_a_mode_that_says_nothing(time: Time) -> None:
    heard, hung_up = asyncio.Event(), asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        heard.set()
        await reader.read()
        hung_up.set()

    async with serve(say_nothing) as server:
        async with connection(server.url, time):
            await heard.wait()
        await hung_up.wait()


async def test_what_the_device_raises_on_a_change_ends_the_connection(time: Time) -> None:
    def fail(_: CloudError | None) -> None:
        raise ZeroDivisionError

    async with Mode(stay).running() as mode, connection(mode.url, time, on_change=fail) as device:
        with pytest.raises(ZeroDivisionError):
            await anext(device.commands())


# Events -------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def taking_events(*answers: bytes | Handler, auth: bytes | None = None) -> AsyncIterator[Loopback]:
    """A MODE that gives these answers to events, and opens no command socket."""
    left = list(answers)

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        if request.line.startswith("PUT"):
            server.requests.append(request)
            chosen = left.pop(0) if len(left) > 1 else left[0]
            if callable(chosen):
                await chosen(reader, writer)
                return
            writer.write(chosen)
        elif request.line.startswith("GET /auth"):
            writer.write(auth or answer(200, OURS))
        else:
            writer.write(answer(500))
        await writer.drain()

    async with serve(reply) as server:
        yield server


NEVER = RetryPolicy(first_delay_s=1e6, longest_delay_s=1e6)


def telling(url: str, time: Time) -> DeviceConnection:
    """A device that tries once to connect, and disturbs no event."""

    async def sleep(seconds: float) -> None:
        if seconds >= NEVER.first_delay_s / 2:
            await asyncio.Event().wait()
        await time.sleep(seconds)

    return connection(url, time, sleep=sleep, reconnect=NEVER)


async def test_an_event_needs_no_connection(time: Time) -> None:
    async with taking_events(answer(204)) as server, telling(server.url, time) as device:
        await device.trigger_event("temperature", {"value": 21})
        await device.trigger_event("on")
    first, second = server.requests
    assert first.line == "PUT /devices/7/event HTTP/1.1"
    assert first.headers["authorization"] == "ModeCloud v1.key"
    assert json.loads(first.body) == {"eventType": "temperature", "eventData": {"value": 21}}
    assert json.loads(second.body) == {"eventType": "on"}


async def test_an_event_that_had_no_effect_is_repeated(time: Time) -> None:
    replies = answer(429), answer(503), answer(204)
    async with taking_events(*replies) as server, telling(server.url, time) as device:
        await device.trigger_event("on")
    assert len(server.requests) == 3


async def test_an_event_that_mode_takes_too_late_is_not_told(time: Time) -> None:
    later = answer(429, headers={"Retry-After": "3000"})
    async with taking_events(later) as server, telling(server.url, time) as device:
        with pytest.raises(CloudRetryLaterError):
            await device.trigger_event("on")
    assert len(server.requests) == 1


async def test_an_event_to_nobody_is_tried_for_a_while(time: Time) -> None:
    async with telling(f"http://127.0.0.1:{free_port()}", time) as device:
        with pytest.raises(CloudUnreachableError):
            await device.trigger_event("on")
    assert time.pauses == [0.25, 0.5, 1, 2, 4, 4, 4, 4]


async def _reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reset(writer)


@pytest.mark.parametrize("reply", [b"", answer(500), answer(408), _reset])
async def test_an_event_that_may_have_been_told_is_not_repeated(time: Time, reply: bytes | Handler) -> None:
    async with taking_events(reply, answer(204)) as server, telling(server.url, time) as device:
        with pytest.raises(CloudNoAnswerError):
            await device.trigger_event("on")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "auth", "error"),
    [
        (401, answer(200, NOBODY), DeviceRemovedError),
        (401, answer(401), DeviceRemovedError),
        (404, answer(200, NOBODY), DeviceRemovedError),
        (403, answer(200, OURS), CloudRefusedError),
        (401, answer(200, OURS), NotSignedInError),
        (401, answer(500), NotSignedInError),
    ],
)
async def test_a_refused_event_tells_whether_it_is_about_the_key(
    time: Time, status: int, auth: bytes, error: type[Exception]
) -> None:
    async with taking_events(answer(status), auth=auth) as server, telling(server.url, time) as device:
        with pytest.raises(error) as caught:
            await device.trigger_event("on")
    assert type(caught.value) is error
    assert len(server.requests) == 1
