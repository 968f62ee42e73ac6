from dataclasses import FrozenInstanceError
from itertools import combinations

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.protocol import messages

from bletoken.errors import LocalProtocolError, RemoteProtocolError, UnsupportedVersionError
from bletoken.protocol import requests, wire
from bletoken.protocol.setup_code import Method
from bletoken.protocol.wire import (
    Action,
    ClearStatus,
    CoarseState,
    FailureCode,
    FirstHead,
    Offer,
    Request,
    SealedHead,
    Status,
)

LARGEST_OFFER = Offer(
    versions=(1,),
    sid=b"\xff" * 16,
    shares={1: b"\xff" * 32, 2: b"\xff" * 32},
    actions=tuple(Action),
    state=CoarseState.PRE_PROVISIONED,
    device_class="x" * 64,
)


# Round trips --------------------------------------------------------------------------------------------------------


@given(messages.requests)
@settings(max_examples=150)
def test_any_request_reads_back(request: Request) -> None:
    read = wire.decode_request(wire.encode_request(request))
    assert read == request
    assert type(read) is type(request)


@given(messages.statuses)
@settings(max_examples=250)
def test_any_status_reads_back(status: Status) -> None:
    read = wire.decode_status(wire.encode_status(status))
    assert read == status
    assert type(read) is type(status)


@given(messages.clear_statuses)
def test_any_clear_status_reads_back(status: ClearStatus) -> None:
    assert ClearStatus.decode(status.encode()) == status


@given(messages.offers)
def test_any_offer_reads_back(offer: Offer) -> None:
    assert Offer.decode(offer.encode()) == offer


@given(st.sampled_from(Method), st.binary(min_size=16, max_size=16), messages.shares, st.binary(max_size=40))
def test_any_first_head_reads_back(method: Method, sid: bytes, share: bytes, box: bytes) -> None:
    head = FirstHead(method, sid, share)
    assert len(head.encode()) == FirstHead.SIZE == 51
    assert FirstHead.decode(head.encode() + box) == head


@given(st.binary(min_size=8, max_size=8), messages.u32, st.binary(max_size=40))
def test_any_sealed_head_reads_back(short_sid: bytes, counter: int, box: bytes) -> None:
    head = SealedHead(short_sid, counter)
    assert len(head.encode()) == SealedHead.SIZE == 13
    assert SealedHead.decode(head.encode() + box) == head


# Sizes --------------------------------------------------------------------------------------------------------------


def test_the_largest_offer_of_both_methods_fits_one_read() -> None:
    assert len(LARGEST_OFFER.encode()) <= wire.LARGEST_HELLO
    assert Offer.decode(LARGEST_OFFER.encode()) == LARGEST_OFFER


def test_an_offer_that_would_not_fit_is_not_made() -> None:
    versions = tuple(range(24, 32))
    offer = Offer(versions, bytes(16), {n: bytes(32) for n in (1, 2, 3)}, (1,), CoarseState.READY, 4096, "x" * 64)
    with pytest.raises(ValueError, match="fit"):
        offer.encode()


def test_an_offer_that_is_too_large_is_refused() -> None:
    padded = cbor2.dumps({**cbor2.loads(LARGEST_OFFER.encode()), 200: bytes(60)}, canonical=True)
    with pytest.raises(RemoteProtocolError):
        Offer.decode(padded)


def test_the_longest_token_and_its_answer_fit_a_message() -> None:
    request = wire.encode_request(wire.Provision("x" * 1024, 2**32 - 1, 2**64 - 1))
    assert FirstHead.SIZE + len(request) + 16 <= wire.LARGEST_MESSAGE
    assert len(request) <= 1060


# Any octets ---------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_any_octets_parse_or_are_refused_and_nothing_else(octets: bytes) -> None:
    for parse in (wire.decode_request, wire.decode_status, ClearStatus.decode, SealedHead.decode):
        try:
            parse(octets)
        except RemoteProtocolError:
            continue
    for parse_version in (Offer.decode, FirstHead.decode):
        try:
            parse_version(octets)
        except (RemoteProtocolError, UnsupportedVersionError):
            continue


@given(st.one_of(messages.requests.map(wire.encode_request), messages.statuses.map(wire.encode_status)), st.data())
@settings(max_examples=300)
def test_a_changed_bit_parses_or_is_refused_and_nothing_else(octets: bytes, data: st.DataObject) -> None:
    changed = bytearray(octets)
    bit = data.draw(st.integers(0, 8 * len(octets) - 1))
    changed[bit // 8] ^= 1 << bit % 8
    for parse in (wire.decode_request, wire.decode_status):
        try:
            parse(bytes(changed))
        except RemoteProtocolError:
            continue


def test_every_shortened_message_is_refused() -> None:
    head = FirstHead(Method.QR, bytes(16), bytes(32)).encode()
    sealed = SealedHead(bytes(8), 1).encode()
    clear = ClearStatus(wire.ClearCode.BUSY, CoarseState.READY, 5).encode()
    offer = LARGEST_OFFER.encode()
    request = wire.encode_request(wire.Provision("token", 1, 2))
    status = wire.encode_status(wire.Failed(1, bytes(16), FailureCode.CLOUD_ERROR, "reason", 3))
    for whole, parse in (
        (head, FirstHead.decode),
        (sealed, SealedHead.decode),
        (clear, ClearStatus.decode),
        (offer, Offer.decode),
        (request, wire.decode_request),
        (status, wire.decode_status),
    ):
        parse(whole)
        for length in range(len(whole)):
            with pytest.raises(RemoteProtocolError):
                parse(whole[:length])


# Versions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("versions", [(2,), (0,), (0, 2), (2, 3, 4, 255)])
def test_an_offer_without_our_version_is_unsupported_whatever_else_it_lists(versions: tuple[int, ...]) -> None:
    offer = Offer(versions, bytes(16), {1: bytes(32)}, (1,), CoarseState.READY)
    with pytest.raises(UnsupportedVersionError, match=f"version {versions[-1]}"):
        Offer.decode(offer.encode())


@pytest.mark.parametrize("version", [0, 2, 3, 255])
def test_a_first_message_of_another_version_is_unsupported_at_any_length(version: int) -> None:
    for length in (2, 10, 51, 100):
        with pytest.raises(UnsupportedVersionError):
            FirstHead.decode(bytes([1, version]) + bytes(length - 2))


def test_unsupported_comes_only_from_offers_and_first_messages() -> None:
    assert not issubclass(UnsupportedVersionError, RemoteProtocolError)


@pytest.mark.parametrize("method", [0, 3, 128, 255])
def test_an_unknown_method_is_refused(method: int) -> None:
    with pytest.raises(RemoteProtocolError):
        FirstHead.decode(bytes([1, 1, method]) + bytes(48))


# Kinds and bounds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [0, 6, 255, -1, True, False, "1", b"1", [1]])
def test_a_request_of_an_unknown_kind_is_refused(kind: object) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.decode_request(cbor2.dumps({0: kind}, canonical=True))


def test_a_request_without_a_kind_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        wire.decode_request(cbor2.dumps({1: "token"}, canonical=True))


@pytest.mark.parametrize("token", ["", "a b", "a\n", "tökén", "x" * 1025, "\x00"])
def test_a_token_that_is_not_1_to_1024_printable_ascii_characters_is_refused_both_ways(token: str) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.decode_request(cbor2.dumps({0: 1, 1: token}, canonical=True))
    with pytest.raises(LocalProtocolError) as caught:
        wire.encode_request(wire.Provision(token))
    assert not token.strip() or token not in str(caught.value)


@pytest.mark.parametrize("field", [b"token", 7, True, ["t"], {1: "t"}])
def test_a_token_that_is_no_text_is_refused(field: object) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.decode_request(cbor2.dumps({0: 1, 1: field}, canonical=True))


def test_a_reason_with_a_lone_surrogate_cannot_be_sent_and_says_so_as_our_own_error() -> None:
    # JSON from a hostile cloud can carry one.
    with pytest.raises(LocalProtocolError):
        wire.encode_status(wire.Failed(0, reason="\ud83d"))


def test_a_clear_status_imposes_at_most_five_minutes() -> None:
    for wait_s in (301, 65535):
        assert ClearStatus.decode(ClearStatus(wire.ClearCode.LOCKED, CoarseState.READY, wait_s).encode()).wait_s == 300


def test_messages_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        wire.Provision("token").token = "other"  # type: ignore[misc]


# Domain separation --------------------------------------------------------------------------------------------------


def test_the_channel_identifier_differs_per_method() -> None:
    assert wire.channel_identifier(Method.QR) != wire.channel_identifier(Method.PIN)


def test_the_channel_identifier_names_protocol_service_roles_and_method() -> None:
    service = bytes.fromhex("b1e700000c9946dcbaf4a8712fe5a5d4")
    expected = b"\x0abletoken/1\x10" + service + b"\x06device\x09companion\x01\x02"
    assert wire.channel_identifier(Method.PIN) == expected


def test_every_uuid_is_another() -> None:
    uuids = {wire.SERVICE_UUID, wire.HELLO_UUID, wire.TOKEN_UUID, wire.STATUS_UUID}
    assert len(uuids) == 4


def test_a_token_reference_is_the_hash_and_says_nothing_of_the_token() -> None:
    import hashlib

    assert wire.token_ref("abc") == hashlib.sha256(b"bletoken/1 tokenabc").digest()[:16]


# Secrets ------------------------------------------------------------------------------------------------------------


def test_no_repr_shows_a_token_a_reference_or_a_claim_code() -> None:
    for message in (
        wire.Provision("canary-value"),
        wire.Claimable(1, b"canary-value-16x", claim_code="canary-value", until=5),
        wire.Accepted(1, b"canary-value-16x"),
    ):
        assert "canary" not in repr(message)


# Who may ask for what -----------------------------------------------------------------------------------------------


def test_every_action_has_a_rule() -> None:
    assert set(requests.GRANTED) == set(Action)


GRANTS = {
    (Action.PROVISION, "rwpu", "QP"),
    (Action.CLAIM, "c", "QP"),
    (Action.IDENTIFY, "rwpuc", "QP"),
    (Action.STATUS, "rwpuc", "QP"),
    (Action.UNLOCK, "rwuc", "Q"),
}


@pytest.mark.parametrize(("action", "letters", "methods"), sorted(GRANTS))
def test_a_request_is_granted_in_exactly_these_states_and_by_these_methods(
    action: Action, letters: str, methods: str
) -> None:
    for state in CoarseState:
        for method in Method:
            granted = requests.refusal(action, state, method) is None
            assert granted is (state.letter in letters and method.name[0] in methods)


def test_the_coarse_states_have_different_letters() -> None:
    assert all(a.letter != b.letter for a, b in combinations(CoarseState, 2))
