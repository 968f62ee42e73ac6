"""CPace over X25519 with SHA-512 (draft-irtf-cfrg-cpace, CPACE-X25519-SHA512); it never sees a message or a clock.

Two parties that know the same low-entropy code end with the same key; an attacker gets one guess per exchange and
nothing to grind offline. The device plays the initiator (A) and the companion the responder (B).

The map to the curve uses Python integers and is not constant-time. What it could leak to somebody who measures it on
the same machine is a code that this machine holds in a file anyway.
"""

import hashlib
from typing import Final

from bletoken.errors import RemoteProtocolError

SHARE_SIZE: Final = 32
"""Octets of a public share, a scalar and a generator (RFC 7748, section 5)."""

_DSI: Final = b"CPace255"
_DSI_ISK: Final = b"CPace255_ISK"
_HASH_BLOCK_SIZE: Final = 128
"""SHA-512's input block, `s_in_bytes` of the draft: the code is padded to fill the first block alone."""

_P: Final = 2**255 - 19
_A: Final = 486662


def lv_cat(*parts: bytes) -> bytes:
    """Join octet strings, each behind its length as LEB128 (draft, section 5.1, `lv_cat`)."""
    out = bytearray()
    for part in parts:
        length = len(part)
        while length >= 0x80:
            out.append(length & 0x7F | 0x80)
            length >>= 7
        out.append(length)
        out += part
    return bytes(out)


def _generator_string(prs: bytes, ci: bytes, sid: bytes) -> bytes:
    padding = max(0, _HASH_BLOCK_SIZE - 1 - len(lv_cat(prs)) - len(lv_cat(_DSI)))
    return lv_cat(_DSI, prs, bytes(padding), ci, sid)


def _map_to_curve(octets: bytes) -> bytes:
    """Elligator 2 for Curve25519: octets to a u-coordinate (RFC 9380, section 6.7.1, with Z = 2)."""
    r = int.from_bytes(octets, "little") & (2**255 - 1)
    # 1 + 2 r^2 is never 0, because -1/2 is no square modulo p.
    v = -_A * pow(1 + 2 * r * r, -1, _P) % _P
    is_square = pow(v * (v * v + _A * v + 1), (_P - 1) // 2, _P) == 1
    return (v if is_square else (-v - _A) % _P).to_bytes(SHARE_SIZE, "little")


def generator(prs: bytes, ci: bytes, sid: bytes) -> bytes:
    """The secret generator that both sides derive from the code.

    Args:
        prs: The password-related string: the code, any length.
        ci: The channel identifier: what both sides agree they are doing.
        sid: The session identifier, 16 random octets of the offer.

    Returns:
        A u-coordinate, 32 octets.
    """
    return _map_to_curve(hashlib.sha512(_generator_string(prs, ci, sid)).digest()[:SHARE_SIZE])


def scalar_multiply(scalar: bytes, point: bytes) -> bytes:
    """X25519 with the draft's check (`scalar_mult_vfy`): the neutral element is an error, never a result.

    Args:
        scalar: 32 octets; clamped as RFC 7748 says.
        point: A u-coordinate, 32 octets.

    Raises:
        RemoteProtocolError: The point has low order or is no 32 octets: no honest peer sends it.
    """
    # Not when this module is loaded: see `channel.load_libraries`.
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    try:
        return X25519PrivateKey.from_private_bytes(scalar).exchange(X25519PublicKey.from_public_bytes(point))
    except ValueError as e:
        raise RemoteProtocolError("the peer's public share has low order") from e


def public_share(scalar: bytes, base: bytes) -> bytes:
    """The share to send: `scalar` times the secret generator `base`, 32 octets."""
    return scalar_multiply(scalar, base)


def intermediate_session_key(sid: bytes, k: bytes, ya: bytes, ada: bytes, yb: bytes, adb: bytes) -> bytes:
    """The session key ISK over the ordered transcript (draft, section 7.2, initiator-responder).

    Args:
        sid: The session identifier.
        k: The shared point, from `scalar_multiply`.
        ya: The initiator's share.
        ada: The initiator's associated data.
        yb: The responder's share.
        adb: The responder's associated data.

    Returns:
        64 octets.
    """
    transcript = lv_cat(ya, ada) + lv_cat(yb, adb)
    return hashlib.sha512(lv_cat(_DSI_ISK, sid, k) + transcript).digest()
