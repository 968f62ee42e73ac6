"""The table of the troubles with MODE, written down from section 4 of DESIGN: what each of them must come to."""

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from email.utils import formatdate

from torture.cloud import AtTheCompanion, Claimed, Decided, Decision, Provisioned, Row
from torture.hostile import Arrange, at, certified, closed, failing, full, late, misdirecting, playing, saying
from torture.warp import BEGAN_AT
from unit.mode.loopback import Handler, answer, read_request, reset

from bletoken.mode.http import LARGEST_OBJECT
from bletoken.sim.cloud.faults import ErrorAnswer, Fault

LARGEST_ID = 2**64 - 1
WELL = b'{"id": 5, "apiKey": "v1.key"}'
EMPTY = (204, 304)
"""Answers with these have no body."""


# A request that provably never left: tried again, and given up in time ------------------------------------------------


def unreachable() -> Iterator[Row]:
    for name, arrange in {
        "refused": closed,
        "the system answers no connection": full,
        "no such host": at("http://no-such-host.invalid"),
        "no host can have this name": at(f"http://{'a' * 70}.invalid"),
    }.items():
        yield Decided("never left", name, arrange, Decision.UNREACHABLE, posts=0)
    day, hour = timedelta(days=1), timedelta(hours=1)
    for name, arrange in {
        "certificate for another host": certified(address="127.0.0.9"),
        "certificate of an unknown authority": certified(trusted=False),
        "certificate expired": certified(ends=-hour),
        "certificate not valid yet": certified(begins=hour),
        "certificate for another host, in 1970": certified(address="127.0.0.9", begins=day, ends=2 * day, in_1970=True),
        "no TLS at all": saying(answer(400), tls=True),
        "reset in the handshake": saying(_reset, tls=True),
        "hung up in the handshake": saying(_hang_up, tls=True),
        "silence in the handshake": saying(_say_nothing, tls=True),
    }.items():
        yield Decided("TLS", name, arrange, Decision.UNREACHABLE, posts=0)
    in_1970 = certified(begins=day, ends=2 * day, in_1970=True)
    yield Decided("clock", "device clock in 1970", in_1970, Decision.CLOCK_WRONG, posts=0)
    yield Decided("clock", "device clock in 1970, certificate good", certified(in_1970=True), Decision.STORED)
    yield Decided("in time", "MODE is there after 5 s", late(5), Decision.STORED, least_s=5)


# A request that may have left: never sent again ----------------------------------------------------------------------


def unanswered() -> Iterator[Row]:
    for when, made in (("before", False), ("after", True)):
        for name, fault in {
            f"reset {when} MODE acts": Fault(drop=when, reset=True),
            f"hung up {when} MODE acts": Fault(drop=when),
        }.items():
            yield Decided("broken off", name, failing(redeem=[fault]), Decision.UNKNOWN, made=made)
        held = failing(redeem=[Fault(hold=when)])
        # MODE carries out in the end what nobody waits for any more, and nobody stores its answer.
        yield Decided("silence", f"no answer {when} MODE acts", held, Decision.UNKNOWN, made=True)
    yield Decided(
        "broken off", "in the middle of the answer", failing(redeem=[Fault(truncate=True)]), Decision.UNKNOWN, made=True
    )
    yield Decided("broken off", "reset as soon as connected", saying(_reset), Decision.UNKNOWN, posts=0)
    yield Decided("broken off", "hung up as soon as connected", saying(_hang_up), Decision.UNKNOWN, posts=0)
    for name, handler in {
        "the body drips in": _drip(
            b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n", b" "
        ),
        "the head drips in": _drip(b"HTTP/1.1 201 Created\r\n", b"X: y\r\n"),
        "early hints for ever": _drip(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    }.items():
        yield Decided("drip", name, saying(handler), Decision.UNKNOWN, posts=0)
    for name, octets in {
        "nothing": b"",
        "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "zeros": bytes(100),
        "no length": b"HTTP/1.1 201 Created\r\nContent-Length: x\r\n\r\n",
        "another protocol from here on": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "a head without an end": b"HTTP/1.1 201 Created\r\n" + b"X: " + b"x" * 200_000,
    }.items():
        yield Decided("no HTTP", name, saying(octets), Decision.UNKNOWN)
    for status in (301, 302, 303, 307, 308):
        yield Decided("redirect", f"{status}", misdirecting(status), Decision.UNKNOWN)
    yield Decided("redirect", "to nowhere", saying(answer(302, headers={"Location": "http://["})), Decision.UNKNOWN)
    yield Decided("redirect", "to itself", failing(redeem=[Fault(redirect="/devices")]), Decision.UNKNOWN)


# Each status ---------------------------------------------------------------------------------------------------------


def statuses() -> Iterator[Row]:
    """Each with a body that names a reason and no device, so that no success can be read."""
    for status in (*range(200, 600), 600, 999):
        body = None if status in EMPTY else {"reason": "WHY"}
        arrange = saying(answer(status, body, headers={"Location": "/elsewhere"}))
        match status:
            case 429 | 503:
                # They mean "later", and have rows of their own.
                continue
            case 408:
                kind, decision = "408", Decision.UNKNOWN
            case _ if status < 300:
                kind, decision = "2xx that cannot be read", Decision.UNKNOWN
            case _ if status < 400:
                kind, decision = "3xx", Decision.UNKNOWN
            case _ if status < 500:
                kind, decision = "4xx", Decision.REFUSED
            case _ if status < 600:
                kind, decision = "5xx", Decision.UNKNOWN
            case _:
                kind, decision = "no HTTP status", Decision.UNKNOWN
        yield Decided(kind, f"status {status}", arrange, decision)
    for name, refusal in {
        "without a body": answer(403),
        "with a page": answer(403, body=b"<html>", headers={"Content-Type": "text/html"}),
        "with a reason that is none": answer(403, body=b'{"reason": "\\u001b[2J' + b"x" * 9000 + b'"}'),
        "with a body that is too large": answer(403, body=b"x" * (LARGEST_OBJECT + 1)),
        "with half a body": answer(403, body=b'{"reason"', headers={"Content-Length": "50"}),
    }.items():
        yield Decided("refusal", name, saying(refusal), Decision.REFUSED)
    for status in (500, 502):
        after = Fault(error=ErrorAnswer(status=status, when="after"))
        yield Decided(
            "5xx", f"status {status}, and MODE has acted", failing(redeem=[after]), Decision.UNKNOWN, made=True
        )


# "Later" --------------------------------------------------------------------------------------------------------------


def put_off() -> Iterator[Row]:
    for status in (429, 503):
        yield from _put_off_with(status)


def _put_off_with(status: int) -> Iterator[Row]:
    def later(retry_after: str | None) -> ErrorAnswer:
        return ErrorAnswer(status=status, reason="LATER", retry_after=retry_after)

    def once(retry_after: str | None) -> Arrange:
        return failing(redeem=[Fault(error=later(retry_after), count=1)])

    def always(retry_after: str | None) -> Arrange:
        return failing(redeem=[Fault(error=later(retry_after))])

    stored, given_up = Decision.STORED, Decision.PUT_OFF
    for seconds in (0, 3, 45):
        name = f"status {status} once, {seconds} s"
        yield Decided("Retry-After", name, once(str(seconds)), stored, posts=2, least_s=seconds, retry_s=120)
        # The time is counted from the answer's own date, a little after the world's beginning.
        date, least_s = formatdate(BEGAN_AT + seconds, usegmt=True), seconds - 2
        yield Decided("Retry-After", f"{name} as a date", once(date), stored, posts=2, least_s=least_s, retry_s=120)
    nonsense = ["", "soon", "-5", "1.5", "0x10", "Thu, 99 Foo 2026 00:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 GMT"]
    for value in (None, *nonsense):
        yield Decided("no Retry-After", f"status {status} once, {value!r}", once(value), stored, posts=2)
    for value in ("21", "9999999999", "Fri, 01 Jan 2100 00:00:00 GMT"):
        yield Decided("too late", f"status {status}, {value}", always(value), given_up)
    yield Decided("put off for ever", f"status {status}, 8 s each time", always("8"), given_up, posts=3)
    yield Decided("put off for ever", f"status {status}, 50 s each time", always("50"), given_up, posts=3, retry_s=120)
    several = [Fault(error=later("1"), count=1), Fault(error=later(None), count=1), Fault(drop="after")]
    unanswered = failing(redeem=several)
    yield Decided("put off, then", f"{status} twice, no answer", unanswered, Decision.UNKNOWN, posts=3, made=True)
    refused = failing(redeem=[several[0], Fault(error=ErrorAnswer(status=403, reason="INVALID_TOKEN"))])
    yield Decided("put off, then", f"{status}, refused", refused, Decision.REFUSED, posts=2)


# What MODE says -------------------------------------------------------------------------------------------------------


def unreadable() -> Iterator[Row]:
    for content_type in ("text/html; charset=utf-8", "application/json-seq", "text/json", ""):
        said = saying(answer(201, body=WELL, headers={"Content-Type": content_type}))
        yield Decided("content type", repr(content_type), said, Decision.UNKNOWN)
    page = Fault(error=ErrorAnswer(status=200, body="<html>Sign in to this network", when="before"))
    yield Decided("content type", "a captive portal", failing(redeem=[page]), Decision.UNKNOWN)
    ids = [
        "0",
        "-1",
        "1.5",
        "5e0",
        '"5"',
        "true",
        "null",
        "[5]",
        "{}",
        str(2**64),
        str(2**64 + 5),
        "1" + "0" * 400,
        "1" * 5000,
        "1e999",
    ]
    for text in ids:
        name = f"id {text}" if len(text) < 25 else f"id of {len(text)} digits"
        yield Decided(
            "hostile id", name, saying(answer(201, body=b'{"id": %s, "apiKey": "k"}' % text.encode())), Decision.UNKNOWN
        )
    for text in ('""', '"a b"', '"a\\r\\nX: 1"', '"\\u00e9"', "5", "null", '["k"]', f'"{"x" * 1025}"', '"\\u0000"'):
        name = f"key {text}" if len(text) < 25 else "key too long"
        yield Decided(
            "hostile key", name, saying(answer(201, body=b'{"id": 5, "apiKey": %s}' % text.encode())), Decision.UNKNOWN
        )
    for name, body in {
        "empty": b"",
        "half": WELL[:-5],
        "with something behind it": WELL + b" x",
        "a list": b"[" + WELL + b"]",
        "null": b"null",
        "without an id": b'{"apiKey": "k"}',
        "without a key": b'{"id": 5}',
        "with two ids": b'{"id": 5, "id": 6, "apiKey": "k"}',
        "with NaN": b'{"id": 5, "apiKey": "k", "x": NaN}',
        "with infinity": b'{"id": 5, "apiKey": "k", "x": 1e999}',
        "with half a pair": b'{"id": 5, "apiKey": "k", "x": "\\ud800"}',
        "not UTF-8": b'{"id": 5, "apiKey": "k", "x": "\xff"}',
        "UTF-16": WELL.decode().encode("utf-16"),
        "with a byte order mark": b"\xef\xbb\xbf" + WELL,
        "nested deep": b'{"id": 5, "apiKey": "k", "x": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        "too large": b'{"id": 5, "apiKey": "k", "x": "' + b"x" * LARGEST_OBJECT + b'"}',
        "far too large": b'{"id": 5, "apiKey": "k", "x": "' + b"x" * 10_000_000 + b'"}',
    }.items():
        yield Decided("hostile JSON", name, saying(answer(201, body=body)), Decision.UNKNOWN)
    compressed = answer(201, body=WELL, headers={"Content-Encoding": "gzip"})
    yield Decided("hostile JSON", "said to be compressed", saying(compressed), Decision.UNKNOWN)
    longer = answer(201, body=WELL, headers={"Content-Length": str(len(WELL) + 1)})
    yield Decided("hostile JSON", "shorter than said", saying(longer), Decision.UNKNOWN)


def readable() -> Iterator[Row]:
    for number in (1, 2**31, 2**32, 2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, LARGEST_ID - 1, LARGEST_ID):
        yield Decided("id", f"id {number}", failing(), Decision.STORED, settings={"first_device_id": number})
    for status in (200, 201):
        yield Decided("stored", f"status {status}", failing(), Decision.STORED, settings={"redeem_status": status})
    for name, told in {
        "status 299": answer(299, body=WELL),
        "more than is known": answer(201, body=b'{"id": 5, "apiKey": "k", "homeId": -1, "new": {"a": [null]}}'),
        "as large as may be": answer(201, body=WELL + b" " * (LARGEST_OBJECT - len(WELL))),
        "another JSON type": answer(201, body=WELL, headers={"Content-Type": "APPLICATION/vnd.mode+json"}),
        "a key of 1024 characters": answer(201, body=b'{"id": 5, "apiKey": "%s"}' % (b"k" * 1024)),
    }.items():
        yield Decided("stored", name, playing(told), Decision.STORED)


# After the redemption ------------------------------------------------------------------------------------------------


def afterwards() -> Iterator[Row]:
    as_json = "application/json"
    for name, error in {
        "nobody": ErrorAnswer(status=200, body='{"type": "nobody"}', content_type=as_json),
        "another device": ErrorAnswer(status=200, body='{"type": "device", "deviceId": 1}', content_type=as_json),
        "a user": ErrorAnswer(status=200, body='{"type": "user", "userId": 1001}', content_type=as_json),
        "status 401": ErrorAnswer(status=401, reason="UNAUTHENTICATED_CLIENT"),
    }.items():
        yield Decided("key refused", name, failing(auth=[Fault(error=error)]), Decision.KEY_REFUSED)
    for name, fault in _passing():
        yield Decided("checking the key", name, failing(auth=[fault]), Decision.STORED)
        yield Decided("triggering the event", name, failing(event=[fault]), Decision.STORED)
    for status in (400, 403, 404):
        refused = Fault(error=ErrorAnswer(status=status, reason="NO"))
        yield Decided("triggering the event", f"refused with {status}", failing(event=[refused]), Decision.STORED)


def _passing() -> Iterator[tuple[str, Fault]]:
    for status in (408, 429, 500, 503):
        yield f"status {status} twice", Fault(error=ErrorAnswer(status=status, retry_after="2"), count=2)
    yield "reset before", Fault(drop="before", reset=True, count=1)
    yield "hung up after", Fault(drop="after", count=1)
    yield "no answer", Fault(hold="before", count=1)
    yield "redirect", Fault(redirect="http://127.0.0.1:9/", count=1)
    yield "a page", Fault(error=ErrorAnswer(status=500, body="<html>"), count=2)


# Who holds the user's session closes the loop ------------------------------------------------------------------------


def provisioned() -> Iterator[Row]:
    not_made = {
        "reset before MODE acts": {"drop": "before", "reset": True},
        "redirect": {"redirect": "http://127.0.0.1:9/"},
        "status 500": {"error": ErrorAnswer(status=500)},
    }
    made = {
        "reset after MODE acts": {"drop": "after", "reset": True},
        "no answer": {"hold": "after"},
        "half an answer": {"truncate": True},
        "status 502, and MODE has acted": {"error": ErrorAnswer(status=502, when="after")},
        "a page, and MODE has acted": {"error": ErrorAnswer(status=200, body="<html>", when="after")},
    }
    for kind, faults in {"nothing to remove": not_made, "removed": made}.items():
        for name, fault in faults.items():
            yield Provisioned(kind, f"{name}, once", Fault(**fault, count=1), exit_code=0, posts=2)
            yield Provisioned(kind, f"{name}, twice", Fault(**fault, count=2), exit_code=0, posts=3)
            yield Provisioned(kind, f"{name}, each time", Fault(**fault), exit_code=8, posts=3)
    for status in (400, 401, 403, 404):
        refused = Fault(error=ErrorAnswer(status=status, reason="INVALID_TOKEN"))
        yield Provisioned("refused", f"status {status}", refused, exit_code=6, posts=1)
    for status in (429, 503):
        later = ErrorAnswer(status=status, retry_after="2")
        yield Provisioned("later", f"status {status}, once", Fault(error=later, count=1), exit_code=0, posts=2)
        yield Provisioned(
            "expired",
            f"status {status}, 6 s each time, of a token that lives for 15",
            Fault(error=replace(later, retry_after="6")),
            exit_code=6,
            posts=3,
            words="the provisioning token expired",
            settings={"token_lifetime_s": 15.0},
        )
    yield Provisioned(
        "expired",
        "when MODE looks at it",
        Fault(delay_s=6, count=1),
        exit_code=6,
        posts=1,
        words="MODE refused the provisioning token",
        settings={"token_lifetime_s": 5.0},
    )


def bad_days() -> Iterator[Row]:
    """What fails in passing while something else has failed: what may be asked again is."""
    well, lost = Fault(count=1), Fault(drop="after", count=1)
    for name, fault in _passing():
        home = {"home": [well, fault]}
        yield Provisioned("removed all the same", f"home: {name}", lost, exit_code=0, posts=2, also=home)
        yield Provisioned(
            "removed all the same", f"removal: {name}", lost, exit_code=0, posts=2, also={"remove": [fault]}
        )
        yield Provisioned("seen all the same", f"home: {name}", well, exit_code=0, posts=1, also=home)
        yield Provisioned("asked all the same", f"home: {name}", well, exit_code=0, posts=1, also={"home": [fault]})
        yield Provisioned("asked all the same", f"token: {name}", well, exit_code=0, posts=1, also={"token": [fault]})
        for endpoint in ("register", "redeem", "look", "event", "home"):
            yield Claimed("claimed all the same", f"{endpoint}: {name}", {endpoint: [fault]})
    for status, reason, exit_code in (
        (403, "MATCHING_DEVICE_ONLY", 29),
        (403, "DEVICE_ALREADY_IN_HOME", 11),
        (401, "", 21),
    ):
        refused = Fault(error=ErrorAnswer(status=status, reason=reason), count=1)
        yield Claimed("not claimed", f"registration: {status} {reason}", {"register": [refused]}, exit_code)
    for status, reason, exit_code in ((404, "NOT_FOUND", 28), (403, "DEVICE_NOT_CLAIMABLE", 27), (401, "", 17)):
        refused = Fault(error=ErrorAnswer(status=status, reason=reason), count=1)
        yield Claimed("not claimed", f"claim: {status} {reason}", {"redeem": [refused]}, exit_code)


def at_the_companion() -> Iterator[Row]:
    for status, exit_code in {
        400: 30,
        401: 17,
        403: 30,
        404: 30,
        408: 8,
        500: 8,
        501: 8,
        502: 8,
        504: 8,
        429: 7,
        503: 7,
    }.items():
        error = Fault(error=ErrorAnswer(status=status, reason="WHY"))
        yield AtTheCompanion("no token", f"status {status}", failing(token=[error]), exit_code)
    for name, fault in {
        "reset before": Fault(drop="before", reset=True),
        "hung up after": Fault(drop="after"),
        "no answer": Fault(hold="before"),
        "half an answer": Fault(truncate=True),
        "redirect": Fault(redirect="http://127.0.0.1:9/"),
        "a page": Fault(error=ErrorAnswer(status=200, body="<html>")),
        "a token that is none": Fault(
            error=ErrorAnswer(status=200, body='{"token": "a b"}', content_type="application/json")
        ),
    }.items():
        yield AtTheCompanion("no token", name, failing(token=[fault]), exit_code=8)
    for status in (429, 503):
        later = Fault(error=ErrorAnswer(status=status, retry_after="2"), count=2)
        yield AtTheCompanion("a token later", f"status {status}", failing(token=[later]), exit_code=0)
    for name, arrange in {
        "refused": closed,
        "no such host": at("http://no-such-host.invalid"),
        "unknown authority": certified(),
    }.items():
        yield AtTheCompanion("companion offline", name, arrange, exit_code=7)
    for name, fault in {
        "refused": Fault(error=ErrorAnswer(status=403)),
        "hung up": Fault(drop="before"),
        "reset once it is there": Fault(drop="after", reset=True),
        "no answer": Fault(hold="before"),
    }.items():
        yield AtTheCompanion("no events", name, failing(events=[fault]), exit_code=0)


# How servers break off -----------------------------------------------------------------------------------------------


async def _reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reset(writer)


async def _hang_up(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    pass


async def _say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


def _drip(first: bytes, then: bytes) -> Handler:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(first)
        while True:
            writer.write(then)
            await writer.drain()
            await asyncio.sleep(0.5)

    return drip


ROWS: dict[str, Row] = {
    f"{row.kind}: {row.name}": row
    for row in itertools.chain(
        unreachable(),
        unanswered(),
        statuses(),
        put_off(),
        unreadable(),
        readable(),
        afterwards(),
        provisioned(),
        bad_days(),
        at_the_companion(),
    )
}
"""Each row by its name."""
