import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bletoken.errors import RemoteProtocolError
from bletoken.protocol import cpace

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "cpace.json").read_text())

octets32 = st.binary(min_size=32, max_size=32)
sids = st.binary(min_size=16, max_size=16)


def unhex(record: dict[str, Any]) -> dict[str, Any]:
    return {
        k: unhex(v) if isinstance(v, dict) else bytes.fromhex(v) if isinstance(v, str) else v for k, v in record.items()
    }


@pytest.fixture(params=VECTORS["exchanges"], ids=lambda e: e["name"])
def exchange(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    return unhex(request.param["given"]), unhex(request.param["expected"])


def agree(
    prs_a: bytes, prs_b: bytes, sid: bytes, a: bytes, b: bytes, *, ci_a: bytes = b"ci", ci_b: bytes = b"ci"
) -> tuple[bytes, bytes]:
    """Both ends' keys, with shares exchanged faithfully."""
    ya = cpace.public_share(a, cpace.generator(prs_a, ci_a, sid))
    yb = cpace.public_share(b, cpace.generator(prs_b, ci_b, sid))
    transcript = (ya, b"hello", yb, b"head")
    return (
        cpace.intermediate_session_key(sid, cpace.scalar_multiply(a, yb), *transcript),
        cpace.intermediate_session_key(sid, cpace.scalar_multiply(b, ya), *transcript),
    )


def test_the_generator_is_the_drafts(exchange: tuple[dict[str, Any], dict[str, Any]]) -> None:
    given_, expected = exchange
    padding = bytes(expected["zero_padding_octets"])
    hashed = cpace._generator_string(given_["prs"], given_["ci"], given_["sid"])
    assert cpace.lv_cat(b"CPace255", given_["prs"], padding, given_["ci"], given_["sid"]) == hashed
    assert cpace.generator(given_["prs"], given_["ci"], given_["sid"]) == expected["generator"]


def test_both_shares_are_the_drafts(exchange: tuple[dict[str, Any], dict[str, Any]]) -> None:
    given_, expected = exchange
    assert cpace.public_share(given_["initiator"]["scalar"], expected["generator"]) == expected["initiator_share"]
    assert cpace.public_share(given_["responder"]["scalar"], expected["generator"]) == expected["responder_share"]


def test_both_ends_reach_the_drafts_shared_point(exchange: tuple[dict[str, Any], dict[str, Any]]) -> None:
    given_, expected = exchange
    a, b = given_["initiator"]["scalar"], given_["responder"]["scalar"]
    assert cpace.scalar_multiply(a, expected["responder_share"]) == expected["shared_point"]
    assert cpace.scalar_multiply(b, expected["initiator_share"]) == expected["shared_point"]


def test_the_session_key_is_the_drafts(exchange: tuple[dict[str, Any], dict[str, Any]]) -> None:
    given_, expected = exchange
    isk = cpace.intermediate_session_key(
        given_["sid"],
        expected["shared_point"],
        expected["initiator_share"],
        given_["initiator"]["associated_data"],
        expected["responder_share"],
        given_["responder"]["associated_data"],
    )
    assert isk == expected["isk"]


@pytest.mark.parametrize("vector", VECTORS["points"], ids=lambda v: v["point"][:8] + "-" + v["point"][-4:])
def test_a_point_of_low_order_aborts_and_any_other_computes(vector: dict[str, str | None]) -> None:
    scalar, point = bytes.fromhex(vector["scalar"] or ""), bytes.fromhex(vector["point"] or "")
    if vector["result"] is None:
        with pytest.raises(RemoteProtocolError):
            cpace.scalar_multiply(scalar, point)
    else:
        assert cpace.scalar_multiply(scalar, point).hex() == vector["result"]


def test_there_are_points_of_both_kinds_in_the_vectors() -> None:
    assert len([v for v in VECTORS["points"] if v["result"] is None]) == 7
    assert len([v for v in VECTORS["points"] if v["result"] is not None]) == 5


@pytest.mark.parametrize("high_bit", [0, 0x80])
def test_a_point_of_low_order_aborts_with_its_unused_bit_set_too(high_bit: int) -> None:
    for vector in VECTORS["points"]:
        if vector["result"] is None:
            point = bytearray.fromhex(vector["point"])
            point[31] |= high_bit
            with pytest.raises(RemoteProtocolError):
                cpace.scalar_multiply(bytes(range(32)), bytes(point))


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64])
def test_a_share_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(RemoteProtocolError):
        cpace.scalar_multiply(bytes(range(32)), bytes(size))


@given(st.binary(max_size=200), sids, octets32, octets32)
@settings(max_examples=100)
def test_both_ends_agree_under_one_code(prs: bytes, sid: bytes, a: bytes, b: bytes) -> None:
    at_a, at_b = agree(prs, prs, sid, a, b)
    assert at_a == at_b
    assert len(at_a) == 64


@given(st.binary(max_size=40), st.binary(max_size=40), sids, octets32, octets32)
@settings(max_examples=100)
def test_other_codes_give_other_keys(prs_a: bytes, prs_b: bytes, sid: bytes, a: bytes, b: bytes) -> None:
    at_a, at_b = agree(prs_a, prs_b, sid, a, b)
    assert (at_a == at_b) is (prs_a == prs_b)


@given(st.binary(max_size=40), st.binary(max_size=40), sids, octets32, octets32)
@settings(max_examples=50)
def test_other_channel_identifiers_give_other_keys(ci_a: bytes, ci_b: bytes, sid: bytes, a: bytes, b: bytes) -> None:
    at_a, at_b = agree(b"code", b"code", sid, a, b, ci_a=ci_a, ci_b=ci_b)
    assert (at_a == at_b) is (ci_a == ci_b)


@given(sids, sids)
@settings(max_examples=50)
def test_other_session_identifiers_give_other_generators(one: bytes, other: bytes) -> None:
    same = cpace.generator(b"code", b"ci", one) == cpace.generator(b"code", b"ci", other)
    assert same is (one == other)


def test_every_part_of_the_transcript_changes_the_key() -> None:
    parts = [bytes([i]) * 32 for i in range(6)]
    keys = {cpace.intermediate_session_key(*parts)}
    for i in range(6):
        changed = [*parts]
        changed[i] = changed[i][:-1] + b"\xff"
        keys.add(cpace.intermediate_session_key(*changed))
    assert len(keys) == 7


def test_octets_cannot_move_from_one_part_of_the_transcript_to_the_next() -> None:
    one = cpace.intermediate_session_key(b"s", b"k", b"ya", b"ad", b"yb", b"xyz")
    other = cpace.intermediate_session_key(b"s", b"k", b"yaa", b"d", b"yb", b"xyz")
    assert one != other


@given(st.lists(st.binary(max_size=300), max_size=4), st.lists(st.binary(max_size=300), max_size=4))
@settings(max_examples=100)
def test_joined_octet_strings_are_different_when_the_lists_are(one: list[bytes], other: list[bytes]) -> None:
    assert (cpace.lv_cat(*one) == cpace.lv_cat(*other)) is (one == other)


def test_a_length_above_127_takes_two_octets() -> None:
    assert cpace.lv_cat(bytes(127))[:1] == b"\x7f"
    assert cpace.lv_cat(bytes(128))[:2] == b"\x80\x01"
    assert cpace.lv_cat(bytes(300))[:2] == b"\xac\x02"


@given(octets32)
@settings(max_examples=100)
def test_every_octet_string_maps_onto_the_curve_and_not_onto_its_twist(octets: bytes) -> None:
    p = 2**255 - 19
    u = int.from_bytes(cpace._map_to_curve(octets), "little")
    assert u < p
    assert pow(u * (u * u + 486662 * u + 1), (p - 1) // 2, p) in (0, 1)
