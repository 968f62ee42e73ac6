import asyncio
import contextlib
import logging
import os
import ssl
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.mode.conftest import CA
from unit.mode.loopback import answer, free_port, read_request, reset, serve

from bletoken.errors import (
    CloudError,
    CloudNoAnswerError,
    CloudRefusedError,
    CloudRetryLaterError,
    CloudUnreachableError,
    NotSignedInError,
    UsageError,
)
from bletoken.mode.http import LARGEST_OBJECT, Answer, Attempt, HTTPClient, parse_json, retry_after_s
from bletoken.mode.models import DeviceCredentials

CANARY = "v1.canary-of-this-test"


async def ask(url: str, *, ca_file: Path | None = None, timeout_s: float = 5, key: str | None = CANARY) -> Answer:
    async with HTTPClient(url, ca_file=ca_file, timeout_s=timeout_s) as http:
        return await http.request("POST", "devices", key=key, content={"token": CANARY})


# Where it goes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.tinkermode.com",
        "ftp://h",
        "https://",
        "https:///x",
        "http://h:99999",
        "https://h\n",
        "//h",
        "\x00",
        "wss://h",
    ],
)
def test_a_base_url_is_http_or_https_with_a_host(url: str) -> None:
    with pytest.raises(UsageError, match=r"like https://api\.tinkermode\.com"):
        HTTPClient(url)


@pytest.mark.parametrize("url", ["https://me:canary@h", "https://canary@h", "https://h/?canary=1", "https://h/#canary"])
def test_a_base_url_has_no_credentials_query_or_fragment_and_its_error_does_not_show_them(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        HTTPClient(url)
    assert "canary" not in "".join(traceback.format_exception(caught.value))


@given(text=st.text())
def test_any_text_is_a_base_url_or_raises_usage_error(text: str) -> None:
    for url in (text, f"https://{text}"):
        with contextlib.suppress(UsageError):
            HTTPClient(url)


@pytest.mark.parametrize("prefix", ["", "/", "/staging", "/staging/"])
async def test_paths_are_below_the_base_url(prefix: str) -> None:
    async with serve(answer(200, {})) as server:
        await ask(server.url + prefix)
    assert server.requests[0].line == f"POST {prefix.rstrip('/')}/devices HTTP/1.1"


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
async def test_a_ca_file_that_is_none_is_told_before_anything_is_sent(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"ca\.pem"):
        await ask("https://127.0.0.1:1", ca_file=path)


@pytest.mark.parametrize("key", ["", "a b", "a\r\nX-Evil: 1", "é", "x" * 1025])
async def test_a_key_that_cannot_stand_in_a_header_is_not_sent(key: str) -> None:
    async with serve(answer(200, {})) as server:
        with pytest.raises(UsageError):
            await ask(server.url, key=key)
    assert server.connections == 0


async def test_outside_of_async_with_nothing_is_sent() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await HTTPClient("http://127.0.0.1:1").request("GET", "auth")


# What is sent -------------------------------------------------------------------------------------------------------


async def test_a_request_is_authorized_by_its_key_and_asks_for_json_without_compression() -> None:
    async with serve(answer(200, {})) as server:
        await ask(server.url)
    heard = server.requests[0]
    assert heard.headers["authorization"] == f"ModeCloud {CANARY}"
    assert heard.headers["accept-encoding"] == "identity"
    assert heard.headers["content-type"] == "application/json"
    assert parse_json(heard.body) == {"token": CANARY}


async def test_no_request_uses_the_connection_or_the_cookies_of_another() -> None:
    kept = answer(200, {}, headers={"Set-Cookie": "a=1", "Connection": "keep-alive"})
    async with serve(kept) as server, HTTPClient(server.url) as http:
        for _ in range(3):
            await http.request("GET", "auth")
    assert server.connections == 3
    assert not any("cookie" in heard.headers for heard in server.requests)


async def test_the_environment_brings_neither_a_proxy_nor_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", os.fspath(netrc))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    async with serve(answer(200, {})) as server:
        await ask(server.url, key=None)
    assert "authorization" not in server.requests[0].headers


# Whether it left ----------------------------------------------------------------------------------------------------


async def test_a_refused_connection_means_that_nothing_left() -> None:
    with pytest.raises(CloudUnreachableError, match="Connect call failed") as caught:
        await ask(f"http://127.0.0.1:{free_port()}")
    assert not caught.value.certificate_time


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70 + ".invalid"])
async def test_an_unknown_host_means_that_nothing_left(host: str) -> None:
    with pytest.raises(CloudUnreachableError):
        await ask(f"http://{host}")


async def test_a_connection_that_is_not_made_in_time_means_that_nothing_left() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    # The server takes the TCP connection, and never begins TLS.
    async with serve(say_nothing) as server:
        with pytest.raises(CloudUnreachableError, match="in time"):
            await ask(server.url.replace("http:", "https:"), timeout_s=0.3)


async def test_a_handshake_that_is_given_up_leaves_no_connection_open() -> None:
    hung_up = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        hung_up.set()

    async with serve(say_nothing) as server:
        with pytest.raises(CloudUnreachableError):
            await ask(server.url.replace("http:", "https:"), timeout_s=1)
        async with asyncio.timeout(10):
            await hung_up.wait()


async def test_a_server_that_speaks_no_tls_means_that_nothing_left() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 What\r\n\r\n")

    async with serve(hang_up) as server:
        with pytest.raises(CloudUnreachableError):
            await ask(server.url.replace("http:", "https:"))


@pytest.mark.parametrize(
    ("options", "certificate_time"),
    [
        ({"ends": timedelta(hours=-1)}, True),
        ({"begins": timedelta(hours=1)}, True),
        ({"address": "127.0.0.9"}, False),
        ({"address": "127.0.0.9", "ends": timedelta(hours=-1)}, False),
    ],
)
async def test_a_bad_certificate_means_that_nothing_left_and_a_wrong_clock_is_told_apart(
    ca: CA, options: dict[str, object], certificate_time: bool
) -> None:
    async with serve(answer(200, {}), tls=ca.server(**options)) as server:  # type: ignore[arg-type]
        with pytest.raises(CloudUnreachableError, match="certificate") as caught:
            await ask(server.url, ca_file=ca.file)
    assert caught.value.certificate_time is certificate_time
    assert server.requests == []


async def test_only_the_certificates_of_the_given_file_are_trusted(ca: CA, tmp_path: Path) -> None:
    other = CA(tmp_path)
    async with serve(answer(200, {}), tls=ca.server(ends=timedelta(hours=-1))) as server:
        with pytest.raises(CloudUnreachableError) as caught:
            await ask(server.url, ca_file=other.file)
    assert not caught.value.certificate_time


async def test_without_a_file_a_private_ca_is_not_trusted(ca: CA) -> None:
    async with serve(answer(200, {}), tls=ca.server()) as server:
        with pytest.raises(CloudUnreachableError, match="certificate"):
            await ask(server.url)


async def test_a_good_certificate_is_taken(ca: CA) -> None:
    async with serve(answer(200, {"a": 1}), tls=ca.server()) as server:
        assert (await ask(server.url, ca_file=ca.file)).json() == {"a": 1}


async def test_a_library_that_stops_telling_proves_nothing() -> None:
    assert isinstance(Attempt().failure(ConnectionRefusedError()), CloudNoAnswerError)


async def _reset_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reset(writer)


async def _reset_after_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    reset(writer)


async def _close_after_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)


async def _inform_for_ever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


async def _head_for_ever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X: " + b"x" * 1000 + b"\r\n")
        await writer.drain()


async def _say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


@pytest.mark.parametrize(
    "end",
    [
        _reset_at_once,
        _reset_after_request,
        _close_after_request,
        _inform_for_ever,
        _head_for_ever,
        _say_nothing,
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"\x00" * 100,
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ],
)
async def test_without_an_answer_after_the_connection_nobody_knows(end: bytes) -> None:
    async with serve(end) as server:
        with pytest.raises(CloudNoAnswerError):
            await ask(server.url, timeout_s=1)
    assert server.connections == 1


async def test_an_answer_that_drips_in_does_not_get_more_time() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with serve(drip) as server:
        got = await ask(server.url, timeout_s=1)
    with pytest.raises(CloudNoAnswerError):
        got.json()


async def test_cancelling_goes_through_and_ends_the_connection() -> None:
    heard, closed = asyncio.Event(), asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        heard.set()
        await reader.read()
        closed.set()

    async with serve(wait) as server:
        asking = asyncio.create_task(ask(server.url))
        await heard.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await closed.wait()


# What the answer means ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_every_2xx_is_success(status: int) -> None:
    async with serve(answer(status)) as server:
        assert (await ask(server.url)).status == status


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (301, CloudNoAnswerError),
        (302, CloudNoAnswerError),
        (304, CloudNoAnswerError),
        (307, CloudNoAnswerError),
        (400, CloudRefusedError),
        (401, NotSignedInError),
        (403, CloudRefusedError),
        (404, CloudRefusedError),
        (408, CloudNoAnswerError),
        (409, CloudRefusedError),
        (429, CloudRetryLaterError),
        (499, CloudRefusedError),
        (500, CloudNoAnswerError),
        (501, CloudNoAnswerError),
        (502, CloudNoAnswerError),
        (503, CloudRetryLaterError),
        (504, CloudNoAnswerError),
        (999, CloudNoAnswerError),
    ],
)
async def test_every_other_status_is_its_error_after_one_request(status: int, error: type[CloudError]) -> None:
    async with serve(answer(status, headers={"Location": "/elsewhere"})) as server:
        with pytest.raises(CloudError) as caught:
            await ask(server.url)
    assert type(caught.value) is error
    assert getattr(caught.value, "status", None) == status
    assert server.connections == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"reason": "INVALID_TOKEN", "data": {}}', "INVALID_TOKEN"),
        (b'{"reason": "A\\u0007\\u001b[31m\\u00e9B"}', "A[31mB"),
        (b'{"reason": "' + b"x" * 100 + b'"}', "x" * 64),
        (b'{"reason": 5}', ""),
        (b'["reason"]', ""),
        (b"<html>", ""),
        (b"", ""),
        (b"x" * (LARGEST_OBJECT + 1), ""),
    ],
)
async def test_the_reason_of_a_refusal_is_safe_to_show(body: bytes, reason: str) -> None:
    async with serve(answer(403, body=body)) as server:
        with pytest.raises(CloudRefusedError) as caught:
            await ask(server.url)
    assert caught.value.reason == reason
    assert str(caught.value) == f"MODE answered 403 {reason}".rstrip()


@pytest.mark.parametrize(("status", "error"), [(403, CloudRefusedError), (503, CloudRetryLaterError)])
async def test_a_status_that_was_heard_counts_when_its_body_is_cut_off(status: int, error: type[CloudError]) -> None:
    async with serve(answer(status, headers={"Content-Length": "50"})) as server:
        with pytest.raises(error):
            await ask(server.url)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b'{"a": 1', {}),
        (b'{"a": 1}', {"Content-Length": "9"}),
        (b'{"a": 1}', {"Content-Type": "text/html"}),
        (b'{"a": 1}', {"Content-Type": "application/json-seq"}),
        (b'{"a": 1}', {"Content-Encoding": "gzip"}),
        (b'{"a": "' + b"x" * LARGEST_OBJECT + b'"}', {}),
        (b"", {}),
        (b"\xff\xfe{\x00}\x00", {}),
        (b'\xef\xbb\xbf{"a": 1}', {}),
    ],
)
async def test_a_body_that_is_not_whole_and_not_json_cannot_be_read(body: bytes, headers: dict[str, str]) -> None:
    async with serve(answer(200, body=body, headers=headers)) as server:
        got = await ask(server.url)
    with pytest.raises(CloudNoAnswerError) as caught:
        got.json()
    assert caught.value.status == 200


async def test_a_body_without_an_end_is_given_up_at_its_limit() -> None:
    given_up = asyncio.Event()

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"1000\r\n" + b" " * 0x1000 + b"\r\n")
                await writer.drain()
        except OSError:
            given_up.set()

    async with serve(pour) as server:
        got = await ask(server.url, timeout_s=60)
        await given_up.wait()
    assert got.body is None


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON;charset=UTF-8", "application/x.y+json ; a=b"]
)
async def test_json_is_known_by_its_content_type(content_type: str) -> None:
    async with serve(answer(200, {"a": 1}, headers={"Content-Type": content_type})) as server:
        assert (await ask(server.url)).json() == {"a": 1}


@pytest.mark.parametrize(
    "text",
    [
        b'{"id": 1, "id": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b"NaN",
        b"[Infinity]",
        b"[1e999]",
        b'"\\ud800"',
        b"[" * 50_000,
        b'{"a":' * 50_000,
        b"9" * 5000,
        b"\xff",
        b"{} {}",
    ],
)
def test_json_that_means_two_things_or_none_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


@given(text=st.binary() | st.text(alphabet='{}[]",:0123456789.eE-+ntrufalsNI\\ud8').map(str.encode))
def test_any_octets_are_json_or_raise_value_error(text: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse_json(text)


NOW = datetime(2026, 1, 2, tzinfo=UTC)


def http_date(offset_s: float) -> str:
    return format_datetime(NOW + timedelta(seconds=offset_s), usegmt=True)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0),
        ("7", 7),
        ("99999", 3600),
        (http_date(60), 60),
        (http_date(-60), 0),
        (http_date(1e6), 3600),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("1e3", None),
        ("٣", None),
        ("9" * 11, None),
        ("soon", None),
        ("7, 8", None),
        ("Wed, 99 Foo 2020 99:99:99 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_by_the_servers_clock(value: str, expected: float | None) -> None:
    assert retry_after_s(value, http_date(0)) == expected


def test_without_a_date_of_the_server_this_clock_is_taken() -> None:
    now = datetime.now(UTC)
    assert retry_after_s(format_datetime(now - timedelta(seconds=5), usegmt=True)) == 0
    assert retry_after_s(format_datetime(now + timedelta(seconds=1e6), usegmt=True)) == 3600


@given(value=st.text() | st.text().map(lambda text: f"{text} GMT"), date=st.text().map(lambda text: f"{text} GMT"))
def test_any_retry_after_is_a_bounded_time_or_none(value: str, date: str) -> None:
    wait_s = retry_after_s(value, date)
    assert wait_s is None or 0 <= wait_s <= 3600


async def test_mode_says_when_to_come_back() -> None:
    async with serve(answer(429, {"reason": "RATE_LIMIT_EXCEEDED"}, headers={"Retry-After": "12"})) as server:
        with pytest.raises(CloudRetryLaterError) as caught:
            await ask(server.url)
    assert (caught.value.status, caught.value.reason, caught.value.retry_after_s) == (429, "RATE_LIMIT_EXCEEDED", 12)


# Secrets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end",
    [
        answer(200, {"apiKey": CANARY}),
        answer(200, body=f'{{"apiKey": "{CANARY}"'.encode()),
        answer(200, body=f'{{"apiKey": "{CANARY}\xff"}}'.encode("latin-1")),
        answer(403, {"message": CANARY}),
        _reset_after_request,
        _say_nothing,
    ],
)
async def test_secrets_are_in_no_log_no_message_and_nothing_that_an_error_holds(
    end: bytes | Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    # A command line that ran in this process before may have made it say less.
    caplog.set_level(logging.DEBUG, logger="httpcore")
    seen = ""
    async with serve(end) as server:  # type: ignore[arg-type]
        got: BaseException | Answer
        try:
            got = await ask(server.url, timeout_s=1)
        except CloudError as e:
            got = e
        else:
            seen += repr(got)
            try:
                DeviceCredentials.from_json(got.json())
            except CloudNoAnswerError as e:
                got = e
    if isinstance(got, CloudError):
        seen += "".join(traceback.format_exception(got)) + repr(got) + repr(vars(got))
        assert (got.__cause__, got.__context__) == (None, None)
    assert caplog.records
    assert CANARY not in caplog.text + seen


async def test_a_message_does_not_repeat_what_a_server_says_that_speaks_no_http() -> None:
    async with serve(f"HTTP/1.1 {CANARY}\r\n\r\n".encode()) as server:
        with pytest.raises(CloudNoAnswerError) as caught:
            await ask(server.url)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


async def test_a_connection_error_holds_no_request() -> None:
    with pytest.raises(CloudUnreachableError) as caught:
        await ask(f"http://127.0.0.1:{free_port()}")
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_the_system_s_trust_store_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def create(*, cafile: object = None) -> ssl.SSLContext:
        asked.append(cafile)
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    async def enter() -> None:
        async with HTTPClient("https://h"):
            pass

    monkeypatch.setattr(ssl, "create_default_context", create)
    HTTPClient("https://h")
    assert asked == []
    asyncio.run(enter())
    assert asked == [None]
