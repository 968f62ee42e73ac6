"""Request bodies: read whole and bounded before anything else happens, then parsed or refused, never trusted."""

import asyncio
import json
import math
from typing import Any, Final, NoReturn
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bletoken.sim.cloud.answers import RefusedError, error, invalid
from bletoken.sim.cloud.settings import MAX_ID, Refusal

BODY_TIMEOUT_S: Final = 10.0
"""How long a request body may take to arrive."""

FORM: Final = "application/x-www-form-urlencoded"
"""The content type of forms."""

MAX_DEPTH: Final = 32
"""How deep arrays and objects may be nested in a JSON body."""

_TRUTH: Final = {"1": True, "true": True, "0": False, "false": False}


class BodyReader:
    """ASGI middleware that reads the whole body first, so what is inside never waits for the client.

    It also means that a request whose client has gone away in the meantime is still carried out, as with any server
    behind a queue.
    """

    def __init__(self, app: ASGIApp, *, max_body_size: int) -> None:
        self._app = app
        self._max_body_size = max_body_size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413 or 408 to a body that is too large or too slow, otherwise hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await self._read(scope, receive)
        except TimeoutError:
            await error(Refusal(408, "REQUEST_TIMEOUT"), headers={"Connection": "close"})(scope, receive, send)
            return
        except RefusedError as e:
            # Not closed: the server goes on to discard the body, so that the client gets to read the answer.
            await error(e.refusal)(scope, receive, send)
            return
        if body is None:
            return
        unread = [body]

        async def receive_again() -> Message:
            return {"type": "http.request", "body": unread.pop()} if unread else await receive()

        await self._app(scope, receive_again, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        too_large = RefusedError(Refusal(413, "REQUEST_TOO_LARGE"))
        declared = Headers(scope=scope).get("content-length", "0")
        # HTTP's parser has made sure that the length is a number.
        if len(declared) > 20 or int(declared) > self._max_body_size:
            raise too_large
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self._max_body_size:
                raise too_large
            more = message.get("more_body", False)
        return bytes(body)


class Parameters:
    """The parameters of a request, from a JSON object or a form: both are in use with MODE."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    @classmethod
    async def of(cls, request: Request) -> "Parameters":
        """Parse the body of the request.

        Raises:
            RefusedError: It is neither a JSON object nor a form.
        """
        body = await request.body()
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not body:
            return cls({})
        if kind == "application/json" or (kind != FORM and body.lstrip()[:1] in (b"{", b"[")):
            return cls(parse_object(body))
        return cls(_parse_form(body))

    def has(self, name: str) -> bool:
        """Whether the parameter was sent."""
        return name in self._values

    def text(self, name: str) -> str:
        """A text that must be there and not be empty."""
        return self.optional_text(name) or _missing()

    def optional_text(self, name: str) -> str | None:
        """A text, or None where it was not sent."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, str):
            raise invalid()
        return value

    def id(self, name: str) -> int:
        """An id that must be there, as a number or as its digits."""
        value = self._values.get(name)
        if value is None:
            _missing()
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise invalid()
        return parse_id(str(value))

    def whole_number(self, name: str) -> int:
        """A whole number from 0 on that must be there, as a number or as its digits."""
        return self.id(name)

    def truth(self, name: str) -> bool:
        """Yes or no, which must be there: JSON's own, or 1, 0, true or false as a number or text."""
        value = self._values.get(name)
        if value is None:
            _missing()
        truth = _TRUTH.get(str(value).lower()) if isinstance(value, bool | int | str) else None
        if truth is None:
            raise invalid()
        return truth

    def optional_object(self, name: str) -> dict[str, Any] | None:
        """An object, or None where it was not sent; a form carries it as JSON text."""
        value = self._values.get(name)
        if isinstance(value, str):
            return parse_object(value.encode())
        if value is not None and not isinstance(value, dict):
            raise invalid()
        return value


def query_id(request: Request, name: str) -> int:
    """An id that must be in the query.

    Raises:
        RefusedError: It is missing, or no id.
    """
    value = request.query_params.get(name)
    return parse_id(_missing() if value is None else value)


def parse_id(text: str) -> int:
    """An id from its decimal digits.

    Raises:
        RefusedError: It is not a number from 0 to 2**64 - 1.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 20) or int(text) > MAX_ID:
        raise invalid()
    return int(text)


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object, in which every number fits 64 bits and every text is Unicode that can be sent on.

    Raises:
        RefusedError: It is anything else.
    """
    try:
        value = json.loads(data.decode(), parse_int=_integer, parse_float=_float, parse_constant=_constant)
    # Python's parser gives up on deep nesting with a RecursionError; everything else is a ValueError.
    except (ValueError, RecursionError) as e:
        raise invalid() from e
    if not isinstance(value, dict) or not _harmless(value, MAX_DEPTH):
        raise invalid()
    return value


def _parse_form(body: bytes) -> dict[str, Any]:
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=100, errors="strict")
    except ValueError as e:
        raise invalid() from e
    return dict(pairs)


def _missing() -> NoReturn:
    raise RefusedError(Refusal(400, "MISSING_PARAMETERS"))


def _integer(text: str) -> int:
    if len(text) > 21 or not -(2**63) <= int(text) <= MAX_ID:
        raise ValueError(text[:21])
    return int(text)


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text[:21])
    return number


def _constant(text: str) -> NoReturn:
    # NaN and Infinity are not JSON, but Python's parser takes them unless told not to.
    raise ValueError(text)


def _harmless(value: object, depth: int) -> bool:
    """Whether it is not nested too deep and has no lone surrogates, which cannot be stored or sent."""
    match value:
        case str():
            # "\ud800" alone is valid JSON text but no Unicode.
            return not any("\ud800" <= character <= "\udfff" for character in value)
        case dict():
            return depth > 0 and all(_harmless(k, depth) and _harmless(v, depth - 1) for k, v in value.items())
        case list():
            return depth > 0 and all(_harmless(item, depth - 1) for item in value)
        case _:
            return True
