import contextlib
import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.protocol import messages
from unit.protocol.pair import (
    LABEL,
    OTHER_PIN,
    OTHER_QR,
    PIN,
    QR,
    TOKEN,
    Device,
    Dice,
    clear,
    companion,
    hear,
    open_session,
    requested,
)

from bletoken.errors import LocalProtocolError, RemoteProtocolError, UnsupportedVersionError
from bletoken.protocol import frames
from bletoken.protocol.channel import NotAuthenticError
from bletoken.protocol.companion import CompanionMachine, MethodNotOfferedError
from bletoken.protocol.device import MOST_CONNECTIONS, SHARED_PEER, DeviceMachine, Drop, Requested, Send, SessionId
from bletoken.protocol.guesses import GuessRecord
from bletoken.protocol.setup_code import Label, Method, SetupCode
from bletoken.protocol.states import State
from bletoken.protocol.wire import (
    Accepted,
    Action,
    AskStatus,
    Claim,
    ClearCode,
    ClearStatus,
    CoarseState,
    Done,
    Failed,
    FailureCode,
    FirstHead,
    Identify,
    Offer,
    Provision,
    Provisioned,
    Redeeming,
    Request,
    SealedHead,
    Status,
    Stored,
    Unlock,
    encode_status,
    token_ref,
)

CODES = pytest.mark.parametrize("code", [QR, PIN], ids=["qr", "pin"])


def first_message(device: Device, code: SetupCode = QR, request: Request = TOKEN, peer: str = "a") -> bytes:
    """What a companion that has read the device's offer sends first."""
    mine = companion(code)
    mine.offer_read(device.hello(peer))
    return mine.first_message(request)


def message(outputs: list[Send | Drop | Requested]) -> bytes:
    (output,) = outputs
    assert isinstance(output, Send)
    return output.message


# A whole hand-off ---------------------------------------------------------------------------------------------------


@CODES
@pytest.mark.parametrize("frame_size", [20, 21, 100, 244, 508])
def test_a_token_is_handed_over_and_the_outcome_comes_back(code: SetupCode, frame_size: int) -> None:
    device = Device(frame_size=frame_size)
    mine, asked = open_session(device, code)
    assert asked.request == TOKEN
    assert asked.counter == 0
    assert mine.state is State.WAITING
    reference = token_ref(TOKEN.token)
    for status in (
        Accepted(0, reference),
        Redeeming(0, reference),
        Stored(0, reference),
        Provisioned(0, reference, 2**63),
    ):
        assert hear(mine, device.machine.send(asked.session, status), frame_size) == [status]
        assert mine.state is State.SECURED


@CODES
def test_a_session_takes_further_requests(code: SetupCode) -> None:
    device = Device()
    mine, asked = open_session(device, code)
    assert hear(mine, device.machine.send(asked.session, Accepted(0))) == [Accepted(0)]
    for expected in (1, 2, 3):
        counter, octets = mine.request(AskStatus())
        further = requested(device.take(octets))
        assert (further.counter, further.request, further.session) == (expected, AskStatus(), asked.session)
        assert counter == expected
        assert hear(mine, device.machine.send(asked.session, Done(expected))) == [Done(expected)]


@given(messages.requests, st.lists(messages.statuses, max_size=4), st.sampled_from([QR, PIN]), st.integers(20, 508))
@settings(max_examples=60)
def test_any_request_and_any_statuses_arrive(
    request: Request, statuses: list[Status], code: SetupCode, frame_size: int
) -> None:
    device = Device(frame_size=frame_size)
    device.connect()
    mine = companion(code)
    mine.offer_read(device.hello())
    (output,) = device.take(mine.first_message(request))
    session = SessionId("a", mine_sid(device, output))
    if isinstance(output, Requested):
        assert output.request == request
    else:
        assert hear(mine, [output], frame_size) == [Failed(0, code=FailureCode.NOT_ALLOWED)]
    for status in statuses:
        assert hear(mine, device.machine.send(session, status), frame_size) == [status]


def mine_sid(device: Device, output: object) -> bytes:
    """The session's short sid, from whichever way the device answered."""
    if isinstance(output, Requested):
        return output.session.short_sid
    assert isinstance(output, Send)
    return SealedHead.decode(output.message).short_sid


def test_the_offer_tells_what_the_device_is() -> None:
    device = Device(actions=(Action.STATUS, Action.PROVISION))
    device.connect()
    offer = companion().offer_read(device.hello())
    assert offer.versions == (1,)
    assert offer.actions == (Action.PROVISION, Action.STATUS)
    assert offer.state is CoarseState.READY
    assert offer.device_class == "thermostat"
    assert offer.largest_message == 4096
    assert set(offer.shares) == {Method.QR, Method.PIN}


# The code -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [OTHER_QR, OTHER_PIN], ids=["qr", "pin"])
def test_a_wrong_code_gets_not_authentic_and_ends_the_companion(code: SetupCode) -> None:
    device = Device()
    device.connect()
    mine = companion(code)
    mine.offer_read(device.hello())
    outputs = device.take(mine.first_message(TOKEN))
    assert clear(outputs).code is ClearCode.NOT_AUTHENTIC
    (heard,) = hear(mine, outputs)
    assert isinstance(heard, ClearStatus)
    assert mine.state is State.DEAD


@CODES
def test_a_code_does_not_work_under_the_other_method(code: SetupCode) -> None:
    device = Device()
    device.connect()
    octets = bytearray(first_message(device, code))
    octets[2] = Method.PIN if code.method is Method.QR else Method.QR
    assert clear(device.take(bytes(octets))).code is ClearCode.NOT_AUTHENTIC


def test_a_method_that_the_label_lacks_is_neither_offered_nor_taken() -> None:
    device = Device(label=Label(QR))
    device.connect()
    hello = device.hello()
    mine = companion(PIN)
    with pytest.raises(MethodNotOfferedError):
        mine.offer_read(hello)
    assert mine.state is State.DEAD
    octets = bytearray(first_message(device))
    octets[2] = Method.PIN
    assert clear(device.take(bytes(octets))).code is ClearCode.MALFORMED
    assert device.hello() == hello
    assert device.disk.saved == []


def test_a_companion_with_the_qr_secret_never_falls_back_to_the_pin() -> None:
    device = Device()
    device.connect()
    full = Offer.decode(device.hello())
    only_pin = replace(full, shares={Method.PIN: full.shares[Method.PIN]})
    with pytest.raises(MethodNotOfferedError):
        companion(QR).offer_read(only_pin.encode())


# Offers -------------------------------------------------------------------------------------------------------------


def test_an_offer_stays_the_same_until_it_is_used() -> None:
    device = Device()
    device.connect()
    hello = device.hello()
    for state in CoarseState:
        device.machine.set_state(state)
        assert device.hello() == hello
    octets = first_message(device)
    device.take(octets)
    assert device.hello() != hello


def test_an_offer_nobody_has_read_tells_a_new_state() -> None:
    device = Device()
    device.connect()
    device.machine.set_state(CoarseState.WORKING)
    assert Offer.decode(device.hello()).state is CoarseState.WORKING


def test_a_used_up_offer_tells_the_new_state_next_time() -> None:
    device = Device()
    device.connect()
    device.take(first_message(device, OTHER_QR))
    device.machine.set_state(CoarseState.OUTCOME_UNKNOWN)
    assert Offer.decode(device.hello()).state is CoarseState.OUTCOME_UNKNOWN


@CODES
@pytest.mark.parametrize("answered", [True, False])
def test_a_first_message_that_comes_twice_finds_its_offer_used_up(code: SetupCode, answered: bool) -> None:
    device = Device()
    mine = companion(code)
    device.connect()
    mine.offer_read(device.hello())
    octets = mine.first_message(TOKEN)
    session = requested(device.take(octets)).session
    if answered:
        device.machine.send(session, Accepted(0))
    saved = list(device.disk.saved)
    for _ in range(3):
        assert clear(device.take(octets)).code is ClearCode.STALE_OFFER
    assert device.disk.saved == saved
    assert device.machine.send(session, Accepted(0)) != []


@CODES
def test_an_unknown_sid_is_stale_and_nothing_is_consumed_or_counted(code: SetupCode) -> None:
    device = Device()
    device.connect()
    hello = device.hello()
    octets = bytearray(first_message(device, code))
    octets[10] ^= 1
    answer = clear(device.take(bytes(octets)))
    assert answer.code is ClearCode.STALE_OFFER
    assert answer.short_sid == bytes(octets[3:11])
    assert device.hello() == hello
    assert device.disk.saved == []


def test_an_offer_is_good_on_its_own_connection_only() -> None:
    device = Device()
    device.connect("a")
    device.connect("b")
    octets = first_message(device, peer="a")
    assert clear(device.take(octets, "b")).code is ClearCode.STALE_OFFER
    assert requested(device.take(octets, "a")).session.peer == "a"


def test_an_offer_ends_with_its_connection() -> None:
    device = Device()
    device.connect()
    octets = first_message(device)
    device.machine.disconnected("a")
    device.connect()
    assert clear(device.take(octets)).code is ClearCode.STALE_OFFER


def test_a_wrong_attempt_costs_its_offer_and_the_next_one_is_good() -> None:
    device = Device()
    device.connect()
    used = device.hello()
    device.take(first_message(device, OTHER_QR))
    assert device.hello() != used
    assert requested(device.take(first_message(device))).request == TOKEN


def test_no_scalar_and_no_sid_is_ever_used_twice() -> None:
    device = Device()
    publics: list[bytes] = []
    for n in range(60):
        device.connect()
        for code in (OTHER_QR, QR, PIN):
            offer = Offer.decode(device.hello())
            publics += [offer.sid, *offer.shares.values()]
            device.take(first_message(device, code, AskStatus()))
        if n % 2:
            device.machine.disconnected("a")
    assert len(publics) == len(set(publics)) == 60 * 3 * 3
    assert len(device.dice.given) == len(set(device.dice.given))


def test_the_two_methods_of_an_offer_have_scalars_of_their_own() -> None:
    device = Device()
    device.connect()
    sid, qr, pin = device.dice.given
    assert (len(sid), len(qr), len(pin)) == (16, 32, 32)
    assert qr != pin


def test_a_companion_draws_a_scalar_for_each_first_message() -> None:
    device = Device()
    device.connect()
    dice = Dice("companion")
    heads = []
    for _ in range(2):
        mine = CompanionMachine(QR, dice)
        mine.offer_read(device.hello())
        heads.append(FirstHead.decode(mine.first_message(TOKEN)))
    assert heads[0].sid == heads[1].sid
    assert heads[0].share != heads[1].share


def test_a_first_message_is_made_once() -> None:
    device = Device()
    mine, _ = open_session(device)
    with pytest.raises(LocalProtocolError):
        mine.first_message(TOKEN)


# Sealed messages to the device --------------------------------------------------------------------------------------


def secured(device: Device, code: SetupCode = QR, peer: str = "a") -> tuple[CompanionMachine, SessionId]:
    mine, asked = open_session(device, code, AskStatus(), peer, f"companion {peer}")
    assert hear(mine, device.machine.send(asked.session, Done(0))) == [Done(0)]
    return mine, asked.session


def test_a_replayed_request_ends_the_session() -> None:
    device = Device()
    mine, session = secured(device)
    _, octets = mine.request(Identify())
    assert requested(device.take(octets)).counter == 1
    assert clear(device.take(octets)).code is ClearCode.NOT_AUTHENTIC
    assert device.machine.send(session, Done(1)) == []


def test_reordered_requests_end_the_session() -> None:
    device = Device()
    mine, session = secured(device)
    (_, one), (_, two) = mine.request(Identify()), mine.request(AskStatus())
    assert clear(device.take(two)).code is ClearCode.NOT_AUTHENTIC
    assert clear(device.take(one)).code is ClearCode.NOT_AUTHENTIC
    assert device.machine.send(session, Done(1)) == []


def test_the_device_takes_no_gap() -> None:
    device = Device()
    mine, _ = secured(device)
    mine.request(Identify())
    _, octets = mine.request(Identify())
    assert clear(device.take(octets)).code is ClearCode.NOT_AUTHENTIC


def test_a_request_of_an_ended_session_is_not_authentic() -> None:
    device = Device()
    mine, _ = secured(device)
    _, octets = mine.request(Identify())
    device.machine.disconnected("a")
    device.connect()
    assert clear(device.take(octets)).code is ClearCode.NOT_AUTHENTIC


def test_after_a_session_ended_a_new_first_message_opens_another() -> None:
    device = Device()
    mine, _ = secured(device)
    mine.request(Identify())
    _, octets = mine.request(Identify())
    device.take(octets)
    again = companion(seed="again")
    again.offer_read(device.hello())
    session = requested(device.take(again.first_message(TOKEN))).session
    assert hear(again, device.machine.send(session, Accepted(0))) == [Accepted(0)]


def test_a_new_first_message_replaces_the_session_of_a_named_peer() -> None:
    device = Device()
    old, old_session = secured(device)
    new = companion(seed="new")
    new.offer_read(device.hello())
    session = requested(device.take(new.first_message(AskStatus()))).session
    assert session != old_session
    assert device.machine.send(old_session, Done(0)) == []
    outputs = device.machine.send(session, Done(0))
    assert hear(old, outputs) == []
    assert hear(new, outputs) == [Done(0)]


def test_a_wrong_first_message_leaves_the_session_as_it_is() -> None:
    device = Device()
    mine, session = secured(device)
    assert clear(device.take(first_message(device, OTHER_QR))).code is ClearCode.NOT_AUTHENTIC
    assert hear(mine, device.machine.send(session, Done(5))) == [Done(5)]
    assert requested(device.take(mine.request(Identify())[1])).counter == 1


def test_a_message_from_the_device_does_not_pass_for_one_to_it() -> None:
    device = Device()
    _, session = secured(device)
    reflected = message(device.machine.send(session, Done(0)))
    assert clear(device.take(reflected)).code is ClearCode.NOT_AUTHENTIC


# Sealed messages to the companion -----------------------------------------------------------------------------------


def test_the_companion_takes_a_gap() -> None:
    device = Device()
    mine, asked = open_session(device)
    lost = device.machine.send(asked.session, Accepted(0))
    assert hear(mine, device.machine.send(asked.session, Redeeming(0))) == [Redeeming(0)]
    device.machine.send(asked.session, Redeeming(0))
    assert hear(mine, device.machine.send(asked.session, Stored(0))) == [Stored(0)]
    with pytest.raises(NotAuthenticError):
        hear(mine, lost)
    assert mine.state is State.DEAD


def test_a_replayed_status_is_never_heard_twice() -> None:
    device = Device()
    mine, asked = open_session(device)
    outputs = device.machine.send(asked.session, Provisioned(0, None, 7))
    assert hear(mine, outputs) == [Provisioned(0, None, 7)]
    with pytest.raises(NotAuthenticError):
        hear(mine, outputs)
    assert mine.state is State.DEAD
    assert hear(mine, outputs) == []


def test_statuses_to_others_are_ignored() -> None:
    device = Device()
    mine, asked = open_session(device, peer="a")
    other, other_asked = open_session(device, peer="b", seed="other")
    for _ in range(3):
        outputs = device.machine.send(other_asked.session, Redeeming(0))
        assert hear(mine, outputs) == []
        assert hear(other, outputs) == [Redeeming(0)]
    stranger = clear(device.machine.message_received("b", bytes([1, 1, 1]) + bytes(48), device.now))
    assert hear(mine, [Send("a", replace(stranger, short_sid=b"stranger").encode())]) == []
    assert hear(mine, device.machine.send(asked.session, Accepted(0))) == [Accepted(0)]


def test_statuses_to_others_are_ignored_before_anything_was_sent() -> None:
    device = Device(frame_size=20)
    other, asked = open_session(device, peer="b")
    pieces = frames.split(message(device.machine.send(asked.session, Accepted(0))), 20)
    mine = companion(seed="late")
    assert mine.frame_received(pieces[1], 0) is None
    device.connect("a")
    mine.offer_read(device.hello("a"))
    for piece in (pieces[1], b"", b"\x00", b"\xff", bytes(600)):
        assert mine.frame_received(piece, 0) is None
    assert mine.state is State.OFFERED
    session = requested(device.take(mine.first_message(TOKEN), "a")).session
    assert hear(mine, device.machine.send(session, Accepted(0))) == [Accepted(0)]
    assert other.state is State.WAITING


def test_a_companions_own_message_does_not_pass_for_a_status() -> None:
    device = Device()
    mine, _ = open_session(device)
    sent = mine_request_under(device)
    assert hear(mine, [Send("a", sent)]) == []


def mine_request_under(device: Device) -> bytes:
    """A first message, reflected: its type is none that a companion takes."""
    device.connect("mirror")
    return first_message(device, peer="mirror")


def test_a_request_reflected_to_its_sender_ends_it() -> None:
    device = Device()
    mine, _ = secured(device)
    _, octets = mine.request(Identify())
    with pytest.raises(NotAuthenticError):
        hear(mine, [Send("a", octets)])
    assert mine.state is State.DEAD


# Clear statuses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ClearCode)
def test_a_forged_clear_status_ends_a_run_and_is_no_more_than_a_hint(code: ClearCode) -> None:
    device = Device()
    mine, asked = open_session(device)
    forged = ClearStatus(code, CoarseState.PROVISIONED, 65535)
    assert hear(mine, [Send("a", forged.encode())]) == [replace(forged, wait_s=300)]
    assert mine.state is State.DEAD
    assert hear(mine, device.machine.send(asked.session, Provisioned(0, None, 1))) == []


@pytest.mark.parametrize(
    "content", [b"", b"\xa0", b"\xff", b"\xa2\x01\x01\x02\x00", b"\xa2\x01\x63\x02\x00", bytes(100)]
)
def test_after_the_first_sealed_status_no_clear_one_counts_whatever_it_holds(content: bytes) -> None:
    device = Device()
    mine, session = secured(device)
    for short_sid in (session.short_sid, bytes(8)):
        assert hear(mine, [Send("a", b"\x03" + short_sid + content)]) == []
        assert mine.state is State.SECURED
    assert hear(mine, device.machine.send(session, Provisioned(0, None, 1))) == [Provisioned(0, None, 1)]


def test_before_that_a_malformed_clear_status_to_us_ends_the_companion() -> None:
    device = Device()
    mine, _ = open_session(device)
    with pytest.raises(RemoteProtocolError):
        hear(mine, [Send("a", b"\x03" + bytes(8) + b"\xff")])
    assert mine.state is State.DEAD


def test_a_dead_companion_hears_nothing_and_raises_nothing() -> None:
    device = Device()
    mine, asked = open_session(device)
    status = device.machine.send(asked.session, Accepted(0))
    mine.ended()
    assert mine.state is State.DEAD
    forged = Send("a", ClearStatus(ClearCode.BUSY, CoarseState.READY).encode())
    assert hear(mine, [*status, forged, forged]) == []
    for garbage in (b"", b"\x00x", b"\xc0" + b"\x02" + asked.session.short_sid + bytes(30)):
        assert mine.frame_received(garbage, 0) is None


def test_a_stranger_on_another_connection_makes_the_device_say_nothing_that_ends_our_companion() -> None:
    # BlueZ notifies every subscriber, so a clear status without a recipient would be taken by all who wait.
    device = Device()
    mine, asked = open_session(device, peer="a")
    device.connect("stranger")
    said: list[Send | Drop | Requested] = []
    for octets in (b"\x00x", b"\x04x", b"\x01\x02", b"\x01\x01\x01", b"\x02" + bytes(30), b"\x01\x01\x01" + bytes(60)):
        said += device.machine.message_received("stranger", octets, device.now)
    for octets in (b"", b"\x00x", b"\xc5x"):
        with pytest.raises(RemoteProtocolError) as caught:
            device.machine.frame_received("stranger", octets, device.now)
        said += device.machine.frame_refused("stranger", caught.value)
    said += device.take(first_message(device, OTHER_QR, peer="stranger"), "stranger")
    assert len(said) == 10
    assert hear(mine, said) == []
    assert hear(mine, device.machine.send(asked.session, Accepted(0))) == [Accepted(0)]


def test_a_refused_frame_is_answered_to_the_companion_that_wrote_it() -> None:
    device = Device()
    device.connect()
    mine = companion()
    offer = mine.offer_read(device.hello())
    mine.first_message(TOKEN)
    with pytest.raises(RemoteProtocolError) as caught:
        device.machine.frame_received("a", b"\x05x", device.now)
    outputs = device.machine.frame_refused("a", caught.value)
    assert clear(outputs) == ClearStatus(ClearCode.MALFORMED, CoarseState.READY, 0, offer.sid[:8])
    assert hear(mine, outputs) == [clear(outputs)]


def test_a_message_that_is_too_large_is_answered_so() -> None:
    device = Device()
    device.connect()
    with pytest.raises(RemoteProtocolError) as caught:  # noqa: PT012 the frame that is too much is the last of many
        for n in range(300):
            device.machine.frame_received("a", bytes([(0x80 if n == 0 else 0) | n & 63]) + bytes(19), device.now)
    assert clear(device.machine.frame_refused("a", caught.value)).code is ClearCode.TOO_LARGE


# The PIN ------------------------------------------------------------------------------------------------------------


def test_a_wrong_pin_is_counted_before_it_is_compared() -> None:
    device = Device()
    device.connect()
    octets = first_message(device, OTHER_PIN)
    hello = device.hello()
    seen: list[bool] = []
    # When the count is written the offer is used up already, and no session is there yet.
    device.disk.on_save = lambda: seen.append(device.machine.hello("a") != hello)
    assert clear(device.take(octets)).code is ClearCode.NOT_AUTHENTIC
    assert device.disk.saved == [1]
    assert seen == [True]


def test_a_right_pin_is_counted_and_taken_back() -> None:
    device = Device(failures=2)
    open_session(device, PIN)
    assert device.disk.saved == [3, 2]


def test_a_right_pin_begins_no_delay_so_its_owner_comes_back_at_once_after_a_lost_link() -> None:
    device = Device(failures=9)
    device.now += 300
    for _ in range(2):
        device.connect()
        assert requested(device.take(first_message(device, PIN))).request == TOKEN
        device.machine.disconnected("a")
        device.now += 1
    assert device.disk.saved == [10, 9, 10, 9]


def test_the_qr_code_never_touches_the_count() -> None:
    device = Device()
    open_session(device, QR)
    device.take(first_message(device, OTHER_QR))
    assert device.disk.saved == []


def test_a_power_cut_after_the_count_leaves_it_counted() -> None:
    class PowerCutError(BaseException):
        pass

    def cut() -> None:
        if len(device.disk.saved) == 1:
            raise PowerCutError

    device = Device()
    device.connect()
    octets = first_message(device, PIN)
    device.disk.on_save = cut
    with pytest.raises(PowerCutError):
        device.take(octets)
    assert device.disk.saved == [1]


@CODES
def test_a_count_that_cannot_be_written_stops_the_pin_and_not_the_qr_code(code: SetupCode) -> None:
    device = Device()
    device.disk.fails_at = 0
    device.connect()
    outputs = device.take(first_message(device, PIN))
    assert clear(outputs).code is ClearCode.STORAGE_FAILED
    assert device.disk.saved == []
    device.disk.fails_at = None
    outputs = device.take(first_message(device, code))
    if code is PIN:
        assert clear(outputs).code is ClearCode.LOCKED
        assert clear(outputs).wait_s == 0
        assert device.disk.saved == []
    else:
        assert requested(outputs).request == TOKEN


def test_a_success_that_cannot_be_written_opens_no_session() -> None:
    device = Device()
    device.disk.fails_at = 1
    device.connect()
    octets = first_message(device, PIN)
    assert clear(device.take(octets)).code is ClearCode.STORAGE_FAILED
    assert device.disk.saved == [1]
    assert device.machine.send(SessionId("a", octets[3:11]), Done(0)) == []


def test_without_a_record_no_pin_is_tried_and_the_qr_code_is() -> None:
    device = Device(failures=None)
    device.connect()
    hello = device.hello()
    assert clear(device.take(first_message(device, PIN))) == ClearStatus(
        ClearCode.LOCKED, CoarseState.READY, 0, Offer.decode(hello).sid[:8]
    )
    assert device.hello() == hello
    assert requested(device.take(first_message(device, QR))).request == TOKEN
    assert device.disk.saved == []


def test_a_locked_pin_consumes_no_offer_and_tells_the_wait() -> None:
    device = Device(failures=5)
    device.connect()
    hello = device.hello()
    octets = first_message(device, PIN)
    assert clear(device.take(octets)).wait_s == 20
    device.now += 5.5
    assert clear(device.take(octets)).wait_s == 15
    device.now += 14.4
    assert clear(device.take(octets)).wait_s == 1
    assert device.hello() == hello
    assert device.disk.saved == []
    device.now += 0.1
    assert requested(device.take(octets)).request == TOKEN


def test_twenty_wrong_pins_stop_the_pin_for_good_and_leave_the_qr_code() -> None:
    device = Device()
    for n in range(20):
        device.connect(f"stranger {n}")
        device.now += 300
        outputs = device.take(first_message(device, OTHER_PIN, peer=f"stranger {n}"), f"stranger {n}")
        assert clear(outputs).code is ClearCode.NOT_AUTHENTIC
        device.machine.disconnected(f"stranger {n}")
    assert device.disk.saved == list(range(1, 21))
    device.connect()
    device.now += 10**9
    stopped = clear(device.take(first_message(device, PIN)))
    assert (stopped.code, stopped.wait_s) == (ClearCode.LOCKED, 0)
    assert requested(device.take(first_message(device, QR))).request == TOKEN
    assert len(device.disk.saved) == 20


def test_the_delay_is_one_for_all_connections() -> None:
    device = Device(failures=2)
    octets = {}
    for peer in "abc":
        device.connect(peer)
        octets[peer] = first_message(device, OTHER_PIN, peer=peer)
    codes = [clear(device.take(octets[peer], peer)).code for peer in "abc"]
    assert codes == [ClearCode.NOT_AUTHENTIC, ClearCode.LOCKED, ClearCode.LOCKED]
    assert device.disk.saved == [3]


def test_the_device_tells_how_long_the_pin_is_locked() -> None:
    assert Device(failures=0).machine.pin_wait_s(1000) == 0
    assert Device(failures=5).machine.pin_wait_s(1005) == 15
    assert Device(failures=20).machine.pin_wait_s(10**9) == math.inf
    assert Device(failures=None).machine.pin_wait_s(10**9) == math.inf


def test_unlocking_takes_pins_again() -> None:
    device = Device(failures=20)
    device.connect()
    octets = first_message(device, PIN)
    assert clear(device.take(octets)).code is ClearCode.LOCKED
    device.machine.unlock(GuessRecord(0, device.now))
    assert requested(device.take(octets)).request == TOKEN


@pytest.mark.parametrize("low_order", ["00" * 32, "01" + "00" * 31, "ed" + "ff" * 30 + "7f"])
@CODES
def test_a_share_of_low_order_is_answered_and_counted_like_a_wrong_code(code: SetupCode, low_order: str) -> None:
    device = Device()
    device.connect()
    octets = bytearray(first_message(device, code))
    octets[19:51] = bytes.fromhex(low_order)
    assert clear(device.take(bytes(octets))).code is ClearCode.NOT_AUTHENTIC
    assert device.disk.saved == ([1] if code is PIN else [])


@pytest.mark.parametrize("size", [0, 1, 15, 16])
def test_a_first_message_with_a_short_box_is_counted_like_a_wrong_code(size: int) -> None:
    device = Device()
    device.connect()
    assert clear(device.take(first_message(device, PIN)[: 51 + size])).code is ClearCode.NOT_AUTHENTIC
    assert device.disk.saved == [1]


@pytest.mark.parametrize("share", ["00" * 32, "01" + "00" * 31])
@CODES
def test_an_offer_with_a_share_of_low_order_ends_the_companion_before_it_sends(code: SetupCode, share: str) -> None:
    device = Device()
    device.connect()
    offer = Offer.decode(device.hello())
    mine = companion(code)
    mine.offer_read(replace(offer, shares={code.method: bytes.fromhex(share)}).encode())
    with pytest.raises(RemoteProtocolError):
        mine.first_message(TOKEN)
    assert mine.state is State.DEAD


# Requests -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "code", "request_", "granted"),
    [
        (CoarseState.READY, QR, TOKEN, True),
        (CoarseState.READY, PIN, Unlock(), False),
        (CoarseState.READY, QR, Unlock(), True),
        (CoarseState.READY, QR, Claim(60), False),
        (CoarseState.PRE_PROVISIONED, QR, Claim(60), True),
        (CoarseState.PRE_PROVISIONED, PIN, TOKEN, False),
        (CoarseState.PROVISIONED, QR, Unlock(), False),
        (CoarseState.PROVISIONED, PIN, AskStatus(), True),
    ],
)
def test_a_request_is_granted_or_refused_sealed(
    state: CoarseState, code: SetupCode, request_: Request, granted: bool
) -> None:
    device = Device(state=state)
    device.connect()
    mine = companion(code)
    mine.offer_read(device.hello())
    outputs = device.take(mine.first_message(request_))
    if granted:
        assert requested(outputs).request == request_
    else:
        assert hear(mine, outputs) == [Failed(0, code=FailureCode.NOT_ALLOWED)]


def test_an_action_the_device_does_not_offer_is_not_handed_up() -> None:
    device = Device(actions=(Action.PROVISION, Action.STATUS))
    device.connect()
    mine = companion()
    mine.offer_read(device.hello())
    assert hear(mine, device.take(mine.first_message(Identify()))) == [Failed(0, code=FailureCode.NOT_ALLOWED)]


def test_the_state_that_counts_is_the_one_now_and_not_the_offers() -> None:
    device = Device()
    device.connect()
    mine = companion()
    mine.offer_read(device.hello())
    octets = mine.first_message(Unlock())
    device.machine.set_state(CoarseState.PROVISIONED)
    assert hear(mine, device.take(octets)) == [Failed(0, code=FailureCode.NOT_ALLOWED)]


def test_an_authentic_message_that_is_no_request_is_answered_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device()
    device.connect()
    mine = companion()
    mine.offer_read(device.hello())
    monkeypatch.setattr("bletoken.protocol.companion.encode_request", lambda _: b"\xa1\x00\x18\x63")
    assert hear(mine, device.take(mine.first_message(TOKEN))) == [Failed(0, code=FailureCode.REQUEST_INVALID)]
    _, octets = mine.request(TOKEN)
    assert hear(mine, device.take(octets)) == [Failed(1, code=FailureCode.REQUEST_INVALID)]


def test_an_authentic_message_that_is_no_status_ends_the_companion(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device()
    mine, asked = open_session(device)
    monkeypatch.setattr("bletoken.protocol.device.encode_status", lambda _: b"\xa1\x00\x18\x63")
    with pytest.raises(RemoteProtocolError):
        hear(mine, device.machine.send(asked.session, Accepted(0)))
    assert mine.state is State.DEAD


def test_a_status_that_cannot_be_sent_leaves_the_session_usable() -> None:
    device = Device()
    mine, asked = open_session(device)
    for reason in ("x" * 65, "\ud800"):
        with pytest.raises(LocalProtocolError):
            device.machine.send(asked.session, Failed(0, reason=reason))
    assert hear(mine, device.machine.send(asked.session, Accepted(0))) == [Accepted(0)]


def test_a_first_message_larger_than_the_device_takes_is_not_sent() -> None:
    device = Device()
    device.connect()
    offer = Offer.decode(device.hello())
    mine = companion()
    mine.offer_read(replace(offer, largest_message=100).encode())
    with pytest.raises(RemoteProtocolError):
        mine.first_message(Provision("x" * 100))
    assert mine.state is State.DEAD


def test_a_request_larger_than_the_device_takes_uses_up_no_counter() -> None:
    device = Device()
    mine, _ = secured(device)
    offer = mine._offer
    assert offer is not None
    mine._offer = replace(offer, largest_message=100)
    with pytest.raises(RemoteProtocolError):
        mine.request(Provision("x" * 100))
    assert mine.state is State.SECURED
    counter, octets = mine.request(AskStatus())
    assert counter == 1
    assert requested(device.take(octets)).counter == 1


# Versions -----------------------------------------------------------------------------------------------------------


@CODES
@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_unsupported_and_nothing_is_consumed_or_counted(code: SetupCode, version: int) -> None:
    device = Device()
    device.connect()
    hello = device.hello()
    octets = bytearray(first_message(device, code))
    octets[1] = version
    assert clear(device.take(bytes(octets))).code is ClearCode.UNSUPPORTED_VERSION
    assert device.hello() == hello
    assert device.disk.saved == []
    octets[1] = 1
    assert requested(device.take(bytes(octets))).request == TOKEN


def test_the_message_type_reserved_for_version_2_is_unsupported() -> None:
    device = Device()
    device.connect()
    for octets in (b"\x04", b"\x04" + bytes(4095)):
        outputs = device.machine.message_received("a", octets, device.now)
        assert clear(outputs).code is ClearCode.UNSUPPORTED_VERSION


def test_a_companion_does_not_go_on_with_a_device_of_other_versions() -> None:
    device = Device()
    device.connect()
    offer = Offer.decode(device.hello())
    mine = companion()
    with pytest.raises(UnsupportedVersionError):
        mine.offer_read(replace(offer, versions=(2, 3)).encode())
    assert mine.state is State.DEAD
    with pytest.raises(LocalProtocolError):
        mine.offer_read(offer.encode())


def test_a_version_taken_out_of_the_offer_on_its_way_is_noticed() -> None:
    # The offer is bound into the key, so nobody can hide a version that both sides speak.
    device = Device()
    device.connect()
    offer = Offer.decode(device.hello())
    mine = companion()
    mine.offer_read(replace(offer, versions=(1, 2)).encode())
    assert clear(device.take(mine.first_message(TOKEN))).code is ClearCode.NOT_AUTHENTIC


# Several companions -------------------------------------------------------------------------------------------------


def test_two_sessions_at_once_are_not_mixed_up() -> None:
    device = Device()
    tokens = {peer: Provision(f"token-of-{peer}") for peer in "ab"}
    device.connect("a")
    device.connect("b")
    mine = {peer: companion(QR if peer == "a" else PIN, f"seed {peer}") for peer in "ab"}
    for peer in "ab":
        mine[peer].offer_read(device.hello(peer))
    octets = {peer: mine[peer].first_message(tokens[peer]) for peer in "ab"}
    pieces = {peer: frames.split(octets[peer], 20) for peer in "ab"}
    whole: dict[str, bytes] = {}
    for pair in itertools.zip_longest(pieces["a"], pieces["b"]):
        for peer, piece in zip("ab", pair, strict=True):
            if piece is not None and (got := device.machine.frame_received(peer, piece, device.now)) is not None:
                whole[peer] = got
    assert whole == octets
    asked = {peer: requested(device.machine.message_received(peer, whole[peer], device.now)) for peer in "ba"}
    for peer, other in ("ab", "ba"):
        assert asked[peer].request == tokens[peer]
        assert asked[peer].session.peer == peer
        status = Accepted(0, token_ref(tokens[peer].token))
        outputs = device.machine.send(asked[peer].session, status)
        assert [o.peer for o in outputs if isinstance(o, Send)] == [peer]
        assert hear(mine[other], outputs) == []
        assert hear(mine[peer], outputs) == [status]


def test_a_session_of_one_connection_is_of_no_use_on_another() -> None:
    device = Device()
    mine, session = secured(device, peer="a")
    device.connect("b")
    _, octets = mine.request(Identify())
    assert clear(device.take(octets, "b")).code is ClearCode.NOT_AUTHENTIC
    assert device.machine.send(SessionId("b", session.short_sid), Done(0)) == []
    assert requested(device.take(octets, "a")).counter == 1


def test_a_named_peer_keeps_its_offer_however_often_it_reads() -> None:
    device = Device()
    device.connect()
    assert len({device.hello() for _ in range(10)}) == 1


def test_readers_that_look_like_one_get_four_live_offers() -> None:
    device = Device()
    device.connect(SHARED_PEER)
    readers = [companion(seed=f"reader {n}") for n in range(6)]
    for reader in readers:
        reader.offer_read(device.hello(SHARED_PEER))
    sent = [reader.first_message(Provision(f"token-{n}")) for n, reader in enumerate(readers)]
    outputs = [device.take(octets, SHARED_PEER) for octets in sent]
    # One of the four is the next reader's.
    live = [n for n, output in enumerate(outputs) if isinstance(output[0], Requested)]
    assert live == [3, 4, 5]
    for n in range(3):
        assert clear(outputs[n]).code is ClearCode.STALE_OFFER


def test_readers_that_look_like_one_have_up_to_four_sessions_and_the_oldest_goes() -> None:
    device = Device()
    device.connect(SHARED_PEER)
    held: list[tuple[CompanionMachine, SessionId]] = []
    for n in range(5):
        mine = companion(seed=f"reader {n}")
        mine.offer_read(device.hello(SHARED_PEER))
        held.append((mine, requested(device.take(mine.first_message(TOKEN), SHARED_PEER)).session))
    assert device.machine.send(held[0][1], Done(0)) == []
    for mine, session in held[1:]:
        outputs = device.machine.send(session, Done(0))
        assert hear(mine, outputs) == [Done(0)]
        for other, _ in held:
            if other is not mine:
                assert hear(other, outputs) == []


def test_where_companions_look_like_one_a_stranger_ends_no_session() -> None:
    device = Device()
    mine, session = secured(device, peer=SHARED_PEER)
    forged = SealedHead(session.short_sid, 1).encode() + bytes(40)
    for _ in range(3):
        assert clear(device.take(forged, SHARED_PEER)).code is ClearCode.NOT_AUTHENTIC
    assert requested(device.take(mine.request(Identify())[1], SHARED_PEER)).counter == 1
    assert hear(mine, device.machine.send(session, Done(1))) == [Done(1)]


@CODES
@pytest.mark.parametrize("right", [True, False])
def test_where_companions_look_like_one_an_offer_is_used_once_too(code: SetupCode, right: bool) -> None:
    device = Device()
    device.connect(SHARED_PEER)
    wrong = OTHER_QR if code is QR else OTHER_PIN
    octets = first_message(device, code if right else wrong, peer=SHARED_PEER)
    outputs = device.take(octets, SHARED_PEER)
    assert right is isinstance(outputs[0], Requested)
    saved = list(device.disk.saved)
    assert clear(device.take(octets, SHARED_PEER)).code is ClearCode.STALE_OFFER
    assert device.disk.saved == saved


def test_where_companions_look_like_one_a_replay_is_still_refused() -> None:
    device = Device()
    mine, _ = secured(device, peer=SHARED_PEER)
    _, octets = mine.request(Identify())
    assert requested(device.take(octets, SHARED_PEER)).counter == 1
    assert clear(device.take(octets, SHARED_PEER)).code is ClearCode.NOT_AUTHENTIC


# Time and connections -----------------------------------------------------------------------------------------------


def test_a_connection_that_proves_nothing_is_dropped_after_15_seconds() -> None:
    device = Device()
    assert device.machine.next_timeout is None
    device.connect()
    assert device.machine.next_timeout == 1015
    assert device.machine.timeouts(1014.9) == []
    octets = first_message(device)
    assert device.machine.timeouts(1015) == [Drop("a")]
    assert device.machine.timeouts(1016) == []
    assert device.machine.next_timeout is None
    assert device.take(octets) == []


def test_a_wrong_code_gains_no_time() -> None:
    device = Device()
    device.connect()
    device.now += 14
    device.take(first_message(device, OTHER_QR))
    assert device.machine.timeouts(1015) == [Drop("a")]


def test_an_authentic_connection_is_not_dropped() -> None:
    device = Device()
    open_session(device)
    assert device.machine.next_timeout is None
    assert device.machine.timeouts(10**9) == []


def test_a_connection_that_makes_progress_is_not_dropped() -> None:
    device = Device()
    device.connect()
    pieces = frames.split(first_message(device), 20)
    for piece in pieces[:-1]:
        device.now += 6
        assert device.machine.frame_received("a", piece, device.now) is None
        assert device.machine.timeouts(device.now) == []
    assert device.machine.next_timeout is not None
    assert device.now > 1015
    whole = device.machine.frame_received("a", pieces[-1], device.now)
    assert whole is not None
    assert requested(device.machine.message_received("a", whole, device.now)).request == TOKEN


def test_one_connection_too_many_is_dropped_at_once_and_costs_the_others_nothing() -> None:
    device = Device()
    for number in range(MOST_CONNECTIONS):
        device.connect(f"peer {number}")
    minted = len(device.dice.given)
    device.connect("one too many")
    assert len(device.dice.given) == minted
    with pytest.raises(RemoteProtocolError):
        device.machine.hello("one too many")
    with pytest.raises(RemoteProtocolError):
        device.machine.frame_received("one too many", b"\xc0x", device.now)
    assert device.machine.message_received("one too many", b"x", device.now) == []
    assert device.machine.next_timeout == 0
    assert device.machine.timeouts(device.now) == [Drop("one too many")]
    assert device.machine.next_timeout == 1015
    device.machine.disconnected("one too many")
    device.machine.disconnected("peer 3")
    device.connect("the next")
    assert device.machine.hello("the next")


def test_one_connection_too_many_that_leaves_by_itself_is_not_dropped() -> None:
    device = Device()
    for number in range(MOST_CONNECTIONS + 1):
        device.connect(f"peer {number}")
    device.machine.disconnected(f"peer {MOST_CONNECTIONS}")
    assert device.machine.timeouts(device.now) == []


def test_a_connection_whose_progress_ends_is_dropped() -> None:
    device = Device()
    device.connect()
    device.machine.frame_received("a", b"\x80x", 1014)
    assert device.machine.timeouts(1015) == []
    assert device.machine.next_timeout == 1024
    assert device.machine.timeouts(1024) == [Drop("a")]


def test_beginning_a_message_again_and_again_is_no_progress() -> None:
    device = Device()
    device.connect()
    dropped_at = None
    for second in range(1000, 1200, 5):
        if device.machine.timeouts(second):
            dropped_at = second
            break
        device.machine.frame_received("a", b"\x80x", second)
    assert dropped_at == 1075


def test_connections_that_look_like_one_are_not_dropped() -> None:
    device = Device()
    device.connect(SHARED_PEER)
    assert device.machine.next_timeout is None
    assert device.machine.timeouts(10**9) == []


def test_each_connection_has_a_time_of_its_own() -> None:
    device = Device()
    device.connect("a")
    device.now += 5
    device.connect("b")
    open_session(device, peer="c")
    assert device.machine.timeouts(1015) == [Drop("a")]
    assert device.machine.next_timeout == 1020
    assert device.machine.timeouts(1020) == [Drop("b")]


@pytest.mark.parametrize("timed_out", [True, False])
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_a_companion_whose_connection_ended_is_dead_wherever_it_stood(steps: int, timed_out: bool) -> None:
    device = Device()
    device.connect()
    mine = companion()
    if steps > 0:
        mine.offer_read(device.hello())
    if steps > 1:
        outputs = device.take(mine.first_message(TOKEN))
    if steps > 2:
        hear(mine, device.machine.send(requested(outputs).session, Accepted(0)))
    mine.ended(timed_out=timed_out)
    assert mine.state is State.DEAD
    mine.ended()
    for call in (
        lambda: mine.offer_read(device.hello()),
        lambda: mine.first_message(TOKEN),
        lambda: mine.request(TOKEN),
    ):
        with pytest.raises(LocalProtocolError):
            call()


def test_a_peer_that_is_not_connected_is_refused() -> None:
    device = Device()
    with pytest.raises(RemoteProtocolError):
        device.machine.hello("nobody")
    with pytest.raises(RemoteProtocolError):
        device.machine.frame_received("nobody", b"\xc0x", 0)
    assert device.machine.message_received("nobody", b"x", 0) == []
    assert device.machine.send(SessionId("nobody", bytes(8)), Done(0)) == []
    device.machine.replenish("nobody")
    device.machine.disconnected("nobody")


def test_a_half_written_message_ends_with_its_connection() -> None:
    device = Device()
    device.connect()
    pieces = frames.split(first_message(device), 20)
    device.machine.frame_received("a", pieces[0], device.now)
    device.machine.disconnected("a")
    device.connect()
    with pytest.raises(RemoteProtocolError):
        device.machine.frame_received("a", pieces[1], device.now)


# Calls in the wrong order -------------------------------------------------------------------------------------------


def reach(state: State) -> tuple[CompanionMachine, Device]:
    device = Device()
    device.connect()
    mine = companion()
    if state is State.START:
        return mine, device
    mine.offer_read(device.hello())
    if state is State.OFFERED:
        return mine, device
    outputs = device.take(mine.first_message(TOKEN))
    if state is State.SECURED:
        hear(mine, device.machine.send(requested(outputs).session, Accepted(0)))
    if state is State.DEAD:
        mine.ended()
    return mine, device


CALLS: dict[str, Callable[[CompanionMachine, Device], object]] = {
    "offer_read": lambda mine, device: mine.offer_read(device.hello()),
    "first_message": lambda mine, _: mine.first_message(TOKEN),
    "request": lambda mine, _: mine.request(TOKEN),
}
ALLOWED = {("offer_read", State.START), ("first_message", State.OFFERED), ("request", State.SECURED)}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("state", [State.START, State.OFFERED, State.WAITING, State.SECURED, State.DEAD])
def test_a_companion_can_be_asked_for_exactly_what_its_state_allows(call: str, state: State) -> None:
    mine, device = reach(state)
    assert mine.state is state
    if (call, state) in ALLOWED:
        CALLS[call](mine, device)
    else:
        with pytest.raises(LocalProtocolError):
            CALLS[call](mine, device)
        assert mine.state is state


# Garbage ------------------------------------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=150)
def test_no_message_makes_the_device_raise_or_ask_for_anything(data: st.DataObject) -> None:
    device = Device()
    device.connect()
    sid = Offer.decode(device.hello()).sid
    _, session = secured(device, peer="b")
    known = st.sampled_from([sid, sid[:8], session.short_sid, b"\x01\x01", b"\x01\x01\x02" + sid, b"\x02", b"\x03"])
    garbage = st.lists(known | st.binary(max_size=60), max_size=5).map(b"".join)
    for octets in data.draw(st.lists(garbage, max_size=8)):
        for peer in ("a", "b"):
            for output in device.machine.message_received(peer, octets, device.now):
                assert isinstance(output, Send)
                assert output.peer == peer
                ClearStatus.decode(output.message)


@given(st.lists(st.binary(max_size=40), max_size=20), st.sampled_from([State.START, State.WAITING, State.SECURED]))
@settings(max_examples=150)
def test_no_frames_make_a_companion_raise_anything_but_remote_protocol_errors(
    garbage: list[bytes], state: State
) -> None:
    mine, _ = reach(state)
    for frame in garbage:
        with contextlib.suppress(RemoteProtocolError):
            heard = mine.frame_received(frame, 0)
            assert heard is None or isinstance(heard, ClearStatus)


@given(st.binary(max_size=200))
@settings(max_examples=150)
def test_any_offer_is_read_or_refused_and_the_companion_then_dead(hello: bytes) -> None:
    mine = companion()
    try:
        mine.offer_read(hello)
    except (RemoteProtocolError, UnsupportedVersionError):
        assert mine.state is State.DEAD


# Secrets ------------------------------------------------------------------------------------------------------------


def test_no_repr_of_anything_alive_shows_a_secret() -> None:
    device = Device()
    mine, asked = open_session(device)
    outputs = device.machine.send(asked.session, Accepted(0, token_ref(TOKEN.token)))
    connection = device.machine._connections["a"]
    things = [
        mine,
        device.machine,
        asked,
        *outputs,
        connection,
        *connection.offers.values(),
        *(share for offer in connection.offers.values() for share in offer.shares.values()),
        *connection.sessions.values(),
        LABEL,
    ]
    scalars = [octets for octets in device.dice.given if len(octets) == 32]
    secrets = [TOKEN.token, token_ref(TOKEN.token), QR.secret, PIN.digits, *scalars]
    for thing in things:
        for secret in secrets:
            forms = [secret] if isinstance(secret, str) else [secret.hex(), repr(secret)[2:-1]]
            assert not any(form in repr(thing) for form in forms), type(thing)


def test_the_keys_of_two_sessions_differ_even_under_one_code() -> None:
    device = Device()
    _, one = open_session(device, peer="a", seed="same")
    _, other = open_session(device, peer="b", seed="same")
    sealed = [message(device.machine.send(asked.session, Accepted(0)))[13:] for asked in (one, other)]
    assert sealed[0] != sealed[1]


def test_a_sealed_status_shows_nothing_of_what_it_says() -> None:
    device = Device()
    _, asked = open_session(device)
    status = Failed(0, token_ref(TOKEN.token), FailureCode.CLOUD_ERROR, "a reason in plain text")
    octets = message(device.machine.send(asked.session, status))
    assert encode_status(status) not in octets
    assert b"reason" not in octets
    assert TOKEN.token.encode() not in octets


def test_the_device_machine_is_built_without_any_io() -> None:
    assert isinstance(Device(label=Label(QR), failures=None).machine, DeviceMachine)
