"""The MODEs that a device meets on a bad day: nobody there, the wrong one, one that breaks off or says anything."""

import asyncio
import contextlib
import json
import socket
import ssl
import types
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

from handoff.bench import Bench
from unit.mode import loopback
from unit.mode.conftest import CA

from bletoken.sim.cloud.faults import Fault
from bletoken_peripheral import redeemer


@dataclass(frozen=True)
class Place:
    """Where a device looks for MODE.

    Attributes:
        posts: How many times a token has reached it.
        settings: Of the device, so that it looks there.
        healed: Of the device, once somebody has put right what was wrong; empty where nobody has to do anything.
        is_mode: Whether devices that are made there are in the local MODE's home.
    """

    posts: Callable[[], int]
    settings: dict[str, str] = field(default_factory=dict)
    healed: dict[str, str] = field(default_factory=dict)
    is_mode: bool = True


Arrange = Callable[[Bench], AbstractAsyncContextManager[Place]]


ENDPOINTS = {
    "redeem": "POST /devices",
    "auth": "GET /auth",
    "event": "PUT /devices/{id}/event",
    "register": "POST /deviceRegistration",
    "look": "GET /devices/{id}",
    "token": "POST /homes/{id}/deviceProvisioning",
    "home": "GET /devices",
    "remove": "DELETE /devices/{id}",
    "events": "GET /userSession/websocket",
}
"""What the two sides ask of MODE, by short names. A token is redeemed, and a device claimed, with the first."""


def failing(**faults: list[Fault]) -> Arrange:
    """The local MODE, with faults."""

    @asynccontextmanager
    async def arrange(bench: Bench) -> AsyncIterator[Place]:
        bench.mode.faults.replace({ENDPOINTS[name]: several for name, several in faults.items()})
        yield Place(lambda: len(bench.redemptions))

    return arrange


def at(url: str) -> Arrange:
    """A URL where there is no MODE."""

    @asynccontextmanager
    async def arrange(bench: Bench) -> AsyncIterator[Place]:
        yield Place(lambda: 0, {"mode_url": url}, {"mode_url": bench.mode.url})

    return arrange


@asynccontextmanager
async def closed(bench: Bench) -> AsyncIterator[Place]:
    """A port that nobody listens on, and that nobody else can take meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        yield Place(lambda: 0, {"mode_url": url}, {"mode_url": bench.mode.url})


def late(seconds: float) -> Arrange:
    """The local MODE, at a port that nobody listens on at first."""

    @asynccontextmanager
    async def arrange(bench: Bench) -> AsyncIterator[Place]:
        heard: list[str] = []
        port = loopback.free_port()

        async def begin() -> None:
            await asyncio.sleep(seconds)
            async with _in_front_of(bench, None, heard, port):
                await asyncio.Event().wait()

        beginning = asyncio.create_task(begin())
        try:
            yield Place(lambda: len(heard), {"mode_url": f"http://127.0.0.1:{port}"})
        finally:
            beginning.cancel()
            await asyncio.gather(beginning, return_exceptions=True)

    return arrange


@asynccontextmanager
async def full(bench: Bench) -> AsyncIterator[Place]:
    """A port whose owner takes no connection any more, so that the system answers none."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(listener.getsockname())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield Place(lambda: 0, {"mode_url": url}, {"mode_url": bench.mode.url})


def saying(*answers: bytes | loopback.Handler, tls: bool = False) -> Arrange:
    """A server that gives one of these answers to each connection, the last one again and again."""

    @asynccontextmanager
    async def arrange(bench: Bench) -> AsyncIterator[Place]:
        async with loopback.serve(*answers) as server:
            url = server.url.replace("http:", "https:") if tls else server.url
            yield Place(lambda: posts(server), {"mode_url": url}, {"mode_url": bench.mode.url})

    return arrange


def posts(server: loopback.Loopback) -> int:
    return sum(heard.line.startswith("POST /devices ") for heard in server.requests)


def playing(answer: bytes) -> Arrange:
    """A server that answers a token with this, and is otherwise a MODE that is content with everything."""
    said = json.loads(answer.partition(b"\r\n\r\n")[2])

    @asynccontextmanager
    async def arrange(bench: Bench) -> AsyncIterator[Place]:
        heard: list[str] = []

        async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            request = await loopback.read_request(reader)
            heard.append(request.line)
            identity = loopback.answer(200, {"type": "device", "deviceId": said["id"]})
            writer.write({"POST": answer, "GET": identity}.get(request.line.split()[0], loopback.answer(204)))
            await writer.drain()

        async with loopback.serve(play) as server:
            yield Place(lambda: sum(line.startswith("POST") for line in heard), {"mode_url": server.url}, is_mode=False)

    return arrange


def misdirecting(status: int) -> Arrange:
    """The local MODE, which sends the device on to a server that would take the token and answer well."""
    well = loopback.answer(201, {"id": 666, "apiKey": "v1.stolen"})

    @asynccontextmanager
    async def arrange(bench: Bench) -> AsyncIterator[Place]:
        async with (
            loopback.serve(well) as other,
            loopback.serve(loopback.answer(status, headers={"Location": f"{other.url}/devices"})) as first,
        ):
            yield Place(
                lambda: posts(first) + 100 * posts(other), {"mode_url": first.url}, {"mode_url": bench.mode.url}
            )

    return arrange


def certified(*, trusted: bool = True, in_1970: bool = False, **certificate: Any) -> Arrange:
    """MODE behind TLS with such a certificate; whoever heals it gets a good one.

    Args:
        trusted: Whether the device trusts the authority it is from.
        in_1970: Whether the device's clock says that it is 1970.
        certificate: As `CA.server`.
    """

    @asynccontextmanager
    async def arrange(bench: Bench) -> AsyncIterator[Place]:
        good, other = (_authority(bench.path / name) for name in ("good", "other"))
        heard: list[str] = []
        async with (
            _in_front_of(bench, good.server(**certificate), heard) as bad_url,
            _in_front_of(bench, good.server(), heard) as good_url,
        ):
            trust = {"mode_ca": str((good if trusted else other).file)}
            place = Place(
                lambda: len(heard),
                {"mode_url": bad_url, **trust},
                {"mode_url": good_url, "mode_ca": str(good.file)},
            )
            with _device_clock_in_1970() if in_1970 else contextlib.nullcontext():
                yield place

    return arrange


def _authority(folder: Path) -> CA:
    folder.mkdir()
    return CA(folder)


@asynccontextmanager
async def _in_front_of(bench: Bench, tls: ssl.SSLContext | None, heard: list[str], port: int = 0) -> AsyncIterator[str]:
    """Another way to the local MODE, with TLS or without, one request for each connection."""
    mode = urlsplit(bench.mode.url)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heard.extend(["POST"] * head.startswith(b"POST /devices "))
        inner_reader, inner_writer = await asyncio.open_connection(mode.hostname, mode.port)
        try:
            inner_writer.write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0")
            inner_writer.write(await reader.readexactly(int(length.partition(b":")[2])))
            writer.write(await inner_reader.read())
            await writer.drain()
        finally:
            inner_writer.close()

    async with loopback.serve(pass_on, tls=tls, port=port) as server:
        yield server.url


@contextlib.contextmanager
def _device_clock_in_1970() -> Any:
    """The device's own clock: what it compares with the companion's. Its TLS library asks the system's."""
    clock = types.SimpleNamespace(**{**vars(redeemer.time), "time": lambda: 10.0})
    with mock.patch.object(redeemer, "time", clock):
        yield
