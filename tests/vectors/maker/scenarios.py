"""The transcripts: what happens in each, in order."""

import dataclasses
from collections.abc import Callable
from typing import Any, Final

from vectors.maker.notation import to_json
from vectors.maker.recorder import PIN, QR, Recorder, secrets_of, sent, session_of

from bletoken.protocol import cpace, frames
from bletoken.protocol.channel import Direction, KeyShare, Opener, Sealer
from bletoken.protocol.device import SHARED_PEER, SessionId
from bletoken.protocol.setup_code import Label, Method, Pin, QrSecret
from bletoken.protocol.wire import (
    Accepted,
    AskStatus,
    Claim,
    Claimable,
    ClearCode,
    ClearStatus,
    CoarseState,
    Done,
    Failed,
    FailureCode,
    FirstHead,
    Identify,
    Idle,
    Offer,
    Provision,
    Provisioned,
    Redeeming,
    Stored,
    Unlock,
    decode_status,
    encode_request,
    token_ref,
)

TOKEN: Final = Provision("4fZk-example-token-Qx7", expires_in_s=600, companion_time=1_800_000_000)
REF: Final = token_ref(TOKEN.token)
OTHER_QR: Final = QrSecret(bytes.fromhex("ffeeddccbbaa99887766554433221100"))
OTHER_PIN: Final = Pin("31415926")

LOW_ORDER: Final = (
    bytes(32),
    bytes.fromhex("0100000000000000000000000000000000000000000000000000000000000000"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
)
"""Three of the points that the draft lists: whatever they are multiplied with, the result is the neutral element."""

_SCENARIOS: Final[list[Callable[[], Recorder]]] = []


def _scenario(make: Callable[[], Recorder]) -> Callable[[], Recorder]:
    _SCENARIOS.append(make)
    return make


def transcripts() -> dict[str, dict[str, Any]]:
    """Every transcript by its name."""
    return {recorder.name: recorder.content() for recorder in (make() for make in _SCENARIOS)}


def _begin(r: Recorder, code: QrSecret | Pin = QR, name: str = "companion", peer: str = "1") -> None:
    """A companion connects and reads the offer."""
    r.connect(peer)
    r.companion(name, code)
    r.read(name, r.hello(peer))


def _secured(r: Recorder, code: QrSecret | Pin = QR, name: str = "companion", peer: str = "1") -> SessionId:
    """A companion hands its token over and hears that it was accepted."""
    _begin(r, code, name, peer)
    session = session_of(r.take(r.ask_first(name, TOKEN), peer))
    r.hear(name, r.say(session, Accepted(0, REF)))
    return session


# All goes well ------------------------------------------------------------------------------------------------------


@_scenario
def success_by_qr() -> Recorder:
    r = Recorder("success-by-qr", "A token is handed over under the QR secret, and comes to its good end.")
    session = _secured(r)
    r.become(CoarseState.WORKING)
    r.hear("companion", r.say(session, Redeeming(0, REF)))
    r.become(CoarseState.PROVISIONED)
    r.hear("companion", r.say(session, Stored(0, REF)))
    r.hear("companion", r.say(session, Provisioned(0, REF, device_id=1001)))
    second = session_of(r.take(r.ask("companion", Identify())))
    r.hear("companion", r.say(second, Done(1), "`re` is the counter of the request."))
    r.disconnect()
    return r


@_scenario
def success_by_pin() -> Recorder:
    r = Recorder(
        "success-by-pin",
        "A token is handed over under the PIN. Two wrong ones came before: the attempt is counted before it is looked "
        "at and taken back when it proves right, the earlier ones stay.",
        wrong_pins=2,
    )
    session = _secured(r, PIN)
    r.hear("companion", r.say(session, Redeeming(0, REF)))
    r.hear("companion", r.say(session, Stored(0, REF)))
    r.hear("companion", r.say(session, Provisioned(0, REF, device_id=2**64 - 1)))
    return r


@_scenario
def smallest_frames() -> Recorder:
    r = Recorder("smallest-frames", "The same at an ATT MTU of 23: frames of 20 octets.", frame_size=20)
    session = _secured(r)
    r.hear("companion", r.say(session, Provisioned(0, REF, device_id=1001)))
    return r


@_scenario
def claim() -> Recorder:
    r = Recorder(
        "claim", "A pre-provisioned device tells its claim code; it takes no token.", state=CoarseState.PRE_PROVISIONED
    )
    _begin(r)
    session = session_of(r.take(r.ask_first("companion", Claim(300))))
    r.hear("companion", r.say(session, Accepted(0)), "It asks MODE.")
    r.hear("companion", r.say(session, Claimable(0, claim_code="C7-example-claim-code", until=1_800_000_300)))
    r.hear("companion", sent(r.take(r.ask("companion", TOKEN))), "Not granted in this state.")
    return r


@_scenario
def question() -> Recorder:
    r = Recorder("question", "A companion only asks; a new request comes on the same session.")
    _begin(r)
    session = session_of(r.take(r.ask_first("companion", AskStatus())))
    r.hear(
        "companion", r.say(session, Idle(0, state=CoarseState.READY), "The state is the default, so it is left out.")
    )
    session = session_of(r.take(r.ask("companion", AskStatus())))
    r.hear("companion", r.say(session, Idle(1, state=CoarseState.OUTCOME_UNKNOWN)))
    return r


@_scenario
def failures_with_reasons() -> Recorder:
    r = Recorder("failures-with-reasons", "Every failure code once, with and without MODE's reason and a wait.")
    session = _secured(r)
    for code in FailureCode:
        failed = {
            FailureCode.TOKEN_REFUSED: Failed(0, REF, code=code, reason="TOKEN_ALREADY_USED"),
            FailureCode.CLOUD_ERROR: Failed(0, REF, code=code, reason="später noch einmal ✓", retry_after_s=30),
            FailureCode.CLOCK_WRONG: Failed(0, REF, code=code, reason="x" * 64),
        }.get(code, Failed(0, REF, code=code))
        r.hear("companion", r.say(session, failed))
    return r


@_scenario
def lost_notification() -> Recorder:
    r = Recorder("lost-notification", "A status gets lost: the companion takes any higher counter, never a lower one.")
    session = _secured(r)
    late = r.say(session, Redeeming(0, REF), "This one does not arrive.")
    r.hear("companion", r.say(session, Stored(0, REF)))
    r.hear("companion", late, "Now it does, too late.")
    return r


@_scenario
def new_session_replaces_the_old() -> Recorder:
    r = Recorder(
        "new-session-replaces-the-old", "A second authentic first message on one connection ends the first session."
    )
    old = _secured(r)
    r.companion("again", QR)
    r.read("again", r.hello())
    new = session_of(r.take(r.ask_first("again", TOKEN)))
    r.say(old, Redeeming(0, REF), "Nobody is told: the session is gone.")
    status = r.say(new, Redeeming(0, REF))
    r.hear("again", status)
    r.hear("companion", status, "It is about another session, so it is ignored.")
    return r


# Wrong codes and the guess budget -----------------------------------------------------------------------------------


@_scenario
def wrong_qr() -> Recorder:
    r = Recorder("wrong-qr", "Another device's QR secret: nothing is counted.")
    _begin(r, OTHER_QR)
    r.hear("companion", sent(r.take(r.ask_first("companion", TOKEN))))
    return r


@_scenario
def wrong_pin() -> Recorder:
    r = Recorder("wrong-pin", "A wrong PIN, then the right one with the next offer of the same connection.")
    _begin(r, OTHER_PIN)
    r.hear("companion", sent(r.take(r.ask_first("companion", TOKEN))))
    r.companion("corrected", PIN)
    r.read("corrected", r.hello())
    session = session_of(r.take(r.ask_first("corrected", TOKEN)))
    r.hear("corrected", r.say(session, Accepted(0, REF)))
    return r


@_scenario
def pin_has_to_wait() -> Recorder:
    r = Recorder(
        "pin-has-to-wait",
        "After three wrong PINs the next has to wait five seconds from the start of the device; nothing is consumed "
        "meanwhile, and the same message is good after that.",
        wrong_pins=3,
    )
    _begin(r, PIN)
    message = r.ask_first("companion", TOKEN)
    r.take(message)
    r.wait(4.9)
    r.take(message)
    r.wait(0.1)
    r.hear("companion", r.say(session_of(r.take(message)), Accepted(0, REF)))
    return r


@_scenario
def pin_is_stopped() -> Recorder:
    r = Recorder(
        "pin-is-stopped",
        "Twenty wrong PINs: the PIN is stopped, which a wait of 0 says; the QR secret still works and gives it back.",
        wrong_pins=20,
    )
    _begin(r, PIN)
    locked = sent(r.take(r.ask_first("companion", TOKEN)))
    r.hear("companion", locked)
    r.companion("owner", QR)
    r.read("owner", r.hello())
    session = session_of(r.take(r.ask_first("owner", Unlock())))
    r.unlock()
    r.hear("owner", r.say(session, Done(0)))
    r.disconnect()
    _begin(r, PIN, "retry", peer="2")
    session = session_of(r.take(r.ask_first("retry", TOKEN), "2"))
    r.hear("retry", r.say(session, Accepted(0, REF)))
    return r


@_scenario
def the_twentieth_wrong_pin() -> Recorder:
    r = Recorder(
        "the-twentieth-wrong-pin",
        "After nineteen wrong PINs and 300 s the next wrong one stops the PIN.",
        wrong_pins=19,
    )
    _begin(r, OTHER_PIN)
    message = r.ask_first("companion", TOKEN)
    r.take(message, note="300 s are left to wait.")
    r.disconnect()
    r.wait(300)
    _begin(r, OTHER_PIN, "guesser", peer="2")
    r.hear("guesser", sent(r.take(r.ask_first("guesser", TOKEN), "2")))
    r.companion("right", PIN)
    r.read("right", r.hello("2"))
    r.hear("right", sent(r.take(r.ask_first("right", TOKEN), "2")))
    return r


@_scenario
def no_guess_record() -> Recorder:
    r = Recorder("no-guess-record", "The record of wrong PINs is missing or corrupt: no PIN is tried.", wrong_pins=None)
    _begin(r, PIN)
    r.hear("companion", sent(r.take(r.ask_first("companion", TOKEN))))
    return r


@_scenario
def count_cannot_be_stored() -> Recorder:
    r = Recorder(
        "count-cannot-be-stored",
        "The attempt cannot be counted durably: it is not looked at, and no PIN is tried from then on.",
        failing_saves=(0,),
    )
    _begin(r, PIN)
    r.hear("companion", sent(r.take(r.ask_first("companion", TOKEN))))
    r.companion("again", PIN)
    r.read("again", r.hello())
    r.hear("again", sent(r.take(r.ask_first("again", TOKEN))))
    return r


@_scenario
def method_not_offered() -> Recorder:
    r = Recorder("method-not-offered", "A device without a PIN is tried with one.", label=Label(QR))
    _begin(r, PIN)
    hello = Offer.decode(r.hello())
    r.take(FirstHead(Method.PIN, hello.sid, bytes([9] * 32)).encode() + bytes(32), note="What a rude companion sends.")
    r.take(b"\x01\x01\x03" + hello.sid + bytes(48), note="A method that there is not.")
    return r


# Offers -------------------------------------------------------------------------------------------------------------


@_scenario
def replayed_first_message() -> Recorder:
    r = Recorder(
        "replayed-first-message", "A first message comes twice: its offer is used up, and the session goes on."
    )
    _begin(r)
    message = r.ask_first("companion", TOKEN)
    session = session_of(r.take(message))
    r.hear("companion", r.say(session, Accepted(0, REF)))
    r.hear("companion", sent(r.take(message)), "After a sealed status a clear one is ignored.")
    r.hear("companion", r.say(session, Redeeming(0, REF)))
    return r


@_scenario
def stale_offer() -> Recorder:
    r = Recorder("stale-offer", "An offer dies with its connection; a message under it is refused, nothing is counted.")
    _begin(r, PIN)
    message = r.ask_first("companion", TOKEN)
    r.disconnect()
    r.connect("2")
    r.hear("companion", sent(r.take(message, "2")))
    return r


@_scenario
def offer_is_immutable() -> Recorder:
    r = Recorder(
        "offer-is-immutable",
        "An offer that was read stays as it is when the state changes; one that nobody read is new.",
    )
    r.connect("1")
    r.connect("2")
    r.hello("1")
    r.become(CoarseState.PROVISIONED)
    r.hello("1")
    r.hello("2")
    return r


@_scenario
def peers_that_look_alike() -> Recorder:
    r = Recorder(
        "peers-that-look-alike",
        "The platform names no peer, so all companions share one connection (peer `*`): each read gives a new offer, "
        "four are live, and everybody is notified of everything.",
    )
    r.connect(SHARED_PEER)
    for name in ("first", "second", "third", "fourth", "fifth"):
        r.companion(name, QR)
        r.read(name, r.hello(SHARED_PEER))
    stale = sent(r.take(r.ask_first("first", TOKEN), SHARED_PEER, "Its offer was pushed out."))
    accepted = r.take(r.ask_first("third", TOKEN), SHARED_PEER)
    status = r.say(session_of(accepted), Accepted(0, REF))
    for message in (stale, status):
        for name in ("first", "third"):
            r.hear(name, message)
    busy = r.take(r.ask_first("fifth", Identify()), SHARED_PEER)
    r.hear("third", r.say(session_of(busy), Done(0)), "To somebody else.")
    r.hear("third", r.say(session_of(accepted), Redeeming(0, REF)))
    return r


# Somebody interferes ------------------------------------------------------------------------------------------------


@_scenario
def flipped_hello_bit() -> Recorder:
    r = Recorder("flipped-hello-bit", "One bit of HELLO changes on its way: HELLO is authenticated, so nothing opens.")
    r.connect()
    hello = bytearray(r.hello())
    hello[-1] ^= 0x01
    r.companion("companion", QR)
    r.read("companion", bytes(hello), "The device class ends with another letter.")
    r.hear("companion", sent(r.take(r.ask_first("companion", TOKEN))))
    return r


@_scenario
def flipped_bits() -> Recorder:
    r = Recorder("flipped-bits", "One bit of the first message's head or box changes on its way.")
    for i, octet in enumerate((30, FirstHead.SIZE, -1)):
        name, peer = f"companion {i}", str(i)
        _begin(r, QR, name, peer)
        message = bytearray(r.ask_first(name, TOKEN))
        message[octet] ^= 0x40
        r.hear(name, sent(r.take(bytes(message), peer, f"Octet {octet % len(message)} has changed.")))
    return r


@_scenario
def flipped_status_bit() -> Recorder:
    r = Recorder(
        "flipped-status-bit", "One bit of a sealed status changes on its way: the companion ends the connection."
    )
    session = _secured(r)
    message = bytearray(r.say(session, Redeeming(0, REF)))
    message[-1] ^= 0x80
    r.hear("companion", bytes(message))
    r.hear("companion", r.say(session, Stored(0, REF)), "It is dead, whatever comes.")
    return r


@_scenario
def low_order_share_of_the_companion() -> Recorder:
    r = Recorder(
        "low-order-share-of-the-companion",
        "The companion's share has low order, and the box is sealed under what a careless device would derive.",
    )
    for i, (share, method) in enumerate(zip(LOW_ORDER, (Method.QR, Method.PIN, Method.QR), strict=True)):
        r.connect(str(i))
        hello = r.hello(str(i))
        offer = Offer.decode(hello)
        head = FirstHead(method, offer.sid, share).encode()
        isk = cpace.intermediate_session_key(offer.sid, bytes(32), offer.shares[method], hello, share, head)
        r.take(Sealer(isk, offer.sid, Direction.TO_DEVICE).seal_first(head, encode_request(TOKEN)), str(i))
    return r


@_scenario
def low_order_share_of_the_device() -> Recorder:
    r = Recorder("low-order-share-of-the-device", "The device's share has low order: the companion sends nothing.")
    r.connect()
    offer = Offer.decode(r.hello())
    for i, share in enumerate(LOW_ORDER):
        name = f"companion {i}"
        r.companion(name, QR)
        r.read(name, dataclasses.replace(offer, shares={1: share, 2: share}).encode())
        r.ask_first(name, TOKEN)
    return r


@_scenario
def sealed_out_of_order() -> Recorder:
    r = Recorder("sealed-out-of-order", "The device takes exactly the next counter; anything else ends the session.")
    session = _secured(r)
    r.ask("companion", Identify(), "This one does not arrive.")
    r.hear(
        "companion", sent(r.take(r.ask("companion", Identify()))), "It has heard a sealed status, so it ignores this."
    )
    r.say(session, Redeeming(0, REF), "Nobody is told: the session is gone.")
    return r


@_scenario
def sealed_replayed() -> Recorder:
    r = Recorder("sealed-replayed", "A later message comes twice.")
    _secured(r)
    message = r.ask("companion", Identify())
    r.take(message)
    r.take(message)
    r.take(r.ask("companion", Identify()), note="The session is gone.")
    return r


@_scenario
def clear_status_before_the_end() -> Recorder:
    r = Recorder(
        "clear-status-before-the-end",
        "Anybody can make a clear status. While nothing authentic was heard it ends this run, and nothing else.",
    )
    for i, code in enumerate(ClearCode):
        name, peer = f"companion {i}", str(i)
        _begin(r, QR, name, peer)
        message = r.ask_first(name, TOKEN)
        short_sid = message[3:11] if i % 2 else bytes(8)
        wait_s = 65535 if code in (ClearCode.LOCKED, ClearCode.BUSY) else 0
        r.hear(name, ClearStatus(code, CoarseState.READY, wait_s, short_sid).encode(), "Made by a stranger.")
    return r


@_scenario
def clear_status_after_a_sealed_one() -> Recorder:
    r = Recorder(
        "clear-status-after-a-sealed-one", "After the first sealed status clear ones are ignored, malformed too."
    )
    session = _secured(r)
    for code in ClearCode:
        r.hear("companion", ClearStatus(code, CoarseState.READY, 300, session.short_sid).encode(), "A stranger's.")
    r.hear("companion", b"\x03" + session.short_sid + b"\xff", "A stranger's, and no CBOR.")
    r.hear("companion", r.say(session, Redeeming(0, REF)))
    return r


@_scenario
def messages_to_others() -> Recorder:
    r = Recorder("messages-to-others", "Some platforms notify every subscriber: what names another session is ignored.")
    _begin(r)
    other = bytes(range(8))
    r.hear("companion", ClearStatus(ClearCode.NOT_AUTHENTIC, CoarseState.READY, 0, other).encode(), "Nothing is asked.")
    message = r.ask_first("companion", TOKEN)
    r.hear("companion", ClearStatus(ClearCode.NOT_AUTHENTIC, CoarseState.READY, 0, other).encode())
    r.hear("companion", b"\x02" + other + bytes(24))
    r.hear("companion", b"\x7f" + other + bytes(24), "A type that there is not.")
    r.hear("companion", r.say(session_of(r.take(message)), Accepted(0, REF)))
    return r


# Versions -----------------------------------------------------------------------------------------------------------


@_scenario
def unsupported_version() -> Recorder:
    r = Recorder(
        "unsupported-version",
        "Neither side goes on with a version that it does not speak, and none falls back to another.",
    )
    r.connect()
    offer = Offer.decode(r.hello())
    for versions in ((2,), (0,), (1, 2)):
        name = f"companion {versions}"
        r.companion(name, QR)
        r.read(name, dataclasses.replace(offer, versions=versions).encode())
    r.companion("companion", QR)
    r.read("companion", r.hello())
    message = r.ask_first("companion", TOKEN)
    for changed in (b"\x01\x02" + message[2:], b"\x01\x00" + message[2:], b"\x04" + message[1:], b"\x04\x02"):
        r.take(changed)
    r.take(message, note="The offer was not used up.")
    return r


# Messages that are none ---------------------------------------------------------------------------------------------


@_scenario
def malformed_messages() -> Recorder:
    r = Recorder("malformed-messages", "Whole messages that are none. No offer is used up.")
    _begin(r)
    message = r.ask_first("companion", TOKEN)
    for changed in (
        b"\x00" + message[1:],
        b"\x03" + message[1:],
        b"\xff",
        b"\x01",
        message[:50],
        b"\x01\x01\x00" + message[3:],
        b"\x02" + bytes(11),
    ):
        r.take(changed)
    r.take(b"\x02" + message[3:11] + bytes(24), note="Well formed, and of no session.")
    r.hear("companion", r.say(session_of(r.take(message)), Accepted(0, REF)))
    return r


@_scenario
def request_that_is_none() -> Recorder:
    r = Recorder(
        "request-that-is-none", "An authentic companion of another make asks what this device does not understand."
    )
    r.connect()
    payloads = (
        bytes.fromhex("a1000a"),
        bytes.fromhex("a10001"),
        bytes.fromhex("a0"),
        b"",
        bytes.fromhex("a2000118630101"),
        bytes.fromhex("a1000118"),
        bytes.fromhex("a20002013b01"),
    )
    for payload in payloads:
        _take_sealed(r, payload)
    return r


def _take_sealed(r: Recorder, payload: bytes) -> None:
    """A first message by hand, because our own companion makes none like it."""
    hello = r.hello()
    offer = Offer.decode(hello)
    scalar = bytes([payload[0] if payload else 7] * 32)
    share = KeyShare.make(QR, offer.sid, scalar)
    head = FirstHead(Method.QR, offer.sid, share.public).encode()
    isk = bytes.fromhex(secrets_of(QR, hello, head, scalar)["isk"])
    message = Sealer(isk, offer.sid, Direction.TO_DEVICE).seal_first(head, payload)
    answer = sent(r.take(message, note=f"The box holds {payload.hex() or 'nothing'}."))
    _, plaintext = Opener(isk, offer.sid, Direction.TO_COMPANION, gaps=True).open(answer)
    r.steps[-1] |= {
        "answer": {"isk": isk.hex(), "plaintext": plaintext.hex(), "means": to_json(decode_status(plaintext))}
    }


@_scenario
def truncated_frames() -> Recorder:
    r = Recorder("truncated-frames", "Frames that are missing, empty, too large, out of order or late.", frame_size=20)
    _begin(r)
    message = r.ask_first("companion", Provision("a-longer-token-" * 8))
    pieces = frames.split(message, 20)

    def at(*chosen: bytes, gap_s: float = 0.05) -> list[tuple[float, bytes]]:
        return [(r.now + i * gap_s, piece) for i, piece in enumerate(chosen)]

    r.take_frames(at(pieces[1]), note="No first frame.")
    r.take_frames(at(pieces[0], pieces[2]), note="One is missing.")
    r.take_frames(at(pieces[0], pieces[1], pieces[1]), note="One comes twice.")
    r.take_frames(at(pieces[0], b"\x01"), note="One is empty.")
    r.take_frames(at(b""), note="Not even a header.")
    r.take_frames(at(bytes([0x80]) + bytes(508)), note="509 octets.")
    r.take_frames(at(bytes([0x81]) + pieces[0][1:]), note="A first frame with another number than 0.")
    r.take_frames(at(*pieces[:2], gap_s=10), note="10 s between two frames.")
    r.take_frames(at(*pieces[:8], gap_s=9), note="60 s in all are over.")
    r.take_frames(at(*pieces[:3], *pieces), note="A first frame begins anew.")
    return r


@_scenario
def oversized_message() -> Recorder:
    r = Recorder("oversized-message", "A message grows beyond 4096 octets.", frame_size=508)
    _begin(r)
    pieces = [bytes([(0x80 if i == 0 else 0) | i]) + bytes([1]) * 507 for i in range(9)]
    r.take_frames([(r.now, piece) for piece in pieces])
    r.take(b"\x01" * 4096, note="4096 octets are a message, though not a good one.")
    return r


@_scenario
def too_large_for_the_device() -> Recorder:
    r = Recorder("too-large-for-the-device", "The device says that it takes fewer octets than the request needs.")
    r.connect()
    offer = Offer.decode(r.hello())
    r.companion("companion", QR)
    r.read("companion", dataclasses.replace(offer, largest_message=100).encode())
    r.ask_first("companion", TOKEN)
    return r


# Time ---------------------------------------------------------------------------------------------------------------


@_scenario
def nobody_proves_anything() -> Recorder:
    r = Recorder("nobody-proves-anything", "A connection without an authentic message is dropped after 15 s.")
    _begin(r)
    message = r.ask_first("companion", TOKEN)
    r.wait(14.9)
    r.wait(0.1)
    r.take(message, note="The connection is dead already.")
    return r


@_scenario
def slow_is_no_crime() -> Recorder:
    r = Recorder("slow-is-no-crime", "A message in progress keeps the connection, for 10 s after its last frame.")
    _begin(r)
    pieces = frames.split(r.ask_first("companion", TOKEN), 50)
    r.wait(14)
    r.take_frames([(r.now, pieces[0])])
    r.wait(9)
    r.take_frames([(r.now, piece) for piece in pieces[1:]])
    r.wait(600, "An authenticated connection stays.")
    return r
