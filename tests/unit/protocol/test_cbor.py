from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bletoken.errors import LocalProtocolError, RemoteProtocolError
from bletoken.protocol import cbor
from bletoken.protocol.cbor import Key, MapOf, Octets, OneOf, SetOf, Text, UInt
from bletoken.protocol.wire import CoarseState


@dataclass(frozen=True, slots=True)
class Sample:
    """One field of each kind; `note` does not travel."""

    number: Annotated[int, Key(1), UInt(16)]
    text: Annotated[str, Key(2), Text(8)] = ""
    word: Annotated[str, Key(3), Text(8, ascii_only=True)] = ""
    octets: Annotated[bytes, Key(4), Octets(4)] = b""
    state: Annotated[CoarseState, Key(5), OneOf(CoarseState)] = CoarseState.READY
    numbers: Annotated[tuple[int, ...], Key(6), SetOf(3)] = ()
    table: Annotated[Mapping[int, bytes] | None, Key(7), MapOf(2, 2)] = None
    note: str = "local"


samples = st.builds(
    Sample,
    number=st.integers(0, 2**16 - 1),
    text=st.text(max_size=8).filter(lambda t: len(t.encode()) <= 8),
    word=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=8),
    octets=st.just(b"") | st.binary(min_size=4, max_size=4),
    state=st.sampled_from(CoarseState),
    numbers=st.sets(st.integers(0, 255), max_size=3).map(lambda found: tuple(sorted(found))),
    table=st.none() | st.dictionaries(st.integers(0, 255), st.binary(min_size=2, max_size=2), min_size=1, max_size=2),
)


def refused(octets: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        cbor.decode(octets, Sample)


@given(samples)
@settings(max_examples=200)
def test_a_message_reads_back(sample: Sample) -> None:
    octets = cbor.encode(sample)
    assert cbor.decode(octets, Sample) == sample
    assert cbor2.dumps(cbor2.loads(octets), canonical=True) == octets


def test_what_has_its_default_is_left_out() -> None:
    assert cbor.encode(Sample(5)) == bytes.fromhex("a10105")
    assert cbor.encode(Sample(0)) == bytes.fromhex("a10100")


def test_unknown_keys_are_skipped_so_that_a_later_version_can_add_some() -> None:
    octets = cbor2.dumps({1: 5, 200: {3: [b"x", "y", True]}, -7: 1}, canonical=True)
    assert cbor.decode(octets, Sample) == Sample(5)


def test_a_missing_field_is_refused() -> None:
    refused(bytes.fromhex("a0"))


# Hostile octets -----------------------------------------------------------------------------------------------------

TAGS = [
    0,
    1,
    2,
    3,
    4,
    5,
    21,
    22,
    23,
    24,
    25,
    28,
    29,
    30,
    32,
    35,
    36,
    37,
    100,
    256,
    258,
    260,
    261,
    1004,
    43000,
    55799,
    2**64 - 1,
]
TAGGED = [
    "00",
    "4101",
    "6161",
    "820102",
    "8200c2410a",
    "80",
    "a0",
    "f5",
    "1a514b67b0",
    "63282a29",
    "c000",
    "d81c80",
    "d81d00",
]


def tagged(tag: int, content: str) -> bytes:
    return bytes.fromhex(cbor2.dumps(cbor2.CBORTag(tag, 0)).hex()[:-2] + content)


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("content", TAGGED)
def test_a_tag_is_refused_wherever_it_stands(tag: int, content: str) -> None:
    item = tagged(tag, content)
    refused(item)
    refused(tagged(tag, "a10105"))
    refused(b"\xa1\x01" + item)
    refused(b"\xa1" + item + b"\x01")
    refused(b"\xa2\x01\x05\x18\xc8" + item)
    refused(b"\xa2\x01\x05\x18\xc8\x81" + item)


@pytest.mark.parametrize(
    "item",
    [
        "c074323031332d30332d32315432303a30343a30305a",
        "c11a514b67b0",
        "c249010000000000000000",
        "c34101",
        "c48221196ab3",
        "c5822003",
        "d81c80",
        "d81e820103",
        "d8236f28612a292a28612a292a28612a292a",
        "d8246a546f3a20610d0a0d0a62",
        "d8255000112233445566778899aabbccddeeff",
        "d9010080",
        "d901028101",
        "d9010444c0a80001",
        "d9d9f700",
    ],
)
def test_no_tags_own_decoder_ever_runs(item: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Dates, huge powers of ten and regular expressions that take for ever: ours stands in the place of all of them.
    refused: list[object] = []

    def refuse(*arguments: object) -> None:
        refused.append(arguments)
        raise ValueError("tags are not allowed")

    monkeypatch.setattr(cbor, "_refuse_tag", refuse)
    with pytest.raises(RemoteProtocolError) as caught:
        cbor.decode(b"\xa1\x01" + bytes.fromhex(item), Sample)
    assert refused
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


@pytest.mark.parametrize(
    "octets",
    [
        "",
        "05",
        "80",
        "60",
        "f6",
        "a1",
        "a101",
        "a20105",
        "a10105" + "00",
        "a10105" + "a10105",
        "a10105" + "f6",
    ],
)
def test_what_is_not_one_whole_map_is_refused(octets: str) -> None:
    refused(bytes.fromhex(octets))


@pytest.mark.parametrize(
    "octets",
    [
        "a201050105",
        "a201050106",
        "a2010518010 5".replace(" ", ""),
        "a2190001050105",
    ],
)
def test_a_key_that_comes_twice_is_refused(octets: str) -> None:
    refused(bytes.fromhex(octets))


@pytest.mark.parametrize(
    "octets",
    [
        "bf0105ff",
        "a10105ff",
        "a2010502" + "7f6161ff",
        "a2010504" + "5f4401020304ff",
        "a2010506" + "9f01ff",
        "a2010507" + "bf01420000ff",
        "ff",
        "bfff",
    ],
)
def test_indefinite_lengths_are_refused(octets: str) -> None:
    refused(bytes.fromhex(octets))


@pytest.mark.parametrize(
    "octets",
    [
        "a1011805",
        "a101190005",
        "a1011a00000005",
        "a1011b0000000000000005",
        "a1180105",
        "b80101" + "05",
        "a2026161" + "0105",
        "a201050278" + "0161",
        "a2010506980101",
        "a2010504580401020304",
    ],
)
def test_what_is_not_in_canonical_form_is_refused(octets: str) -> None:
    refused(bytes.fromhex(octets))


@pytest.mark.parametrize(
    "value",
    [
        "f6",
        "f7",
        "f4",
        "f5",
        "f97e00",
        "f90000",
        "fa40a00000",
        "fb4014000000000000",
        "e0",
        "f0",
        "f8ff",
        "f820",
        "20",
        "3818",
        "3bffffffffffffffff",
    ],
)
def test_null_undefined_booleans_floats_simple_values_and_negatives_are_no_number(value: str) -> None:
    refused(bytes.fromhex("a101" + value))


@pytest.mark.parametrize("value", ["f6", "f7", "f97e00", "f90000", "fa40a00000", "fb4014000000000000", "e0", "f8ff"])
def test_null_undefined_floats_and_simple_values_are_refused_under_unknown_keys_too(value: str) -> None:
    refused(bytes.fromhex("a2010518c8" + value))
    refused(bytes.fromhex("a2010518c881" + value))


@pytest.mark.parametrize("key", ["40", "60", "f5", "f4", "f6", "80", "a0", "f90000", "fb3ff0000000000000"])
def test_a_key_that_is_no_integer_is_refused(key: str) -> None:
    refused(bytes.fromhex("a1" + key + "05"))
    refused(bytes.fromhex("a2010518c8a1" + key + "05"))


@pytest.mark.parametrize("major", [0x40, 0x60, 0x80, 0xA0])
@pytest.mark.parametrize(
    "length", ["1a7fffffff", "1affffffff", "1b0000000100000000", "1b7fffffffffffffff", "1bffffffffffffffff", "19ffff"]
)
def test_a_huge_length_is_refused_at_once(major: int, length: str) -> None:
    head = bytes([major | int(length[:2], 16)]) + bytes.fromhex(length[2:])
    refused(head)
    refused(head + bytes(64))
    refused(b"\xa1\x01" + head)
    refused(b"\xa2\x01\x05\x18\xc8" + head + bytes(64))


@pytest.mark.parametrize("depth", [3, 4, 100, 1300, 4000])
def test_deep_nesting_is_refused(depth: int) -> None:
    refused(b"\x81" * depth)
    refused(b"\xa1\x01" * depth)
    refused(b"\xa2\x01\x05\x18\xc8" + b"\x81" * depth + b"\x00")
    refused(b"\xa2\x01\x05\x18\xc8" + b"\xa1\x01" * depth + b"\x00")
    refused(b"\xc1" * depth)


def test_a_text_that_is_no_utf_8_is_refused() -> None:
    for text in ("62c328", "61ff", "63eda080", "62c080", "64f8808080"):
        refused(bytes.fromhex("a2010502" + text))


def test_a_map_of_as_many_entries_as_fit_is_read_in_bounds() -> None:
    octets = cbor2.dumps(dict.fromkeys(range(1, 1200), 0), canonical=True)
    refused(octets)
    assert cbor.decode(cbor2.dumps({1: 5, **dict.fromkeys(range(100, 1200), 0)}, canonical=True), Sample) == Sample(5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (1, -1),
        (1, 2**16),
        (1, True),
        (1, False),
        (1, "1"),
        (1, b"1"),
        (1, [1]),
        (1, {1: 1}),
        (2, "123456789"),
        (2, "ééééé"),
        (2, b"x"),
        (2, 1),
        (2, True),
        (3, ""),
        (3, "a b"),
        (3, "a\n"),
        (3, "a\x7f"),
        (3, "é"),
        (4, b""),
        (4, b"123"),
        (4, b"12345"),
        (4, "1234"),
        (5, 99),
        (5, True),
        (5, "0"),
        (5, -1),
        (6, []),
        (6, [1, 2, 3, 4]),
        (6, [2, 1]),
        (6, [1, 1]),
        (6, [256]),
        (6, [-1]),
        (6, [True]),
        (6, ["1"]),
        (6, 1),
        (6, {1: 1}),
        (7, {}),
        (7, {1: b"ab", 2: b"ab", 3: b"ab"}),
        (7, {1: b"abc"}),
        (7, {256: b"ab"}),
        (7, {-1: b"ab"}),
        (7, {1: "ab"}),
        (7, [1]),
        (7, 1),
    ],
)
def test_a_value_out_of_its_bounds_is_refused(key: int, value: object) -> None:
    refused(cbor2.dumps({1: 5} | {key: value}, canonical=True))


def test_a_boolean_is_no_number_where_both_encode_alike_in_python() -> None:
    assert cbor2.loads(b"\xa1\x01\xf5") == {1: 1}
    refused(b"\xa1\x01\xf5")
    with pytest.raises(LocalProtocolError):
        cbor.encode(Sample(True))


plain = st.recursive(
    st.integers(-(2**64), 2**64 - 1)
    | st.binary(max_size=8)
    | st.text(max_size=8)
    | st.booleans()
    | st.none()
    | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.integers(-5, 300) | st.text(max_size=2), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.integers(0, 8), plain, max_size=6), st.booleans())
@settings(max_examples=150)
def test_any_cbor_is_a_message_or_refused_and_nothing_else(content: dict[int, Any], canonical: bool) -> None:
    octets = cbor2.dumps(content, canonical=canonical)
    try:
        sample = cbor.decode(octets, Sample)
    except RemoteProtocolError:
        return
    assert cbor.decode(cbor.encode(sample), Sample) == sample


@given(st.binary(max_size=80))
@example(b"\xa1\x01\x05")
@settings(max_examples=500)
def test_any_octets_are_a_message_or_refused_and_nothing_else(octets: bytes) -> None:
    for start in (b"", b"\xa1\x01", b"\xa2\x01\x05\x02", b"\xa2\x01\x05\x18\xc8"):
        try:
            cbor.decode(start + octets, Sample)
        except RemoteProtocolError:
            continue


@given(st.integers(0, 30), st.integers(0, 255))
@settings(max_examples=300)
def test_one_changed_octet_is_a_message_or_refused_and_nothing_else(place: int, octet: int) -> None:
    octets = bytearray(cbor.encode(Sample(5, "text", "word", b"1234", CoarseState.WORKING, (1, 2), {1: b"ab"})))
    octets[place] = octet
    try:
        cbor.decode(bytes(octets), Sample)
    except RemoteProtocolError:
        return


# Our own side -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("number", -1),
        ("number", 2**16),
        ("number", "secret"),
        ("text", "secret-secret"),
        ("text", "\ud800"),
        ("word", "\udfff"),
        ("word", "se cret"),
        ("octets", b"sec"),
        ("state", 99),
        ("numbers", (2, 1)),
        ("table", {1: b"secret"}),
    ],
)
def test_our_own_value_out_of_its_bounds_is_our_error_and_not_repeated(field: str, value: object) -> None:
    with pytest.raises(LocalProtocolError, match=field) as caught:
        cbor.encode(Sample(**{"number": 1, field: value}))  # type: ignore[arg-type]
    assert "sec" not in str(caught.value)
