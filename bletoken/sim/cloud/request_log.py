"""What was asked and what was answered, so that tests can count; never bodies, keys, ids or queries."""

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from starlette.routing import BaseRoute, Match, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CAPACITY: Final = 10_000
"""How many requests are remembered; then the oldest are forgotten."""

SCOPE_KEY: Final = "bletoken.request"
"""Where in the ASGI scope the request's log entry is."""

ADMIN_PREFIX: Final = "/_sim/"
"""Requests below this path are the test's own, and are neither logged nor disturbed."""


@dataclass
class LoggedRequest:
    """One request.

    Attributes:
        number: Counts up from 1.
        endpoint: Method and path template, for instance `GET /devices/{id}`; `UNKNOWN` where there is no such path.
        decided: The status that MODE decided on; None while, or if, the request never reached it.
        status: The status that was sent to the client (101 for a websocket); None while, or if, nothing was sent.
        fault: The kind of fault that was applied, if any.
    """

    number: int
    endpoint: str
    decided: int | None = None
    status: int | None = None
    fault: str | None = None


class RequestLog:
    """The latest requests."""

    def __init__(self) -> None:
        self._requests: deque[LoggedRequest] = deque(maxlen=CAPACITY)
        self._numbers = itertools.count(1)

    def begin(self, endpoint: str, *, logged: bool) -> LoggedRequest:
        """Note that a request arrived."""
        if not logged:
            return LoggedRequest(0, endpoint)
        request = LoggedRequest(next(self._numbers), endpoint)
        self._requests.append(request)
        return request

    def requests(self, endpoint: str | None = None) -> list[LoggedRequest]:
        """The requests so far, oldest first; of one endpoint, or all."""
        return [request for request in self._requests if endpoint in (None, request.endpoint)]

    def to_json(self) -> list[dict[str, Any]]:
        """The requests so far as JSON objects, oldest first."""
        return [asdict(request) for request in self._requests]

    def clear(self) -> None:
        """Forget all requests."""
        self._requests.clear()


class RequestLogger:
    """ASGI middleware that logs every request and names its endpoint to what is inside."""

    def __init__(self, app: ASGIApp, log: RequestLog, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._log = log
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Log the request, and its status once it is sent."""
        logged = not scope["path"].startswith(ADMIN_PREFIX)
        request = self._log.begin(_endpoint(self._routes, scope), logged=logged)
        scope[SCOPE_KEY] = request

        async def send_and_note(message: Message) -> None:
            request.status = status_of(message) or request.status
            await send(message)

        await self._app(scope, receive, send_and_note)


def status_of(message: Message) -> int | None:
    """The HTTP status that this ASGI message begins an answer with, if it begins one."""
    match message["type"]:
        case "http.response.start" | "websocket.http.response.start":
            status: int = message["status"]
            return status
        case "websocket.accept":
            return 101
        case _:
            return None


def endpoints(routes: Sequence[BaseRoute]) -> set[str]:
    """The names of all endpoints among the routes."""
    names = {f"GET {route.path}" for route in routes if isinstance(route, WebSocketRoute)}
    for route in routes:
        if isinstance(route, Route):
            names |= {f"{method} {route.path}" for method in route.methods or () if method != "HEAD"}
    return names


def _endpoint(routes: Sequence[BaseRoute], scope: Scope) -> str:
    for route in routes:
        if route.matches(scope)[0] is Match.FULL and isinstance(route, Route | WebSocketRoute):
            return f"{scope.get('method', 'GET')} {route.path}"
    return "UNKNOWN"
