"""One HTTP request to MODE and what became of it. It never repeats one, never follows a redirect, never logs."""

import asyncio
import json
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import anyio
import anyio.lowlevel
import httpx

from bletoken.errors import (
    CloudError,
    CloudNoAnswerError,
    CloudRefusedError,
    CloudRetryLaterError,
    CloudUnreachableError,
    NotSignedInError,
    UsageError,
)
from bletoken.frozen import frozen
from bletoken.mode.keys import is_secret

TIMEOUT_S: Final = 15.0
"""Seconds that a request may take in all: name, connection, TLS, request, and the last octet of the answer."""

PING_S: Final = 20.0
"""Seconds between signs of life on a web socket; a peer that is gone is noticed within twice that."""

LARGEST_OBJECT: Final = 64 * 1024
"""Octets of the largest answer about one thing."""

LARGEST_LIST: Final = 1024 * 1024
"""Octets of the largest answer that is a list."""

LONGEST_REASON: Final = 64
"""Characters that are kept of MODE's reason code."""

LONGEST_RETRY_AFTER_S: Final = 3600.0
"""Seconds; a longer `Retry-After` is taken for this."""

_JSON_TYPE: Final = re.compile(r"application/([\w.-]+\+)?json\s*(;.*)?", re.IGNORECASE)

_CERTIFICATE_TIME: Final = {9, 10}
"""X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED (OpenSSL, x509_vfy.h).

OpenSSL reports the first problem it finds, and looks at trust and host name before it looks at the time.
"""

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


@frozen
class Answer:
    """The status and body that MODE answered with.

    Attributes:
        status: The HTTP status.
        headers: The headers, by lower-case name.
        body: The whole body; None when it did not arrive whole, is too large or is encoded. It may hold secrets.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)

    def json(self) -> object:
        """The body as JSON.

        Raises:
            CloudNoAnswerError: It is not there, not declared as JSON, or not JSON that can be taken in safely.
        """
        if self.body is not None and _JSON_TYPE.fullmatch(self.headers.get("content-type", "")):
            try:
                return parse_json(self.body)
            except ValueError:
                # Raised below, where this exception and what it holds is gone.
                pass
        raise CloudNoAnswerError(f"MODE's answer cannot be read (HTTP {self.status})", status=self.status)

    def error(self) -> CloudError | None:
        """What this status means, or None when it means success.

        Returns:
            `CloudRetryLaterError` for 429 and 503, `NotSignedInError` for 401, `CloudRefusedError` for other 4xx except
            408, `CloudNoAnswerError` for everything else that is not 2xx.
        """
        if 200 <= self.status < 300:
            return None
        status, reason = self.status, self._reason()
        message = f"MODE answered {status} {reason}".rstrip()
        if status in {429, 503}:
            wait_s = retry_after_s(self.headers.get("retry-after", ""), self.headers.get("date", ""))
            return CloudRetryLaterError(message, status=status, reason=reason, retry_after_s=wait_s)
        if status == 401:
            return NotSignedInError(message, status=status, reason=reason)
        if 400 <= status < 500 and status != 408:
            return CloudRefusedError(message, status=status, reason=reason)
        return CloudNoAnswerError(message, status=status)

    def _reason(self) -> str:
        try:
            match self.json():
                case {"reason": str(reason)}:
                    return re.sub(r"[^ -~]", "", reason)[:LONGEST_REASON].strip()
        except CloudNoAnswerError:
            # A refusal stays a refusal when its body is no JSON, which happens.
            pass
        return ""


class Attempt:
    """One request on its way, which knows whether it can have left; an async context manager that hangs up.

    Attributes:
        extensions: What the HTTP library needs to be told with the request.
    """

    def __init__(self) -> None:
        self._stage = ""
        self._connection: Any = None
        self.extensions: Final = {"trace": self._trace}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # HACK: httpcore (seen in 1.0.9) leaves the TCP connection open when a TLS handshake is cancelled, which is how
        # our deadline ends one. Delete this when `start_tls` in its backends/anyio.py closes on BaseException. A
        # relative: https://github.com/encode/httpcore/pull/443
        if self._connection is not None:
            await self._connection.aclose()

    async def _trace(self, stage: str, facts: Mapping[str, Any]) -> None:
        self._stage = stage
        if stage == "connection.connect_tcp.complete":
            self._connection = facts["return_value"]

    def failure(self, error: Exception) -> CloudError:
        """What to raise for an exception that came instead of an answer.

        The request provably never left when the last thing that the HTTP library began was to connect (TCP, then TLS).
        Should it ever stop telling, nothing is proven any more.

        The library's exceptions hold the request with its secrets: raise this one where they are gone.
        """
        if not self._stage.startswith("connection."):
            return CloudNoAnswerError(f"MODE did not answer ({type(error).__name__})")
        if isinstance(error, TimeoutError):
            return CloudUnreachableError("MODE cannot be reached: no connection in time")
        certificate_time = False
        for cause in _chain(error):
            if isinstance(cause, ssl.SSLCertVerificationError):
                certificate_time = cause.verify_code in _CERTIFICATE_TIME
        # Nothing has left, so nothing of the request can be in this text.
        return CloudUnreachableError(f"MODE cannot be reached: {cause}", certificate_time=certificate_time)


class HTTPClient:
    """Sends requests to one MODE; an async context manager that loads the trust store when entered.

    Every request has its own connection: none can die under a request, and nothing (no cookie) outlives one. Proxy
    settings and `.netrc` are not looked at.

    Args:
        base_url: MODE's base URL, https or http.
        ca_file: A file of CA certificates to trust instead of the system's.
        timeout_s: Seconds that each request may take in all.

    Raises:
        UsageError: The URL, or when entered the file, is not usable.
    """

    def __init__(self, base_url: str, *, ca_file: Path | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._base_url: Final = _checked_base_url(base_url)
        self._ca_file: Final = ca_file
        self._trust: ssl.SSLContext | None = None
        self.timeout_s: Final = timeout_s

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._base_url}>"

    async def __aenter__(self) -> Self:
        # The system's trust store can take a small machine a second.
        self._trust = await asyncio.to_thread(self._load)
        # And what the HTTP library runs on looks up the event loop at its first use, and loads what fits it.
        await anyio.lowlevel.checkpoint()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._trust = None

    async def request(
        self,
        method: Method,
        path: str,
        *,
        key: str | None = None,
        query: Mapping[str, int] | None = None,
        content: Mapping[str, Any] | None = None,
        form: Mapping[str, str | int] | None = None,
        largest: int = LARGEST_OBJECT,
    ) -> Answer:
        """Send one request, once.

        Args:
            method: The HTTP method.
            path: The path below the base URL.
            key: The MODE key to authorize with; None sends no Authorization header.
            query: The query; never a secret, for URLs are logged everywhere.
            content: The body, sent as JSON.
            form: The body, sent as a form.
            largest: Octets of the largest body to take in.

        Returns:
            A 2xx answer.

        Raises:
            CloudUnreachableError: The request provably never left.
            CloudRetryLaterError: MODE answered 429 or 503.
            CloudRefusedError: MODE answered another 4xx, except 408.
            CloudNoAnswerError: Everything else: nobody can tell whether the request took effect.
            UsageError: The key is not usable.
        """
        client, attempt = self.client(key), Attempt()
        request = client.build_request(
            method, path, params=query, json=content, data=form, extensions=attempt.extensions
        )
        answer: Answer | None = None
        failure: CloudError | None = None
        try:
            async with asyncio.timeout(self.timeout_s), attempt, client:
                response = await client.send(request, stream=True)
                # What MODE said by now stays said, whatever becomes of the body.
                answer = Answer(response.status_code, response.headers, None)
                answer = replace(answer, body=await _read_body(response, largest))
        except Exception as e:  # noqa: BLE001 whatever the HTTP library lets through, the caller gets an outcome
            failure = attempt.failure(e)
        if answer is not None:
            failure = answer.error()
        if failure is not None:
            raise failure
        assert answer is not None, "there is an answer or a failure"
        return answer

    def client(self, key: str | None) -> httpx.AsyncClient:
        """A client of the HTTP library for one request, authorized with `key`.

        Raises:
            UsageError: The key is not usable.
        """
        if self._trust is None:
            raise RuntimeError(f"{type(self).__name__} is used outside of `async with`")
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "bletoken"}
        if key is not None:
            if not is_secret(key):
                raise UsageError("the MODE key is not one: it has other than printable ASCII characters, or too many")
            headers["Authorization"] = f"ModeCloud {key}"
        # The library's own time-outs begin anew with each octet that drips in, so there is one for everything above.
        # Its environment would bring proxies, whose errors look like MODE's, and .netrc, which adds an Authorization.
        return httpx.AsyncClient(
            base_url=self._base_url,
            headers=headers,
            verify=self._trust,
            timeout=None,  # noqa: S113 see above
            trust_env=False,
        )

    def _load(self) -> ssl.SSLContext:
        trust = self._load_trust()
        # The HTTP library loads half of itself with its first transport, for which the first request would wait.
        httpx.AsyncHTTPTransport(verify=trust)
        return trust

    def _load_trust(self) -> ssl.SSLContext:
        if self._base_url.scheme == "http":
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # Trusts nobody, and is not asked.
        try:
            return ssl.create_default_context(cafile=self._ca_file)
        except OSError as e:
            raise UsageError(f"no CA certificates can be read from {self._ca_file}: {e.strerror or e}") from e


def parse_json(text: bytes | str) -> object:
    """Parse JSON from a stranger.

    Raises:
        ValueError: It is not UTF-8, not JSON, nested too deep, or has a key twice, a number that is none, or half a
            surrogate pair. The exception holds the text: do not keep it.
    """
    try:
        value = json.loads(text.decode() if isinstance(text, bytes) else text, object_pairs_hook=_unique)
        # What cannot be written again would fail later, where nobody expects it: NaN, infinity, lone surrogates.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("nested too deep") from None
    return value


def retry_after_s(value: str, date: str = "") -> float | None:
    """The seconds of a `Retry-After` header (RFC 9110, section 10.2.3), at most an hour.

    Args:
        value: The header: seconds, or a date.
        date: The `Date` header of the same answer. With it, a wrong clock on this side does not matter.

    Returns:
        Seconds; None when the header says nothing usable.
    """
    if re.fullmatch(r"[0-9]{1,10}", value):
        return min(float(value), LONGEST_RETRY_AFTER_S)
    until = _http_date(value)
    if until is None:
        return None
    wait_s = (until - (_http_date(date) or datetime.now(UTC))).total_seconds()
    return min(max(wait_s, 0.0), LONGEST_RETRY_AFTER_S)


async def _read_body(response: httpx.Response, largest: int) -> bytes | None:
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        return None
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > largest:
            return None
    return bytes(body)


def _checked_base_url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        # The text may have a password in it, so it is in no message, and the exception is not kept.
        url = httpx.URL()
    if url.scheme not in {"https", "http"} or not url.host or not 0 < (url.port or 443) < 2**16:
        raise UsageError("the MODE URL must be like https://api.tinkermode.com")
    if url.userinfo or url.query or url.fragment:
        raise UsageError("the MODE URL must have no user, password, query or fragment")
    return url


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice")
    return value


def _http_date(value: str) -> datetime | None:
    if not value.endswith(" GMT"):
        return None
    try:
        # A zone that is not known would give a time without one; GMT it is.
        return parsedate_to_datetime(value).replace(tzinfo=UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    # The HTTP library cuts causes off with `from None`, which leaves them as contexts.
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
