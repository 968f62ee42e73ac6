"""The web socket on which MODE tells a user's app of its devices' events. It never reconnects by itself."""

import asyncio
import logging
from collections.abc import AsyncIterator, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Self

import httpcore
import httpx
from httpx_ws import AsyncWebSocketSession, WebSocketUpgradeError, aconnect_ws
from wsproto.connection import Connection, ConnectionType
from wsproto.events import Event, Message, TextMessage

from bletoken.errors import CloudError, CloudNoAnswerError
from bletoken.mode.http import LARGEST_OBJECT, Answer, Attempt, HTTPClient, parse_json
from bletoken.mode.models import DeviceEvent

MOST_WAITING: Final = 64
"""Events that wait for a slow reader; then the oldest are dropped."""

_log: Final = logging.getLogger(__name__)


class _EventStream:
    """Events in order of arrival, then the error that ended them, for ever."""

    def __init__(self) -> None:
        self.arrived: Final[asyncio.Queue[DeviceEvent | CloudError]] = asyncio.Queue()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> DeviceEvent:
        item = await self.arrived.get()
        if isinstance(item, CloudError):
            self.arrived.put_nowait(item)
            raise item
        return item


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


class _BoundedSession(AsyncWebSocketSession):
    def __init__(self, stream: httpcore.AsyncNetworkStream, **options: Any) -> None:  # noqa: ANN401 passed through
        super().__init__(stream, **options)
        self.connection = _BoundedConnection()


@asynccontextmanager
async def device_events(http: HTTPClient, key: str) -> AsyncIterator[AsyncIterator[DeviceEvent]]:
    """Listen to the events of the devices in a user's homes (`/userSession/websocket` in MODE's API reference).

    MODE does not keep events: what happens before this is entered is not told. Messages that cannot be read are
    skipped, and logged by their length.

    Args:
        http: The MODE to ask.
        key: The user's session key. A secret: it travels in a header, never in the URL.

    Yields:
        The events as they arrive. Where the connection ends, for whatever reason, iterating raises
        `CloudNoAnswerError` after the last event.

    Raises:
        CloudError: The connection was not made; as `HTTPClient.request`.
        UsageError: The key is not usable.
    """
    client = http.client(key)
    stream = _EventStream()
    opened: asyncio.Future[CloudError | None] = asyncio.get_running_loop().create_future()
    # A task of its own, so that a lost connection ends the stream and not whatever is done inside of `async with`.
    receiver = asyncio.create_task(_receive(client, http.timeout_s, stream, opened))
    try:
        failure = await opened
        if failure is not None:
            raise failure
        yield stream
    finally:
        receiver.cancel()
        await asyncio.wait([receiver])


async def _receive(
    client: httpx.AsyncClient,
    timeout_s: float,
    stream: _EventStream,
    opened: "asyncio.Future[CloudError | None]",
) -> None:
    attempt = Attempt()
    failure: CloudError
    try:
        async with AsyncExitStack() as connection:
            async with asyncio.timeout(timeout_s):
                await connection.enter_async_context(attempt)
                await connection.enter_async_context(client)
                session = await connection.enter_async_context(
                    aconnect_ws(
                        "userSession/websocket",
                        client,
                        session_class=_BoundedSession,
                        extensions=attempt.extensions,
                    )
                )
            opened.set_result(None)
            while True:
                _deliver(await session.receive(), stream)
    except WebSocketUpgradeError as e:
        answer = Answer(e.response.status_code, e.response.headers, None)
        failure = answer.error() or CloudNoAnswerError("MODE opened no web socket", status=answer.status)
    except Exception as e:  # noqa: BLE001 whatever the libraries let through (even groups), the stream gets an end
        failure = attempt.failure(e)
    if opened.done():
        stream.arrived.put_nowait(CloudNoAnswerError("the connection for MODE's events was lost"))
    else:
        opened.set_result(failure)


def _deliver(message: Event, stream: _EventStream) -> None:
    if not isinstance(message, TextMessage):
        _log.warning("MODE sent a %s, which is not an event", type(message).__name__)
        return
    try:
        event = DeviceEvent.from_json(parse_json(message.data))
    except (ValueError, CloudNoAnswerError):
        _log.warning("MODE sent an event of %d characters that cannot be read", len(message.data))
        return
    if stream.arrived.qsize() >= MOST_WAITING:
        stream.arrived.get_nowait()
        _log.warning("nobody reads MODE's events; the oldest was dropped")
    stream.arrived.put_nowait(event)
