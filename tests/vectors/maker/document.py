"""The parts of PROTOCOL.md that follow from the code: diagrams, tables, and the worked example."""

import hashlib
import hmac
import re
import textwrap
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

from vectors.maker import plain, scenarios
from vectors.maker.notation import name_of

from bletoken.protocol import frames
from bletoken.protocol.cpace import lv_cat
from bletoken.protocol.guesses import STOP_AT, GuessRecord
from bletoken.protocol.requests import GRANTED
from bletoken.protocol.setup_code import AdvertName, Method, QrSecret
from bletoken.protocol.states import TRANSITIONS, Role, State
from bletoken.protocol.wire import CoarseState, token_ref
from bletoken_peripheral import redemption

_WIDTH: Final = 64
"""Characters of hex in a line of the worked example."""

_BLOCK: Final = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end of \2 -->)", re.DOTALL)


def filled_in(text: str) -> str:
    """PROTOCOL.md with its generated parts as they must be."""
    return _BLOCK.sub(lambda found: f"{found[1]}\n{PARTS[found[2]]()}\n{found[3]}", text)


def parts_of(text: str) -> dict[str, str]:
    """The generated parts in a document, by their names."""
    return {found[2]: found[0] for found in _BLOCK.finditer(text)}


def requests() -> str:
    """Who may ask for what, when."""
    lines = [
        "| request | " + " | ".join(f"`{name_of(state)}`" for state in CoarseState) + " |",
        "|---" * (len(CoarseState) + 1) + "|",
    ]
    for action, (states, methods) in GRANTED.items():
        by = ", ".join(method.name for method in Method if method in methods)
        cells = " | ".join(by if state in states else "no" for state in CoarseState)
        lines.append(f"| `{name_of(action)}` | {cells} |")
    return "\n".join(lines) + "\n"


def guesses() -> str:
    """How long the next PIN has to wait."""
    waits = [GuessRecord(n, 0).wait_s(0) for n in range(STOP_AT + 1)]
    lines = ["| failures | seconds to the next attempt |", "|---|---|"]
    first = 0
    for n in range(1, len(waits) + 1):
        if n == len(waits) or waits[n] != waits[first]:
            span = str(first) if first == n - 1 else f"{first} to {n - 1}"
            lines.append(f"| {span} | {'stopped' if waits[first] == float('inf') else f'{waits[first]:.0f}'} |")
            first = n
    return "\n".join(lines) + "\n"


def _diagram(start: Enum, table: Mapping[Any, Mapping[Any, Any]]) -> str:
    def identifier(state: Enum) -> str:
        return str(state.value).replace("-", "_")

    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {identifier(start)}"]
    lines += [f'    state "{s.value}" as {identifier(s)}' for s in table if identifier(s) != s.value]
    for state, row in table.items():
        lines += [f"    {identifier(state)} --> {identifier(to)}: {event.value}" for event, to in row.items()]
    lines += [f"    {identifier(state)} --> [*]" for state, row in table.items() if not row]
    return "\n".join([*lines, "```", ""])


def example() -> str:
    """One hand-over with every value on the way."""
    transcript = scenarios.transcripts()["success-by-qr"]
    steps = transcript["steps"]
    of = {(step["who"] == "device", step["does"]): step for step in reversed(steps)}
    first, hello = of[False, "first-message"], of[True, "hello-read"]["gives"]["hello"]
    secrets = first["secrets"]
    draws = of[True, "connected"]["given"]["draws"]
    secret = QrSecret(bytes.fromhex(transcript["device"]["label"]["secret"]))
    raw = {name: bytes.fromhex(value) for name, value in secrets.items()}
    message = bytes.fromhex(first["gives"]["message"])
    statuses = [step for step in steps if step["does"] == "status-sent"]
    later = next(step for step in steps if step["does"] == "request")
    transcript_ir = lv_cat(raw["ya"], raw["ada"]) + lv_cat(raw["yb"], raw["adb"])
    nonce = bytes.fromhex("a55a")
    name = AdvertName("r", secret.advert_tag(nonce))
    advert_key = _hkdf(secret.secret, b"bletoken/1 advert")
    scan_response = bytes([len(str(name)) + 1, 9]) + str(name).encode()
    parts: list[tuple[str, list[tuple[str, str]]]] = [
        (
            "The label",
            [
                ("QR secret", secret.secret.hex()),
                ("SHA-256 of the check", hashlib.sha256(b"bletoken/1 label\0" + secret.secret).hexdigest()),
                ("QR text", secret.text),
                ("PRS", secrets["prs"]),
            ],
        ),
        (
            "The advert",
            [
                ("HKDF's PRK", _extract(secret.secret).hex()),
                ("tag key", advert_key.hex()),
                ("nonce", nonce.hex()),
                ("HMAC-SHA-256", hmac.digest(advert_key, nonce, "sha256").hex()),
                ("tag", name.tag),
                ("local name", str(name)),
                ("advertising data", plain.adverts()["advertising_data"]),
                ("scan response", scan_response.hex()),
            ],
        ),
        (
            "The offer",
            [
                ("sid", secrets["sid"]),
                ("CI", secrets["ci"]),
                ("generator string", secrets["generator_string"]),
                ("SHA-512, first 32", hashlib.sha512(raw["generator_string"]).hexdigest()[:64]),
                ("generator g", secrets["generator"]),
                ("device's scalar ya", draws[1]),
                ("device's share Ya", secrets["ya"]),
                ("PIN's scalar", draws[2]),
                ("HELLO (ADa)", hello),
            ],
        ),
        (
            "The first message",
            [
                ("companion's scalar yb", secrets["yb_scalar"]),
                ("companion's share Yb", secrets["yb"]),
                ("head (ADb, AAD)", secrets["adb"]),
                ("K", secrets["k"]),
                ("transcript", transcript_ir.hex()),
                ("ISK's input", (lv_cat(b"CPace255_ISK", raw["sid"], raw["k"]) + transcript_ir).hex()),
                ("ISK", secrets["isk"]),
                ("HKDF's PRK", _extract(raw["isk"]).hex()),
                ("key to device", secrets["key_to_device"]),
                ("key to companion", secrets["key_to_companion"]),
                ("request", first["plaintext"]),
                ("nonce", bytes(12).hex()),
                ("box", message[51:].hex()),
                ("message", message.hex()),
                *_numbered("frame of 20, no.", frames.split(message, 20)[:3]),
                ("its last frame", frames.split(message, 20)[-1].hex()),
                ("in one frame", first["gives"]["frames"][0]),
            ],
        ),
        (
            "The statuses",
            [
                ("token", scenarios.TOKEN.token),
                ("token_ref", token_ref(scenarios.TOKEN.token).hex()),
                *(line for i, step in enumerate(statuses[:4]) for line in _sealed(i, step)),
            ],
        ),
        (
            "A later request, and its answer",
            [
                ("request", later["plaintext"]),
                ("nonce", later["gives"]["counter"].to_bytes(12).hex()),
                ("head (AAD)", later["gives"]["message"][:26]),
                ("message", later["gives"]["message"]),
                *_sealed(4, statuses[4]),
            ],
        ),
    ]
    return "\n".join(f"**{title}**\n\n```text\n{_columns(lines)}```\n" for title, lines in parts)


def _numbered(what: str, octets: list[bytes]) -> list[tuple[str, str]]:
    return [(f"{what} {i}", one.hex()) for i, one in enumerate(octets)]


def _sealed(counter: int, step: dict[str, Any]) -> list[tuple[str, str]]:
    message = step["gives"]["outputs"][0]["send"]
    return [
        (f"{step['given']['status']['is']}", step["plaintext"]),
        ("  nonce", counter.to_bytes(12).hex()),
        ("  head (AAD)", message[:26]),
        ("  message", message),
    ]


def _columns(lines: list[tuple[str, str]]) -> str:
    out = []
    for name, value in lines:
        pieces = textwrap.wrap(value, _WIDTH)
        out.append(f"{name:<24}{pieces[0]}")
        out += [" " * 24 + piece for piece in pieces[1:]]
    return "\n".join(out) + "\n"


def _extract(key: bytes) -> bytes:
    return hmac.digest(b"bletoken/1", key, "sha512")


def _hkdf(key: bytes, info: bytes) -> bytes:
    return hmac.digest(_extract(key), info + b"\x01", "sha512")[:32]


PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "device-states": lambda: _diagram(State.OFFERING, TRANSITIONS[Role.DEVICE]),
    "companion-states": lambda: _diagram(State.START, TRANSITIONS[Role.COMPANION]),
    "journal": lambda: _diagram(redemption.Phase.RECEIVED, redemption.TRANSITIONS),
    "requests": requests,
    "guesses": guesses,
    "example": example,
}
"""Every generated part by its name."""
