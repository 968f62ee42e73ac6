"""A server on loopback that says exactly what a test wants, octet for octet, and keeps what it heard."""

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Heard:
    line: str
    headers: dict[str, str]
    body: bytes = field(repr=False)


@dataclass
class Loopback:
    url: str
    requests: list[Heard] = field(default_factory=list)
    connections: int = 0


def answer(
    status: int = 200, content: object = None, *, body: bytes | None = None, headers: dict[str, str] | None = None
) -> bytes:
    if body is None:
        body = b"" if content is None else json.dumps(content).encode()
    lines = {"Content-Type": "application/json; charset=utf-8", "Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} Said\r\n{head}\r\n".encode() + body


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection with a TCP reset."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def read_request(reader: asyncio.StreamReader) -> Heard:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    line, *rest = head.rstrip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in rest)}
    return Heard(line, headers, await reader.readexactly(int(headers.get("content-length", 0))))


@contextlib.asynccontextmanager
async def serve(*answers: bytes | Handler, tls: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[Loopback]:
    """Gives one answer to each connection, the last one again and again."""
    heard = Loopback("")
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        chosen = answers[min(heard.connections, len(answers) - 1)]
        heard.connections += 1
        try:
            if callable(chosen):
                await chosen(reader, writer)
            else:
                heard.requests.append(await read_request(reader))
                writer.write(chosen)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(connected, "127.0.0.1", port, ssl=tls)
    scheme, port = "http" if tls is None else "https", server.sockets[0].getsockname()[1]
    heard.url = f"{scheme}://127.0.0.1:{port}"
    try:
        yield heard
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
