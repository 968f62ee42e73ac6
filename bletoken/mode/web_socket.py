"""A web socket on which MODE tells something, message by message. It never reconnects by itself, and says nothing."""

import asyncio
import collections
import logging
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Generic, Self, TypeVar

import httpcore
from httpx_ws import AsyncWebSocketSession, WebSocketUpgradeError, aconnect_ws
from wsproto.connection import Connection, ConnectionType
from wsproto.events import Event, Message, TextMessage

from bletoken.errors import CloudError, CloudNoAnswerError
from bletoken.mode.http import LARGEST_OBJECT, PING_S, Answer, Attempt, HTTPClient, parse_json

MOST_WAITING: Final = 64
"""Messages that wait for a slow reader; then the oldest are dropped."""

_T = TypeVar("_T")

_log: Final = logging.getLogger(__name__)


class Inbox(Generic[_T]):
    """Messages in order of arrival, then what ended them, for ever."""

    def __init__(self) -> None:
        self._waiting: Final[collections.deque[_T]] = collections.deque()
        self._end: Exception | None = None
        self._has_something: Final = asyncio.Event()

    def put(self, message: _T) -> None:
        """Let a message wait; where too many do, the oldest is dropped."""
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            _log.warning("nobody takes what MODE sends; the oldest was dropped")
        self._waiting.append(message)
        self._has_something.set()

    def end(self, error: Exception | None) -> None:
        """Let iterating end after the last message, with this error if there is one. Only the first end counts."""
        self._end = self._end or error or StopAsyncIteration()
        self._has_something.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _T:
        # Several may wait for the same one.
        while not self._waiting:
            if self._end is not None:
                raise self._end
            self._has_something.clear()
            await self._has_something.wait()
        return self._waiting.popleft()


class _BoundedConnection(Connection):
    """Bounds what `httpx_ws` collects of one message: its own size argument is only how much it reads at a time."""

    def __init__(self) -> None:
        super().__init__(ConnectionType.CLIENT)
        self._size = 0

    def events(self) -> Generator[Event, None, None]:
        for event in super().events():
            if isinstance(event, Message):
                self._size += len(event.data)
                if self._size > LARGEST_OBJECT:
                    # The one exception that the session takes for a lost connection.
                    raise httpcore.ReadError("message too large")
                if event.message_finished:
                    self._size = 0
            yield event


class _BoundedStream(httpcore.AsyncNetworkStream):
    """Bounds how long a write takes: to a peer that reads nothing it could take for ever, hanging up included."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, write_timeout_s: float) -> None:
        self._stream = stream
        self._write_timeout_s = write_timeout_s

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 the library's own
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 the library's own
        try:
            await self._stream.write(buffer, timeout or self._write_timeout_s)
        except httpcore.WriteTimeout as e:
            raise httpcore.WriteError("the peer reads nothing") from e

    async def aclose(self) -> None:
        await self._stream.aclose()


class _BoundedSession(AsyncWebSocketSession):
    def __init__(
        self,
        stream: httpcore.AsyncNetworkStream,
        *,
        keepalive_ping_timeout_seconds: float,
        **options: Any,  # noqa: ANN401 passed through
    ) -> None:
        super().__init__(
            _BoundedStream(stream, keepalive_ping_timeout_seconds),
            keepalive_ping_timeout_seconds=keepalive_ping_timeout_seconds,
            **options,
        )
        self.connection = _BoundedConnection()


@asynccontextmanager
async def listen(
    http: HTTPClient, path: str, key: str, read: Callable[[object], _T], *, ping_s: float = PING_S
) -> AsyncIterator[AsyncIterator[_T]]:
    """Listen to what MODE tells on one web socket, from now on.

    Messages that cannot be read are skipped, and logged by their length. Of those that nobody takes the oldest are
    dropped; see `Inbox`.

    Args:
        http: The MODE to ask.
        path: The path below the base URL.
        key: The MODE key to authorize with. A secret: it travels in a header, never in the URL.
        read: Reads a message's JSON, or raises `CloudNoAnswerError`.
        ping_s: Seconds after which MODE is asked for a sign of life, and again that it has to give one.

    Yields:
        The messages as they arrive. Where the connection ends, for whatever reason, iterating raises
        `CloudNoAnswerError` after the last one.

    Raises:
        CloudError: The connection was not made; as `HTTPClient.request`.
        UsageError: The key is not usable.
    """
    client = http.client(key)
    inbox: Inbox[_T] = Inbox()
    opened: asyncio.Future[CloudError | None] = asyncio.get_running_loop().create_future()

    def deliver(message: Event) -> None:
        if not isinstance(message, TextMessage):
            _log.warning("MODE sent a %s on %s, which is not text", type(message).__name__, path)
            return
        try:
            content = read(parse_json(message.data))
        except (ValueError, CloudNoAnswerError):
            _log.warning("MODE sent %d characters on %s that cannot be read", len(message.data), path)
            return
        inbox.put(content)

    async def receive() -> None:
        attempt = Attempt()
        failure: CloudError
        try:
            async with AsyncExitStack() as connection:
                async with asyncio.timeout(http.timeout_s):
                    await connection.enter_async_context(attempt)
                    await connection.enter_async_context(client)
                    session = await connection.enter_async_context(
                        aconnect_ws(
                            path,
                            client,
                            session_class=_BoundedSession,
                            keepalive_ping_interval_seconds=ping_s,
                            keepalive_ping_timeout_seconds=ping_s,
                            extensions=attempt.extensions,
                        )
                    )
                opened.set_result(None)
                while True:
                    deliver(await session.receive())
        except WebSocketUpgradeError as e:
            answer = Answer(e.response.status_code, e.response.headers, None)
            failure = answer.error() or CloudNoAnswerError("MODE opened no web socket", status=answer.status)
        except Exception as e:  # noqa: BLE001 whatever the libraries let through (even groups), the messages get an end
            failure = attempt.failure(e)
        if opened.done():
            inbox.end(CloudNoAnswerError("the connection to MODE was lost"))
        else:
            opened.set_result(failure)

    # A task of its own, so that a lost connection ends the messages and not whatever is done inside of `async with`.
    receiver = asyncio.create_task(receive())
    try:
        failure = await opened
        if failure is not None:
            raise failure
        yield inbox
    finally:
        receiver.cancel()
        await asyncio.wait([receiver])
