"""The vectors that are no transcripts: codes, names in adverts, frames, CBOR, guesses."""

import math
from typing import Any, Final

import cbor2
from vectors.maker.notation import to_json
from vectors.maker.recorder import hexes

from bletoken.errors import RemoteProtocolError
from bletoken.protocol import cbor, frames, wire
from bletoken.protocol.guesses import STOP_AT, GuessRecord
from bletoken.protocol.setup_code import AdvertName, Pin, QrSecret, _damm_digit
from bletoken.protocol.wire import ClearCode, ClearStatus, CoarseState, FailureCode, Offer

SECRETS: Final = (
    "00112233445566778899aabbccddeeff",
    "00000000000000000000000000000000",
    "ffffffffffffffffffffffffffffffff",
    "0123456789abcdeffedcba9876543210",
)
PINS: Final = ("27182845", "31415926", "00000001", "99999998", "12345670")
NONCES: Final = ("0000", "ffff", "a55a")

MESSAGES: Final[tuple[object, ...]] = (
    Offer((1,), bytes(range(16)), {1: bytes([5] * 32)}, (1,), CoarseState.READY),
    Offer((1, 2), bytes(16), {1: bytes(32), 2: bytes([255] * 32)}, (1, 2, 3, 4, 5), CoarseState.OUTCOME_UNKNOWN, 1200),
    Offer((1,), bytes(16), {1: bytes(32), 2: bytes(32)}, (1, 3, 4, 5), CoarseState.WORKING, 65535, "thermostat " * 5),
    ClearStatus(ClearCode.STALE_OFFER, CoarseState.READY),
    ClearStatus(ClearCode.LOCKED, CoarseState.PRE_PROVISIONED, 300),
    wire.Provision("t"),
    wire.Provision("~" * 1024, 2**32 - 1, 2**64 - 1),
    wire.Claim(60),
    wire.Claim(900),
    wire.Identify(),
    wire.AskStatus(),
    wire.Unlock(),
    wire.Accepted(0),
    wire.Accepted(2**32 - 1, bytes([255] * 16)),
    wire.Redeeming(1, bytes(16)),
    wire.Stored(23, bytes(16)),
    wire.Provisioned(24, bytes(16), 2**64 - 1),
    wire.Claimable(255, None, claim_code="c", until=1),
    wire.Claimable(256, None, claim_code="!" * 128, until=2**64 - 1),
    wire.Failed(0),
    wire.Failed(65536, bytes(16), FailureCode.TOKEN_REFUSED, "ü" * 32, 2**32 - 1),
    wire.Idle(0),
    wire.Idle(0, bytes(16), CoarseState.PROVISIONED),
    wire.Done(1),
)

_OFFER: Final[dict[int, Any]] = {1: [1], 2: bytes(16), 3: {1: bytes(32)}, 4: [1], 5: 0}


def all_files() -> dict[str, Any]:
    """Every file but the transcripts, by its name."""
    return {
        "setup-codes": setup_codes(),
        "adverts": adverts(),
        "frames": frame_vectors(),
        "cbor": cbor_vectors(),
        "guesses": guesses(),
    }


def setup_codes() -> dict[str, Any]:
    good = QrSecret(bytes.fromhex(SECRETS[0])).text
    body = good.removeprefix("BLETOKEN1:")
    return {
        "about": "Setup codes as printed and as CPace takes them. Refused texts name no code.",
        "qr": [
            {"secret": secret, "text": code.text, "prs": code.password.hex()}
            for secret in SECRETS
            for code in [QrSecret(bytes.fromhex(secret))]
        ],
        "pin": [
            {"digits": digits, "text": pin.text, "prs": pin.password.hex()} for digits in PINS for pin in [Pin(digits)]
        ],
        "same": [
            {"typed": typed, "means": means}
            for means, many in (
                (good, (good.lower(), f"  {good}\n", f"{good[:20]} {good[20:]}", good.replace(":", ":-"))),
                (Pin(PINS[0]).text, (Pin(PINS[0]).text.replace("-", ""), f" {Pin(PINS[0]).text.replace('-', ' ')}\t")),
            )
            for typed in many
        ],
        "refused": [
            {"about": about, "text": text}
            for about, text in (
                ("nothing", ""),
                ("neither a QR text nor a PIN", "hello"),
                ("eight digits", "27182845"),
                ("ten digits", "2718284590"),
                ("a wrong check digit", f"{Pin(PINS[0]).digits}{(int(Pin(PINS[0]).text[-1]) + 1) % 10}"),
                ("a trivial PIN with its check digit", "12345678" + _damm_digit("12345678")),
                ("two digits swapped", "72182845" + Pin("27182845").text[-1]),
                ("no check characters", f"BLETOKEN1:{body[:26]}"),
                ("a wrong check character", f"BLETOKEN1:{body[:-1]}{'A' if body[-1] != 'A' else 'B'}"),
                ("a character that is not base32", f"BLETOKEN1:1{body[1:]}"),
                ("unused bits that are not zero", f"BLETOKEN1:{body[:25]}{chr(ord(body[25]) + 1)}{body[26:]}"),
                ("another version's prefix", f"BLETOKEN2:{body}"),
                ("201 characters", good + " " * (201 - len(good))),
            )
        ],
        "trivial_pins": [
            "00000000",
            "12345678",
            "87654321",
            "13579135",
            "97531975",
            "12121212",
            "27182718",
            "05050505",
        ],
    }


def adverts() -> dict[str, Any]:
    names = [
        (
            secret,
            nonce,
            state,
            AdvertName(state.letter, QrSecret(bytes.fromhex(secret)).advert_tag(bytes.fromhex(nonce))),
        )
        for secret, nonce, state in zip(
            (SECRETS[0], SECRETS[0], SECRETS[0], SECRETS[1], SECRETS[2]),
            ("a55a", "0000", "ffff", "a55a", "a55a"),
            CoarseState,
            strict=True,
        )
    ]
    uuid = bytes.fromhex(wire.SERVICE_UUID.replace("-", ""))[::-1]
    return {
        "about": "What is on the air. `flags` are those of a device without Bluetooth Classic.",
        "advertising_data": (b"\x02\x01\x06\x11\x07" + uuid).hex(),
        "names": [
            {
                "secret": secret,
                "nonce": nonce,
                "state": state.name.lower().replace("_", "-"),
                "tag": name.tag,
                "name": str(name),
                "scan_response": (bytes([len(str(name)) + 1, 9]) + str(name).encode()).hex(),
            }
            for secret, nonce, state, name in names
        ],
        "not_ours": [
            "",
            "bletoken",
            "bletoken-1r-",
            "bletoken-2r-UVNAAAAAAA",
            "bletoken-1R-UVNAAAAAAA",
            "bletoken-1r-uvnaaaaaaa",
            "bletoken-1r-UVNAAAAAA",
            "bletoken-1r-UVNAAAAAAAA",
            "bletoken-1r-UVNAAAAAA1",
        ],
    }


def frame_vectors() -> dict[str, Any]:
    messages = (b"a", bytes(range(19)), bytes(range(20)), bytes(n % 251 for n in range(1300)), bytes(4096))
    return {
        "about": "Messages cut into frames. In `refused` only the last frame of each list is refused.",
        "sizes": [
            {"att_mtu": mtu, "frame_size": frames.frame_size(mtu)}
            for mtu in (None, 0, 23, 24, 48, 185, 247, 511, 512, 517, 65535)
        ],
        "cut": [
            {"message": message.hex(), "size": size, "frames": hexes(frames.split(message, size))}
            for message, size in (
                *((message, 20) for message in messages[:4]),
                (messages[3], 182),
                (messages[3], 508),
                (messages[4], 508),
            )
        ],
        "joined": [
            {
                "about": "a first frame begins anew",
                "frames": hexes([b"\x80aaa", b"\x01bbb", b"\x80c", b"\x41d"]),
                "message": b"cd".hex(),
            },
            {
                "about": "frames need not be full or of one size",
                "frames": hexes([b"\x80a", b"\x01" + b"b" * 507, b"\x42c"]),
                "message": (b"a" + b"b" * 507 + b"c").hex(),
            },
        ],
        "refused": [_refused_frames(about, timed) for about, timed in _REFUSED_FRAMES],
    }


_REFUSED_FRAMES: Final[tuple[tuple[str, list[tuple[float, bytes]]], ...]] = (
    ("no octets", [(0, b"")]),
    ("a header alone", [(0, b"\xc0")]),
    ("509 octets", [(0, b"\x80" + bytes(508))]),
    ("no message begun", [(0, b"\x41a")]),
    ("no message begun after one has ended", [(0, b"\xc0a"), (0, b"\x41a")]),
    ("a first frame that is not number 0", [(0, b"\x81a")]),
    ("a number left out", [(0, b"\x80a"), (0, b"\x02a")]),
    ("a number twice", [(0, b"\x80a"), (0, b"\x01a"), (0, b"\x01a")]),
    ("10 s after the one before", [(0, b"\x80a"), (10, b"\x01a")]),
    ("60 s after the first", [*((9 * i, bytes([0x80 if i == 0 else i]) + b"a") for i in range(7)), (60, b"\x07a")]),
    ("octet 4097", [*((0, bytes([0x80 if i == 0 else i]) + bytes(507)) for i in range(8)), (0, b"\x08" + bytes(41))]),
)


def _refused_frames(about: str, timed: list[tuple[float, bytes]]) -> dict[str, Any]:
    reassembler = frames.Reassembler()
    *taken, (at_s, last) = timed
    for taken_at_s, piece in taken:
        reassembler.receive(piece, taken_at_s)
    try:
        reassembler.receive(last, at_s)
    except RemoteProtocolError as error:
        return {
            "about": about,
            "frames": [{"at_s": s, "octets": piece.hex()} for s, piece in timed],
            "att_error": error.att_error_hint,
        }
    raise AssertionError(f"{about} is taken")


def guesses() -> dict[str, Any]:
    waits = [GuessRecord(failures, 0).wait_s(0) for failures in range(STOP_AT + 1)]
    return {
        "about": "Seconds between the attempt that made so many failures, or the start, and the next; null: stopped.",
        "waits": [
            {"failures": failures, "wait_s": None if math.isinf(wait) else wait} for failures, wait in enumerate(waits)
        ],
    }


def cbor_vectors() -> dict[str, Any]:
    return {
        "about": "What is inside: HELLO, the CBOR of a clear status (without its head), plaintexts of boxes.",
        "valid": [{"octets": encoded(message).hex(), "means": to_json(message)} for message in MESSAGES],
        "also_valid": [
            {"about": about, "octets": octets.hex(), "means": to_json(message)}
            for about, octets, message in (
                ("unknown keys are skipped", _c({0: 3, 9: "new", 10: [1, b"x", True]}), wire.Identify()),
                ("an unknown key that is negative", _c({0: 4, -1: {1: 2}}), wire.AskStatus()),
                ("a field that carries its default", _c({0: 1, 1: "t", 2: 0, 3: 0}), wire.Provision("t")),
                (
                    "182 octets",
                    _c(_OFFER | {3: {1: bytes(32), 2: bytes(32)}, 7: "x" * 64, 9: "y" * 14}),
                    Offer(
                        (1,), bytes(16), {1: bytes(32), 2: bytes(32)}, (1,), CoarseState.READY, device_class="x" * 64
                    ),
                ),
                ("an unknown action is kept", _c(_OFFER | {4: [1, 200]}), _offer(actions=(1, 200))),
                (
                    "an unknown method is kept",
                    _c(_OFFER | {3: {1: bytes(32), 9: bytes(32)}}),
                    _offer(shares={1: bytes(32), 9: bytes(32)}),
                ),
            )
        ],
        "refused": [
            {"about": about, "as": kind, "octets": octets.hex()}
            for about, kind, octets in (*_refused(), *_refused_offers())
        ],
    }


def encoded(message: object) -> bytes:
    """A message's CBOR, without the head of a clear status."""
    match message:
        case Offer():
            return message.encode()
        case ClearStatus():
            return cbor.encode(message)
        case wire.Status():
            return wire.encode_status(message)
        case _:
            return wire.encode_request(message)  # type: ignore[arg-type]


def _c(content: object) -> bytes:
    return cbor2.dumps(content, canonical=True)


def _offer(*, shares: dict[int, bytes] | None = None, actions: tuple[int, ...] = (1,)) -> Offer:
    return Offer((1,), bytes(16), shares or {1: bytes(32)}, actions, CoarseState.READY)


def _refused() -> list[tuple[str, str, bytes]]:
    octets = bytes.fromhex
    return [
        ("nothing", "request", b""),
        ("not a map", "request", octets("03")),
        ("an array", "request", octets("8100")),
        ("an octet behind it", "request", octets("a1000300")),
        ("cut off", "request", octets("a100")),
        ("a key twice", "request", octets("a200030003")),
        ("keys out of order", "request", octets("a20161740001")),
        ("a number in a longer form than needed", "request", octets("a1001803")),
        ("a length in a longer form than needed", "request", octets("b8010003")),
        ("an indefinite map", "request", octets("bf0003ff")),
        ("an indefinite text", "request", octets("a20001017f6174ff")),
        ("a key that is text", "request", octets("a20003616101")),
        ("a key that is a boolean", "request", octets("a20003f501")),
        ("a tag", "request", octets("a2000309c001")),
        ("a bignum", "request", octets("a2000309c249010000000000000000")),
        ("a float", "request", octets("a2000309f93c00")),
        ("null", "request", octets("a2000309f6")),
        ("undefined", "request", octets("a2000309f7")),
        ("a simple value", "request", octets("a2000309e0")),
        ("containers four deep", "request", _c({0: 3, 9: [[[1]]]})),
        ("text that is not UTF-8", "request", octets("a200030961ff")),
        ("no kind", "request", octets("a1016174")),
        ("an unknown kind", "request", _c({0: 6})),
        ("kind 0", "request", _c({0: 0})),
        ("a kind that is a boolean", "request", _c({0: True})),
        ("no token", "request", _c({0: 1})),
        ("an empty token", "request", _c({0: 1, 1: ""})),
        ("a token of 1025 characters", "request", _c({0: 1, 1: "x" * 1025})),
        ("a token with a space", "request", _c({0: 1, 1: "a b"})),
        ("a token with a control character", "request", _c({0: 1, 1: "a\n"})),
        ("a token that is not ASCII", "request", _c({0: 1, 1: "é"})),
        ("a token in octets", "request", _c({0: 1, 1: b"t"})),
        ("seconds below 0", "request", _c({0: 1, 1: "t", 2: -1})),
        ("seconds of 33 bit", "request", _c({0: 1, 1: "t", 2: 2**32})),
        ("seconds that are a boolean", "request", _c({0: 1, 1: "t", 2: True})),
        ("a claim without a duration", "request", _c({0: 2})),
        ("a claim for 59 seconds", "request", _c({0: 2, 1: 59})),
        ("a claim for 901 seconds", "request", _c({0: 2, 1: 901})),
        ("an unknown kind of status", "status", _c({0: 9, 1: 0})),
        ("a status that answers nothing", "status", _c({0: 1})),
        ("a reference of 15 octets", "status", _c({0: 1, 1: 0, 2: bytes(15)})),
        ("an unknown failure", "status", _c({0: 6, 1: 0, 3: 14})),
        ("failure 0", "status", _c({0: 6, 1: 0, 3: 0})),
        ("a reason of 65 octets", "status", _c({0: 6, 1: 0, 4: "x" * 65})),
        ("a reason of 33 characters and 66 octets", "status", _c({0: 6, 1: 0, 4: "ü" * 33})),
        ("an unknown state", "status", _c({0: 7, 1: 0, 3: 5})),
        ("an empty claim code", "status", _c({0: 5, 1: 0, 3: "", 4: 1})),
        ("no claim code", "status", _c({0: 5, 1: 0, 4: 1})),
        ("a claim code without an end", "status", _c({0: 5, 1: 0, 3: "c"})),
        ("a claim code of 129 characters", "status", _c({0: 5, 1: 0, 3: "x" * 129, 4: 1})),
        ("no code", "clear-status", _c({2: 0})),
        ("an unknown code", "clear-status", _c({1: 9, 2: 0})),
        ("no state", "clear-status", _c({1: 1})),
        ("a wait of 17 bit", "clear-status", _c({1: 5, 2: 0, 3: 65536})),
    ]


def _refused_offers() -> list[tuple[str, str, bytes]]:
    share = bytes(32)
    changes: tuple[tuple[str, dict[int, Any]], ...] = (
        ("no versions", {1: []}),
        ("nine versions", {1: list(range(1, 10))}),
        ("versions out of order", {1: [2, 1]}),
        ("a version twice", {1: [1, 1]}),
        ("a version of 9 bit", {1: [1, 256]}),
        ("a sid of 15 octets", {2: bytes(15)}),
        ("a sid of 17 octets", {2: bytes(17)}),
        ("no shares", {3: {}}),
        ("a share of 31 octets", {3: {1: bytes(31)}}),
        ("a method of 9 bit", {3: {256: share}}),
        ("no actions", {4: []}),
        ("seventeen actions", {4: list(range(1, 18))}),
        ("an unknown state", {5: 5}),
        ("a largest message of 17 bit", {6: 65536}),
        ("a device class of 65 octets", {7: "x" * 65}),
        ("183 octets", {3: {1: share, 2: share}, 7: "x" * 64, 9: "y" * 15}),
    )
    missing = [(f"no field {key}", "offer", _c({k: v for k, v in _OFFER.items() if k != key})) for key in _OFFER]
    return [*((about, "offer", _c(_OFFER | changed)) for about, changed in changes), *missing]
