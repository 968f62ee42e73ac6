"""What stands on a device's label: the QR secret, the PIN, their check characters; and the tag in the advert.

It makes no image and reads no file.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import field
from enum import IntEnum
from itertools import pairwise
from typing import Final, Self

from bletoken.errors import SetupCodeError
from bletoken.frozen import frozen

Entropy = Callable[[int], bytes]
"""Gives that many fresh random octets; `secrets.token_bytes` outside tests."""

SECRET_SIZE: Final = 16
"""Octets of a QR secret: 128 bit."""

PIN_DIGITS: Final = 8
"""Random digits of a PIN; a ninth is the check digit."""

QR_PREFIX: Final = "BLETOKEN1:"
"""Begins the QR text; every character is in QR's alphanumeric set, which keeps the picture small."""

PROTOCOL_LABEL: Final = b"bletoken/1"
"""Domain separation of everything that version 1 derives."""

NAME_PREFIX: Final = "bletoken-1"
"""Begins the local name in the scan response: what this is, and its protocol version."""

_CHECK_CHARACTERS: Final = 4
_SECRET_CHARACTERS: Final = 26
_TAG_CHARACTERS: Final = 10
_NONCE_SIZE: Final = 2
_TAG_SIZE: Final = 4
_TAG_KEY_SIZE: Final = 32
_LONGEST_TEXT: Final = 200

_DAMM: Final = (
    "0317598642",
    "7092154863",
    "4206871359",
    "1750983426",
    "6123045978",
    "3674209581",
    "5869720134",
    "8945362017",
    "9438617205",
    "2581436790",
)
"""Damm's quasigroup of order 10: finds every wrong digit and every swap of two neighbours."""


class Method(IntEnum):
    """How the companion proves that it knows the label."""

    QR = 1
    PIN = 2


def _base32(octets: bytes) -> str:
    return base64.b32encode(octets).decode("ascii").rstrip("=")


def _from_base32(text: str) -> bytes:
    octets = base64.b32decode(text + "=" * (-len(text) % 8))
    if _base32(octets) != text:
        raise ValueError("the unused bits of the last character are not zero")
    return octets


@frozen
class QrSecret:
    """The secret in the label's QR code.

    Attributes:
        secret: 16 random octets, one device's own.
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_SIZE:
            raise SetupCodeError(f"a QR secret has {SECRET_SIZE} octets, not {len(self.secret)}")

    @classmethod
    def generate(cls, entropy: Entropy) -> Self:
        """Draw a new secret."""
        return cls(entropy(SECRET_SIZE))

    @property
    def method(self) -> Method:
        """The method this code is used with."""
        return Method.QR

    @property
    def password(self) -> bytes:
        """CPace's password-related string."""
        return PROTOCOL_LABEL + b" qr\0" + self.secret

    @property
    def text(self) -> str:
        """The QR text: prefix, 26 base32 characters, 4 check characters. A secret."""
        return QR_PREFIX + _base32(self.secret) + self._check()

    def _check(self) -> str:
        return _base32(hashlib.sha256(PROTOCOL_LABEL + b" label\0" + self.secret).digest())[:_CHECK_CHARACTERS]

    def advert_tag(self, nonce: bytes) -> str:
        """The 10 base32 characters by which a holder of the QR secret finds the device without connecting.

        Args:
            nonce: 2 random octets, fresh for each time the device opens its window.
        """
        if len(nonce) != _NONCE_SIZE:
            raise ValueError(f"an advert nonce has {_NONCE_SIZE} octets")
        # HKDF (RFC 5869) with SHA-512, one block of it. The library that we have it of elsewhere takes longer to load
        # than a device to get on the air, and nothing else before the first advert needs it.
        seed = hmac.digest(PROTOCOL_LABEL, self.secret, "sha512")
        key = hmac.digest(seed, b"bletoken/1 advert\x01", "sha512")[:_TAG_KEY_SIZE]
        return _base32(nonce + hmac.digest(key, nonce, "sha256")[:_TAG_SIZE])


@frozen
class Pin:
    """The PIN on the label.

    Attributes:
        digits: The eight random digits, without the check digit.
    """

    digits: str = field(repr=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(rf"[0-9]{{{PIN_DIGITS}}}", self.digits):
            raise SetupCodeError(f"a PIN has {PIN_DIGITS} digits and a check digit")
        if _is_trivial(self.digits):
            raise SetupCodeError("this PIN is too easy to guess")

    @classmethod
    def generate(cls, entropy: Entropy) -> Self:
        """Draw a new PIN, uniform over all that are not trivial."""
        while True:
            number = int.from_bytes(entropy(4))
            # Only whole multiples of 10^8 below 2^32 are used, so that no PIN is likelier than another.
            if number >= 2**32 // 10**PIN_DIGITS * 10**PIN_DIGITS:
                continue
            digits = f"{number % 10**PIN_DIGITS:0{PIN_DIGITS}}"
            if not _is_trivial(digits):
                return cls(digits)

    @property
    def method(self) -> Method:
        """The method this code is used with."""
        return Method.PIN

    @property
    def password(self) -> bytes:
        """CPace's password-related string."""
        return PROTOCOL_LABEL + b" pin\0" + self.digits.encode("ascii")

    @property
    def text(self) -> str:
        """The nine digits as printed, in groups of three. A secret."""
        nine = self.digits + _damm_digit(self.digits)
        return f"{nine[:3]}-{nine[3:6]}-{nine[6:]}"


SetupCode = QrSecret | Pin
"""What a companion proves that it knows."""


@frozen
class Label:
    """All that one device's label carries.

    Attributes:
        qr: The QR secret.
        pin: The PIN, or None where the maker wants none.
    """

    qr: QrSecret
    pin: Pin | None = None

    @classmethod
    def generate(cls, entropy: Entropy, *, with_pin: bool) -> Self:
        """Draw a new label."""
        return cls(QrSecret.generate(entropy), Pin.generate(entropy) if with_pin else None)

    def code(self, method: Method) -> SetupCode | None:
        """The code that a method is tried with, or None where the label has none."""
        return self.qr if method is Method.QR else self.pin


def parse_setup_code(text: str) -> SetupCode:
    """Read a setup code as scanned or typed: case, spaces and dashes do not matter.

    Raises:
        SetupCodeError: It is neither, or a check character does not fit. The message never repeats the text.
    """
    if len(text) > _LONGEST_TEXT:
        raise SetupCodeError("this is too long for a bletoken setup code")
    compact = re.sub(r"[\s-]", "", text).upper()
    if re.fullmatch(r"[0-9]+", compact):
        return _parse_pin(compact)
    if not compact.startswith(QR_PREFIX):
        raise SetupCodeError(
            f"a QR text begins with {QR_PREFIX[:-1]} and a PIN has {PIN_DIGITS + 1} digits; this is neither"
        )
    body = compact.removeprefix(QR_PREFIX)
    if not re.fullmatch(rf"[A-Z2-7]{{{_SECRET_CHARACTERS + _CHECK_CHARACTERS}}}", body):
        raise SetupCodeError(
            f"behind {QR_PREFIX} a QR text has {_SECRET_CHARACTERS + _CHECK_CHARACTERS} characters, A-Z and 2-7"
        )
    try:
        code = QrSecret(_from_base32(body[:_SECRET_CHARACTERS]))
    except ValueError:
        raise SetupCodeError("the QR text has a wrong character") from None
    if not hmac.compare_digest(code.text, QR_PREFIX + body):
        raise SetupCodeError("the QR text has a wrong character: its check characters do not fit")
    return code


def _parse_pin(digits: str) -> Pin:
    if len(digits) != PIN_DIGITS + 1:
        raise SetupCodeError(
            f"a PIN has {PIN_DIGITS + 1} digits, the last one to check the others; this has {len(digits)}"
        )
    if _damm_digit(digits[:-1]) != digits[-1]:
        raise SetupCodeError("a digit of the PIN is wrong: its check digit does not fit")
    return Pin(digits[:-1])


def _damm_digit(digits: str) -> str:
    interim = 0
    for digit in digits:
        interim = int(_DAMM[interim][int(digit)])
    return str(interim)


def _is_trivial(digits: str) -> bool:
    """Whether a person would try it early: one step throughout (00000000, 12345678, 97531086) or a repeated part."""
    steps = {(int(b) - int(a)) % 10 for a, b in pairwise(digits)}
    repeated = any(digits == digits[:n] * (PIN_DIGITS // n) for n in (1, 2, 4))
    return len(steps) == 1 or repeated


@frozen
class AdvertName:
    """The local name in the scan response, the one field that every platform lets a device set.

    Attributes:
        state: The coarse state's letter.
        tag: 10 base32 characters; see `QrSecret.advert_tag`.
    """

    state: str
    tag: str

    def __str__(self) -> str:
        return f"{NAME_PREFIX}{self.state}-{self.tag}"

    @classmethod
    def parse(cls, name: str | None) -> Self | None:
        """Read a name off the air; None when it is not one of ours."""
        found = re.fullmatch(rf"{NAME_PREFIX}([a-z])-([A-Z2-7]{{{_TAG_CHARACTERS}}})", name or "")
        return cls(found[1], found[2]) if found else None

    def is_of(self, code: QrSecret) -> bool:
        """Whether this name was made by the device with that QR secret (once in 2^32 by chance)."""
        try:
            nonce = _from_base32(self.tag)[:_NONCE_SIZE]
        except ValueError:
            return False
        return hmac.compare_digest(code.advert_tag(nonce), self.tag)
