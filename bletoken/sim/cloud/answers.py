"""How MODE answers: its headers, its JSON, its error bodies; it decides nothing."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import formatdate

from starlette.responses import Response

from bletoken.sim.cloud.settings import Refusal


class RefusedError(Exception):
    """A request is refused; raising it anywhere in a handler is the answer."""

    def __init__(self, refusal: Refusal, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal
        self.headers = headers


def invalid(reason: str = "INVALID_PARAMETER") -> RefusedError:
    """The refusal of a parameter that is there but not usable."""
    return RefusedError(Refusal(400, reason))


def answer(status: int, content: object = None, *, headers: Mapping[str, str] | None = None) -> Response:
    """An answer in MODE's form.

    Args:
        status: The HTTP status.
        content: The JSON body, or None for an answer without a body.
        headers: Further headers.
    """
    body = b"" if content is None else to_json(content).encode()
    # These are the headers that MODE's provisioning document and API reference show; the rest is HTTP's own.
    mode_headers = {
        "Access-Control-Allow-Credentials": "false",
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Expose-Headers": "X-Xsrf-Guard",
        "Content-Type": "application/json; charset=utf-8",
        "Date": formatdate(usegmt=True),
    }
    if status == 204:
        del mode_headers["Content-Type"]
    else:
        mode_headers["Content-Length"] = str(len(body))
    response = Response(body, status_code=status)
    # Starlette would write the names in small letters; so they look as MODE's do.
    response.raw_headers = [
        (name.encode("latin-1"), value.encode("latin-1")) for name, value in {**mode_headers, **(headers or {})}.items()
    ]
    return response


def error(refusal: Refusal, *, headers: Mapping[str, str] | None = None) -> Response:
    """An error answer: `{"reason": CODE}`."""
    return answer(refusal.status, {"reason": refusal.reason}, headers=headers)


def to_json(content: object) -> str:
    """Compact JSON."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def timestamp(time_ns: int, *, digits: int) -> str:
    """RFC 3339 in UTC, with this many fractional digits: `2015-08-25T21:44:37.744323372Z`."""
    seconds, nanoseconds = divmod(time_ns, 10**9)
    fraction = f".{nanoseconds:09}"[: digits + 1] if digits else ""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}{fraction}Z"
