import random
import string
import traceback
from collections.abc import Callable, Iterator
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bletoken.errors import SetupCodeError
from bletoken.protocol import setup_code
from bletoken.protocol.setup_code import (
    AdvertName,
    Label,
    Method,
    Pin,
    QrSecret,
    SetupCode,
    parse_setup_code,
)

SECRET = QrSecret(bytes.fromhex("00112233445566778899aabbccddeeff"))
PIN = Pin("27182845")

secrets = st.binary(min_size=16, max_size=16).map(QrSecret)


def is_fine(digits: str) -> bool:
    try:
        Pin(digits)
    except SetupCodeError:
        return False
    return True


pins = st.from_regex(r"[0-9]{8}", fullmatch=True).filter(is_fine).map(Pin)


def many_pins() -> Iterator[str]:
    """Printed PINs without their dashes, the same ones every time."""
    draw = random.Random(2718)
    for _ in range(300):
        yield Pin.generate(draw.randbytes).text.replace("-", "")


def drawn(*values: bytes) -> Callable[[int], bytes]:
    left = list(values)
    return lambda size: left.pop(0)[:size]


# The check digit ----------------------------------------------------------------------------------------------------


def test_the_check_digits_table_is_a_latin_square_with_zeros_on_its_diagonal() -> None:
    rows = setup_code._DAMM
    assert len(rows) == 10
    assert all(sorted(row) == list(string.digits) for row in rows)
    assert all(sorted(column) == list(string.digits) for column in zip(*rows, strict=True))
    assert all(rows[i][i] == "0" for i in range(10))


def test_the_check_digits_table_tells_every_pair_of_neighbours_from_their_swap() -> None:
    rows = [[int(d) for d in row] for row in setup_code._DAMM]
    for c, x, y in product(range(10), repeat=3):
        assert (rows[rows[c][x]][y] == rows[rows[c][y]][x]) is (x == y)


def test_every_wrong_digit_of_a_pin_is_found() -> None:
    for pin in many_pins():
        for place, digit in product(range(9), string.digits):
            wrong = pin[:place] + digit + pin[place + 1 :]
            if wrong != pin:
                with pytest.raises(SetupCodeError, match="check digit"):
                    parse_setup_code(wrong)


def test_every_swap_of_two_neighbours_in_a_pin_is_found() -> None:
    for pin in many_pins():
        for place in range(8):
            wrong = pin[:place] + pin[place + 1] + pin[place] + pin[place + 2 :]
            if wrong != pin:
                with pytest.raises(SetupCodeError, match="check digit"):
                    parse_setup_code(wrong)


def test_a_pin_of_another_length_is_refused() -> None:
    nine = PIN.text.replace("-", "")
    for wrong in (nine[:-1], nine + "0", nine[:1], nine * 2):
        with pytest.raises(SetupCodeError, match="digits"):
            parse_setup_code(wrong)


# Trivial PINs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "digits",
    [
        *(str(d) * 8 for d in range(10)),
        *("".join(str((start + i * step) % 10) for i in range(8)) for start in range(10) for step in range(1, 10)),
        "12121212",
        "20202020",
        "12341234",
        "20242024",
    ],
)
def test_a_pin_that_people_try_first_is_refused(digits: str) -> None:
    with pytest.raises(SetupCodeError, match="easy to guess"):
        Pin(digits)


@pytest.mark.parametrize(
    "digits",
    [
        "",
        "1",
        "2718281",
        "271828182",
        "2718281x",
        "\uff12\uff17\uff11\uff18\uff12\uff18\uff14\uff15",
        "27182845\n",
        "-7182845",
    ],
)
def test_what_is_not_eight_ascii_digits_is_no_pin(digits: str) -> None:
    with pytest.raises(SetupCodeError):
        Pin(digits)


def test_a_drawn_pin_is_never_trivial_and_no_pin_is_likelier_than_another() -> None:
    too_large = (2**32 - 1).to_bytes(4)
    just_too_large = (42 * 10**8).to_bytes(4)
    trivial = (11111111).to_bytes(4)
    largest = (42 * 10**8 - 2).to_bytes(4)
    assert Pin.generate(drawn(too_large, just_too_large, trivial, largest)).digits == "99999998"


def test_a_drawn_pin_keeps_its_leading_zeros() -> None:
    assert Pin.generate(drawn((1234).to_bytes(4))).digits == "00001234"


# Texts --------------------------------------------------------------------------------------------------------------


@given(secrets)
def test_a_qr_text_reads_back(code: QrSecret) -> None:
    assert parse_setup_code(code.text) == code


@given(pins)
def test_a_printed_pin_reads_back(code: Pin) -> None:
    assert parse_setup_code(code.text) == code


def test_a_qr_text_is_40_characters_of_the_qr_alphanumeric_set() -> None:
    assert len(SECRET.text) == 40
    assert set(SECRET.text) <= set(string.ascii_uppercase + string.digits + " $%*+-./:")


def spoilt(code: SetupCode) -> list[str]:
    text = code.text
    return [
        text.lower(),
        f"  {text}\r\n",
        " ".join(text),
        "-".join(text),
        "\t".join(text),
        text.swapcase(),
        "\N{NO-BREAK SPACE}".join(text),
        text.replace("-", ""),
    ]


@pytest.mark.parametrize("code", [SECRET, PIN], ids=["qr", "pin"])
def test_case_spaces_and_dashes_do_not_matter(code: SetupCode) -> None:
    for text in spoilt(code):
        assert parse_setup_code(text) == code


def test_every_changed_character_of_a_qr_text_is_found() -> None:
    # 20 bit of check characters let one in a million through; none of these.
    draw = random.Random(3141)
    for code in (SECRET, QrSecret(bytes(16)), QrSecret(b"\xff" * 16), QrSecret.generate(draw.randbytes)):
        text = code.text
        for place, character in product(range(len(text)), string.ascii_uppercase + string.digits + ":.=_/"):
            wrong = text[:place] + character + text[place + 1 :]
            if wrong != text:
                with pytest.raises(SetupCodeError):
                    parse_setup_code(wrong)


def test_every_swap_of_two_neighbours_in_a_qr_text_is_found() -> None:
    text = SECRET.text
    for place in range(len(text) - 1):
        wrong = text[:place] + text[place + 1] + text[place] + text[place + 2 :]
        if wrong != text:
            with pytest.raises(SetupCodeError):
                parse_setup_code(wrong)


def test_a_qr_text_with_a_character_more_or_less_is_refused() -> None:
    for wrong in (SECRET.text[:-1], SECRET.text + "A", SECRET.text[:11] + SECRET.text[12:], SECRET.text * 2):
        with pytest.raises(SetupCodeError):
            parse_setup_code(wrong)


def test_a_qr_text_of_a_later_version_is_refused() -> None:
    with pytest.raises(SetupCodeError):
        parse_setup_code(SECRET.text.replace("BLETOKEN1", "BLETOKEN2"))


@pytest.mark.parametrize(
    "text", ["", " ", "-", "0", ":", "BLETOKEN1:", "BLETOKEN1", "https://example.com", "\0", "\ud800"]
)
def test_what_is_no_code_is_refused(text: str) -> None:
    with pytest.raises(SetupCodeError):
        parse_setup_code(text)


def test_a_text_without_end_is_refused() -> None:
    for text in ("1" * 10**6, "BLETOKEN1:" + "A" * 10**6, " " * 10**6, "\u00df" * 150):
        with pytest.raises(SetupCodeError):
            parse_setup_code(text)


hostile_texts = st.one_of(
    st.text(),
    st.text(alphabet=string.digits + " -\u0663\uff13\u00b2", max_size=20),
    st.text(alphabet=string.ascii_letters + string.digits + "\u017f\u0131\u00df= ", max_size=45).map(
        "BLETOKEN1:".__add__
    ),
    st.text(alphabet="ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", min_size=30, max_size=30).map("bletoken1:".__add__),
)


@given(hostile_texts)
@settings(max_examples=500)
def test_any_text_is_a_code_or_refused_and_nothing_else(text: str) -> None:
    try:
        code = parse_setup_code(text)
    except SetupCodeError:
        return
    assert parse_setup_code(code.text) == code


@pytest.mark.parametrize("size", [0, 15, 17, 32])
def test_a_qr_secret_has_128_bit(size: int) -> None:
    with pytest.raises(SetupCodeError):
        QrSecret(bytes(size))


# Secrets ------------------------------------------------------------------------------------------------------------


def leaks(shown: str) -> bool:
    forms = (
        SECRET.text[10:36],
        SECRET.secret.hex(),
        repr(SECRET.secret),
        PIN.digits,
        PIN.text,
        PIN.text.replace("-", ""),
    )
    return any(form.lower() in shown.lower() for form in forms)


def test_no_repr_shows_a_secret() -> None:
    label = Label(SECRET, PIN)
    for thing in (SECRET, PIN, label, [label], {"label": label}):
        assert not leaks(repr(thing))
        assert not leaks(str(thing))
        assert not leaks(f"{thing}")


def test_no_error_repeats_the_code_it_refuses() -> None:
    for code in (SECRET, PIN):
        text = code.text
        for wrong in (text + "2", "x" + text, text.replace(text[-1], "9" if text[-1] != "9" else "8"), text + "~"):
            with pytest.raises(SetupCodeError) as caught:
                parse_setup_code(wrong)
            error: BaseException | None = caught.value
            assert not leaks("".join(traceback.format_exception(caught.value)))
            while error is not None:
                assert not leaks(repr(error))
                error = error.__context__


def test_a_refused_pin_is_not_repeated() -> None:
    with pytest.raises(SetupCodeError) as caught:
        Pin("12345678")
    assert "12345678" not in str(caught.value)


# What is derived ----------------------------------------------------------------------------------------------------


def test_the_passwords_of_the_two_methods_never_meet() -> None:
    assert SECRET.password == b"bletoken/1 qr\0" + SECRET.secret
    assert PIN.password == b"bletoken/1 pin\x0027182845"
    assert SECRET.method is Method.QR
    assert PIN.method is Method.PIN


def test_a_label_gives_each_method_its_code() -> None:
    assert Label(SECRET, PIN).code(Method.QR) is SECRET
    assert Label(SECRET, PIN).code(Method.PIN) is PIN
    assert Label(SECRET).code(Method.PIN) is None


def test_a_drawn_label_has_a_pin_only_where_one_is_wanted() -> None:
    draw = random.Random(1).randbytes
    assert Label.generate(draw, with_pin=True).pin is not None
    assert Label.generate(draw, with_pin=False).pin is None
    assert Label.generate(draw, with_pin=False).qr != Label.generate(draw, with_pin=False).qr


# The advert ---------------------------------------------------------------------------------------------------------


@given(secrets, st.binary(min_size=2, max_size=2), st.sampled_from("rwpuc"))
def test_a_holder_of_the_qr_secret_knows_its_device_by_name(code: QrSecret, nonce: bytes, state: str) -> None:
    name = AdvertName.parse(str(AdvertName(state, code.advert_tag(nonce))))
    assert name is not None
    assert name.state == state
    assert name.is_of(code)


@given(secrets, secrets, st.binary(min_size=2, max_size=2))
def test_another_devices_name_is_not_taken(one: QrSecret, other: QrSecret, nonce: bytes) -> None:
    assert AdvertName("r", one.advert_tag(nonce)).is_of(other) is (one == other)


def test_the_name_fits_a_scan_response() -> None:
    assert len(str(AdvertName("r", SECRET.advert_tag(b"ab")))) + 2 <= 31


def test_a_fresh_nonce_changes_the_whole_tag() -> None:
    tags = {SECRET.advert_tag(bytes([0, n])) for n in range(256)}
    assert len({tag[4:] for tag in tags}) == 256


def test_a_tag_holds_no_octet_of_the_secret_but_what_hmac_makes_of_it() -> None:
    assert not leaks(str(AdvertName("r", SECRET.advert_tag(b"\0\0"))))


def test_a_tag_with_any_changed_character_is_not_taken() -> None:
    tag = SECRET.advert_tag(b"\x12\x34")
    for place, character in product(range(10), "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"):
        wrong = tag[:place] + character + tag[place + 1 :]
        assert AdvertName("r", wrong).is_of(SECRET) is (wrong == tag)


@pytest.mark.parametrize("size", [0, 1, 3])
def test_an_advert_nonce_has_two_octets(size: int) -> None:
    with pytest.raises(ValueError, match="nonce"):
        SECRET.advert_tag(bytes(size))


@given(st.one_of(st.none(), st.text(), st.from_regex(r"bletoken-1.-.{10}")))
def test_any_name_off_the_air_is_ours_or_none(name: str | None) -> None:
    parsed = AdvertName.parse(name)
    assert parsed is None or str(parsed) == name
    assert parsed is None or not parsed.is_of(SECRET)
