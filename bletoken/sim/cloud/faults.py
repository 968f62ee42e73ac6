"""Everything that can go wrong between a client and MODE, on demand; the endpoints know nothing of it.

A fault strikes `before` a request is carried out, so MODE knows nothing of it, or `after`, so MODE has done it and the
client cannot know. From the client's side the two look the same: that is what they are for.
"""

import asyncio
import contextlib
import dataclasses
import random
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from starlette.responses import Response
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bletoken.errors import UsageError
from bletoken.sim.cloud.answers import answer
from bletoken.sim.cloud.request_log import SCOPE_KEY, LoggedRequest, endpoints, status_of

When = Literal["before", "after"]


@dataclass(frozen=True, kw_only=True)
class ErrorAnswer:
    """An answer that replaces MODE's own.

    Attributes:
        status: From 200 on, because an unexpected success (a captive portal's page) is an error, too.
        reason: MODE's reason code.
        retry_after: The Retry-After header's value, as it is.
        body: A body to send instead of `{"reason": ...}`, as it is.
        content_type: The content type of `body`.
        when: Whether MODE has carried the request out by then.
    """

    status: int
    reason: str = ""
    retry_after: str | None = None
    body: str | None = None
    content_type: str = "text/html; charset=utf-8"
    when: When = "before"

    def __post_init__(self) -> None:
        # 204 and 304 have no body, and this answer always has one.
        _check("status", type(self.status) is int and 200 <= self.status <= 599 and self.status not in (204, 304))
        _check("reason", isinstance(self.reason, str) and _encodable(self.reason))
        _check("retry_after", self.retry_after is None or _fits_header(self.retry_after))
        _check("body", self.body is None or (isinstance(self.body, str) and _encodable(self.body)))
        _check("content_type", _fits_header(self.content_type))
        _check("when", self.when in ("before", "after"))

    def response(self) -> Response:
        """The answer itself."""
        headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
        if self.body is None:
            return answer(self.status, {"reason": self.reason}, headers=headers)
        return Response(self.body, self.status, {**headers, "Content-Type": self.content_type})


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong; a delay may come with it, or be all.

    Attributes:
        delay_s: Seconds to wait before anything else.
        error: Another answer instead of MODE's.
        hold: Say nothing until released: before MODE carries the request out, or after. A client that gives up in the
            meantime changes nothing: the request is carried out when it is released.
        drop: Cut the connection without a byte of an answer.
        reset: Whether a cut connection ends in a reset (RST) rather than in an end of stream.
        truncate: Carry the request out, then cut the connection in the middle of the answer's body; an answer without
            a body is lost altogether.
        redirect: Send the client to this URL, with 307.
        count: How many requests it strikes; all until cleared, if None.
        probability: How likely it strikes a request.
        seed: Makes the probability repeatable.
    """

    delay_s: float = 0.0
    error: ErrorAnswer | None = None
    hold: When | None = None
    drop: When | None = None
    reset: bool = False
    truncate: bool = False
    redirect: str | None = None
    count: int | None = None
    probability: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        _check("delay_s", _is_number(self.delay_s) and 0 <= self.delay_s <= 3600)
        _check("error", self.error is None or isinstance(self.error, ErrorAnswer))
        _check("hold", self.hold in (None, "before", "after"))
        _check("drop", self.drop in (None, "before", "after"))
        _check("reset", isinstance(self.reset, bool))
        _check("truncate", isinstance(self.truncate, bool))
        _check("redirect", self.redirect is None or _fits_header(self.redirect))
        _check("count", self.count is None or (type(self.count) is int and self.count > 0))
        _check("probability", _is_number(self.probability) and 0 <= self.probability <= 1)
        _check("seed", type(self.seed) is int)
        kinds = [self.error, self.hold, self.drop, self.redirect, self.truncate or None]
        if len(kinds) - kinds.count(None) > 1:
            raise UsageError("a fault is one of error, hold, drop, truncate and redirect, not several")

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read the JSON form: an object with these attributes.

        Raises:
            UsageError: It is no such object.
        """
        try:
            fields: dict[str, Any] = dict(value)  # type: ignore[call-overload]
            if fields.get("error") is not None:
                fields["error"] = ErrorAnswer(**fields["error"])
            return cls(**fields)
        except (TypeError, ValueError) as e:
            raise UsageError(f"not a fault: {e}") from e

    @property
    def kind(self) -> str:
        """What the request log calls it."""
        for kind in ("error", "hold", "drop", "truncate", "redirect"):
            if getattr(self, kind):
                return kind
        return "delay"

    def answer(self, when: When) -> Response | None:
        """The answer that this fault gives instead of MODE's at this moment, if it does."""
        if self.error is not None and self.error.when == when:
            return self.error.response()
        if self.redirect is not None and when == "before":
            return Response(status_code=307, headers={"Location": self.redirect})
        return None


class _ArmedFault:
    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.left = fault.count
        self._random = random.Random(fault.seed)  # noqa: S311 - repeatable on purpose

    def strikes(self) -> bool:
        if self.left == 0 or self._random.random() >= self.fault.probability:
            return False
        if self.left is not None:
            self.left -= 1
        return True


class FaultTable:
    """Which faults wait for which endpoint, and which requests are being held.

    Args:
        routes: The routes whose endpoints may be given faults.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._endpoints = endpoints(routes)
        self._websockets = endpoints([route for route in routes if isinstance(route, WebSocketRoute)])
        self._armed: dict[str, list[_ArmedFault]] = {}
        self._held: list[tuple[LoggedRequest, asyncio.Future[bool]]] = []
        self._closing = asyncio.Event()

    def replace(self, faults: Mapping[str, Sequence[Fault]]) -> None:
        """Forget all faults and arm these: of an endpoint's faults, the first that strikes is applied.

        Raises:
            UsageError: There is no such endpoint, or it cannot have such a fault. Nothing has changed then.
        """
        for endpoint, several in faults.items():
            if endpoint not in self._endpoints:
                raise UsageError(f"no such endpoint: {endpoint} (there are {', '.join(sorted(self._endpoints))})")
            for fault in several:
                after = fault.truncate or fault.hold == "after" or (fault.error and fault.error.when == "after")
                if endpoint in self._websockets and after:
                    raise UsageError(f"{endpoint} has no answer to {fault.kind}: use before, or drop")
        self._armed = {endpoint: [_ArmedFault(fault) for fault in several] for endpoint, several in faults.items()}

    def arm(self, endpoint: str, *faults: Fault) -> None:
        """Arm these faults for the endpoint, and forget its former ones.

        Raises:
            UsageError: There is no such endpoint, or it cannot have such a fault.
        """
        others = {other: armed for other, armed in self._armed.items() if other != endpoint}
        self.replace({endpoint: faults})
        self._armed |= others

    def clear(self) -> None:
        """Forget all faults. Requests that are being held stay so until they are released."""
        self._armed = {}

    def to_json(self) -> dict[str, Any]:
        """The armed faults with how often each still strikes, and the requests that are being held."""
        defaults = dataclasses.asdict(Fault())
        return {
            "faults": {
                endpoint: [
                    {k: v for k, v in dataclasses.asdict(armed.fault).items() if v != defaults[k]}
                    | {"left": armed.left}
                    for armed in several
                ]
                for endpoint, several in self._armed.items()
            },
            "held": [{"number": request.number, "endpoint": request.endpoint} for request, _ in self._held],
        }

    @property
    def held(self) -> list[LoggedRequest]:
        """The requests that are being held, oldest first."""
        return [request for request, _ in self._held]

    def release(self, endpoint: str | None = None) -> int:
        """Let held requests go on: those of one endpoint, or all. Says how many."""
        return self._let_go(endpoint, go_on=True)

    def close(self) -> None:
        """Cut every request that is being held or delayed, now and from now on."""
        self._closing.set()
        self._let_go(None, go_on=False)

    def take(self, endpoint: str) -> Fault | None:
        """The fault that strikes this request, if one does."""
        return next((armed.fault for armed in self._armed.get(endpoint, ()) if armed.strikes()), None)

    async def hold(self, request: LoggedRequest) -> bool:
        """Wait until the request is released (true), or must be cut (false)."""
        if self._closing.is_set():
            return False
        released: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        entry = (request, released)
        self._held.append(entry)
        try:
            return await released
        finally:
            self._held[:] = [other for other in self._held if other is not entry]

    async def pause(self, delay_s: float) -> bool:
        """Wait so long (true), or until the request must be cut (false)."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._closing.wait()
        return not self._closing.is_set()

    def _let_go(self, endpoint: str | None, *, go_on: bool) -> int:
        waiting = [
            future for request, future in self._held if endpoint in (None, request.endpoint) and not future.done()
        ]
        for future in waiting:
            future.set_result(go_on)
        return len(waiting)


class FaultInjector:
    """ASGI middleware that applies the faults.

    To cut connections it needs the request's transport as `scope["state"]["transport"]`.
    """

    def __init__(self, app: ASGIApp, faults: FaultTable) -> None:
        self._app = app
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry the request out, with the fault that strikes it, if any."""
        request: LoggedRequest = scope[SCOPE_KEY]
        fault = self._faults.take(request.endpoint)
        if fault is None:
            await self._carry_out(scope, receive, send)
            return
        request.fault = fault.kind
        if not await self._strike(fault, scope, receive, send):
            await _cut(scope, receive, reset=fault.reset)

    async def _carry_out(self, scope: Scope, receive: Receive, send: Send) -> None:
        request: LoggedRequest = scope[SCOPE_KEY]

        async def note_and_send(message: Message) -> None:
            request.decided = status_of(message) or request.decided
            await send(message)

        await self._app(scope, receive, note_and_send)

    async def _strike(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> bool:
        """Apply the fault. False if the connection must be cut now."""
        request: LoggedRequest = scope[SCOPE_KEY]
        if fault.delay_s and not await self._faults.pause(fault.delay_s):
            return False
        if fault.hold == "before" and not await self._faults.hold(request):
            return False
        if fault.drop == "before":
            return False
        if instead := fault.answer("before"):
            await instead(scope, receive, send)
            return True
        if scope["type"] == "websocket":
            return await self._strike_websocket(fault, scope, receive, send)

        own_answer: list[Message] = []

        async def collect(message: Message) -> None:
            own_answer.append(message)

        await self._carry_out(scope, receive, collect)
        if fault.hold == "after" and not await self._faults.hold(request):
            return False
        if fault.drop == "after":
            return False
        if instead := fault.answer("after"):
            await instead(scope, receive, send)
            return True
        if fault.truncate:
            body = b"".join(message.get("body", b"") for message in own_answer)
            if body:
                await send(own_answer[0])
                await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
                # Unlike a cut, closing sends what was written before.
                scope["state"]["transport"].close()
            return False
        for message in own_answer:
            await send(message)
        return True

    async def _strike_websocket(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> bool:
        async def send_and_cut(message: Message) -> None:
            await send(message)
            if fault.drop == "after" and message["type"] == "websocket.accept":
                _abort(scope, reset=fault.reset)

        await self._carry_out(scope, receive, send_and_cut)
        return True


async def _cut(scope: Scope, receive: Receive, *, reset: bool) -> None:
    """Cut the connection, unless it is closing already, and wait until the server has noticed."""
    if not scope["state"]["transport"].is_closing():
        _abort(scope, reset=reset)
    # Without this wait the server would take the missing answer for a defect of the application.
    while (await receive())["type"] not in ("http.disconnect", "websocket.disconnect"):
        pass


def _abort(scope: Scope, *, reset: bool) -> None:
    transport: asyncio.Transport = scope["state"]["transport"]
    if reset:
        # Lingering for zero seconds makes the kernel end the connection with RST, if there is still a connection.
        with contextlib.suppress(OSError):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _check(name: str, fine: bool) -> None:
    if not fine:
        raise UsageError(f"a fault cannot have this {name}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fits_header(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and value.isprintable()


def _encodable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
