import dataclasses
import re
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
from vectors.maker import document, notation

from bletoken.errors import SetupCodeError
from bletoken.protocol import cbor, device, frames, guesses, wire
from bletoken.protocol.cbor import Between, MapOf, Octets, OneOf, SetOf, Text, UInt
from bletoken.protocol.guesses import GuessRecord
from bletoken.protocol.requests import GRANTED
from bletoken.protocol.setup_code import _DAMM, Method, Pin, QrSecret
from bletoken.protocol.states import TRANSITIONS, Role
from bletoken.protocol.wire import Action, ClearCode, CoarseState, FailureCode
from bletoken_peripheral import redemption

ROOT = Path(__file__).parents[3]
PROTOCOL = (ROOT / "PROTOCOL.md").read_text(encoding="utf-8")
PARTS = document.parts_of(PROTOCOL)
FLAT = " ".join(PROTOCOL.split())


# Generated parts ----------------------------------------------------------------------------------------------------


def test_every_generated_part_is_what_the_code_gives() -> None:
    assert document.filled_in(PROTOCOL) == PROTOCOL, "if it is meant: scripts/vectors"


def test_every_part_that_can_be_generated_stands_in_the_document() -> None:
    assert set(PARTS) == set(document.PARTS)
    assert PROTOCOL.count("<!-- generated: ") == PROTOCOL.count("<!-- end of ") == len(document.PARTS)


def edges(part: str) -> set[tuple[str, str, str]]:
    """The labelled edges of a Mermaid diagram, aliases resolved."""
    names = {alias: name for name, alias in re.findall(r'state "([^"]+)" as (\w+)', part)}
    found = re.findall(r"^ +(\w+) --> (\w+): (.+)$", part, re.MULTILINE)
    return {(names.get(a, a), names.get(b, b), label) for a, b, label in found}


@pytest.mark.parametrize(
    ("part", "table"),
    [
        ("device-states", TRANSITIONS[Role.DEVICE]),
        ("companion-states", TRANSITIONS[Role.COMPANION]),
        ("journal", redemption.TRANSITIONS),
    ],
)
def test_a_diagram_has_exactly_the_edges_of_its_table(part: str, table: Any) -> None:
    expected = {(a.value, b.value, event.value) for a, row in table.items() for event, b in row.items()}
    assert edges(PARTS[part]) == expected
    ends = set(re.findall(r"(\w+) --> \[\*\]", PARTS[part]))
    assert {end.replace("_", "-") for end in ends} == {state.value for state, row in table.items() if not row}


def rows(text: str) -> list[list[str]]:
    """The cells of every table row in a piece of the document, without backquotes."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_requests_says_who_may_ask_for_what() -> None:
    head, *body = rows(PARTS["requests"])
    states = [notation.member(CoarseState, name) for name in head[1:]]
    said = {
        (notation.member(Action, action), state, method)
        for action, *cells in body
        for state, cell in zip(states, cells, strict=True)
        for method in Method
        if method.name in cell.split(", ")
    }
    assert said == {(action, s, m) for action, (granted, methods) in GRANTED.items() for s in granted for m in methods}


# Tables by hand -----------------------------------------------------------------------------------------------------


def section(number: int) -> str:
    found = re.search(rf"^## {number}\. .*?(?=^## )", PROTOCOL, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[0]


def numbered(text: str) -> list[tuple[int, str]]:
    return [(int(row[0]), row[1]) for row in rows(text) if row[0].isdigit()]


def members(enum: type[IntEnum]) -> list[tuple[int, str]]:
    return [(int(member), notation.name_of(member)) for member in enum]


def test_every_number_has_the_name_it_has_in_the_code() -> None:
    assert numbered(section(12)) == members(ClearCode)
    assert numbered(section(13)) == [*members(Action), *members(CoarseState)]
    kinds = [(kind, notation.NAMES[cls]) for kind, cls in wire._STATUSES.items()]
    assert numbered(section(14)) == [*kinds, *members(FailureCode)]


def test_the_letters_of_the_states_are_the_codes() -> None:
    letters = {row[1]: row[2] for row in rows(section(13)) if len(row) == 4 and row[0].isdigit()}
    assert letters == {notation.name_of(state): state.letter for state in CoarseState}
    for state in CoarseState:
        assert f"`{state.letter}` {notation.name_of(state)}" in " ".join(section(3).split())


def test_every_phase_of_the_journal_has_its_row() -> None:
    assert [row[0] for row in rows(section(17))][1:] == [phase.value for phase in redemption.Phase]


def test_the_uuids_are_the_codes() -> None:
    found = {row[0]: row[1] for row in rows(section(4))}
    assert (found["HELLO"], found["TOKEN"], found["STATUS"]) == (wire.HELLO_UUID, wire.TOKEN_UUID, wire.STATUS_UUID)
    assert f"Primary service `{wire.SERVICE_UUID}`" in section(4)


LIMITS = {
    "HELLO": f"{wire.LARGEST_HELLO} octets",
    "message": f"{frames.LARGEST_MESSAGE} octets",
    "frame": f"{frames.SMALLEST_FRAME} to {frames.LARGEST_FRAME} octets",
    "frames of a message": f"{frames._FRAME_TIMEOUT_S} s from one to the next, {frames.MESSAGE_TIMEOUT_S} s in all",
    "token": f"{wire.LONGEST_TOKEN} characters",
    "reason": f"{wire.LONGEST_REASON} octets",
    "device class": f"{wire.LONGEST_CLASS} octets",
    "claim code": f"{wire.LONGEST_CLAIM_CODE} characters",
    "wait in a clear status": f"{wire.LONGEST_WAIT_S} s",
    "live offers and sessions of unnamed peers": str(device._SHARED_LIMIT),
    "connection without an authentic message": f"{device.AUTHENTICATION_TIMEOUT_S} s",
    "the same, while a message makes progress": (
        f"until its frames time out, at most {device.AUTHENTICATION_TIMEOUT_S + frames.MESSAGE_TIMEOUT_S} s"
    ),
    "wrong PINs": str(guesses.STOP_AT),
    "runs for each typing of a PIN": "3",
    "claim mode": f"{wire.SHORTEST_CLAIM_S} to {wire.LONGEST_CLAIM_S} s",
    "window, waiting for an owner": "900 s",
    "window, after announcing": "600 s",
}


def test_the_limits_are_the_codes() -> None:
    assert {row[0]: row[1] for row in rows(section(19))[1:]} == LIMITS


def test_the_windows_are_the_configurations_defaults() -> None:
    from bletoken_peripheral.config import Config

    config = Config(device_class="lamp")
    assert LIMITS["window, waiting for an owner"] == f"{config.window_s} s"
    assert LIMITS["window, after announcing"] == f"{config.announced_window_s} s"
    assert f"or {config.retry_s} s, whichever is less" in section(17)


def test_the_companions_waits_are_the_codes() -> None:
    from bletoken_central.handoff import Limits

    limits = Limits()
    assert LIMITS["runs for each typing of a PIN"] == str(limits.unanswered_pins)
    said = f"{limits.answer_s} s for the first answer, {limits.silence_s} s between later ones, {limits.total_s} s"
    assert f"{said} and {limits.attempts} connections in all" in section(16)


def test_the_quasigroup_in_the_document_is_the_codes() -> None:
    assert tuple(row for _, row in sorted(re.findall(r"(\d): (\d{10})", section(2)))) == _DAMM


# Numbers ------------------------------------------------------------------------------------------------------------


def test_the_odds_in_the_document_follow_from_the_code() -> None:
    trivial = {part * (8 // len(part)) for part in (f"{n:04}" for n in range(10_000))} | {
        "".join(str((first + step * i) % 10) for i in range(8)) for first in range(10) for step in range(10)
    }
    for digits in trivial:
        with pytest.raises(SetupCodeError):
            Pin(digits)
    pins = 10**8 - len(trivial)
    assert f"{len(trivial):,} in all".replace(",", " ") in FLAT
    assert f"one of {pins:,}.".replace(",", " ") in FLAT
    assert f"{guesses.STOP_AT / pins:.0e}" == "2e-07"
    assert "20 in the life of a device: 2e-7" in FLAT
    assert f"{3 / pins:.0e}" == "3e-08"
    assert "3 for each typing: 3e-8" in FLAT


def test_the_time_until_the_pin_stops_follows_from_the_code() -> None:
    total = sum(GuessRecord(failures, 0).wait_s(0) for failures in range(guesses.STOP_AT))
    assert f"{total:,.0f} s in all until the PIN stops".replace(",", " ") in FLAT


def test_the_padding_in_the_document_fills_one_block() -> None:
    for code, padding in ((QrSecret(bytes(16)), 87), (Pin("27182845"), 94)):
        assert 9 + 1 + len(code.password) + 1 + padding == 128
    assert "(87 for QR, 94 for PIN)" in PROTOCOL


# CDDL ---------------------------------------------------------------------------------------------------------------

(CDDL,) = re.findall(r"```cddl\n(.*?)```", PROTOCOL, re.DOTALL)

MAPS: dict[str, str] = dict(re.findall(r"^([a-z-]+) = \{\n(.*?)^\}", CDDL, re.MULTILINE | re.DOTALL))
TYPES: dict[str, str] = dict(re.findall(r"^([a-z0-9-]+) = (?!\{\n)(?!&)(.+)$", CDDL, re.MULTILINE))
ENUMS: dict[str, str] = dict(re.findall(r"^([a-z-]+) = &\(\n(.*?)^\)", CDDL, re.MULTILINE | re.DOTALL))

CALLED = {"hello": "offer", "ask-status": "status"}
"""What the CDDL calls otherwise, because it calls other things so."""

ENUM_CLASSES: dict[str, type[IntEnum]] = {
    "coarse-state": CoarseState,
    "clear-code": ClearCode,
    "failure-code": FailureCode,
}


def kind_of(name: str) -> object:
    """The `Kind` that a type of the CDDL is."""
    if name in ENUMS:
        return OneOf(ENUM_CLASSES[name])
    definition = TYPES[name]
    patterns: tuple[tuple[str, Any], ...] = (
        (r"uint \.size (\d+)", lambda size: UInt(8 * int(size))),
        (r"(\d+)\.\.(\d+)", lambda least, most: Between(int(least), int(most))),
        (r"bstr \.size (\d+)", lambda size: Octets(int(size))),
        (r"tstr \.size \(0\.\.(\d+)\)", lambda size: Text(int(size))),
        (r'tstr \.regexp "\[!-~\]\{1,(\d+)\}"', lambda size: Text(int(size), ascii_only=True)),
        (r"\[1\*(\d+) uint8\]", lambda most: SetOf(int(most))),
        (r"\{1\*(\d+) uint8 => (\w+)\}", lambda most, value: MapOf(kind_of(value).size, int(most))),  # type: ignore[attr-defined]
    )
    for pattern, make in patterns:
        if found := re.fullmatch(pattern, definition):
            return make(*found.groups())
    raise AssertionError(f"{name} = {definition}")


_FIELD = re.compile(r"^  (\? )?(\d+): ([\w-]+)(?: \.default (\S+))?, +; (\w+)$", re.MULTILINE)


def fields_of(body: str) -> list[tuple[str, int, object, object]]:
    """Name, key, kind and default of each field of a map, as the CDDL says."""
    found = _FIELD.findall(body)
    return [(name, int(key), kind_of(kind), default_of(mark, value)) for mark, key, kind, value, name in found]


def default_of(mark: str, value: str) -> object:
    if not mark:
        return dataclasses.MISSING
    if not value:
        return None
    return value.strip('"') if value.startswith('"') else int(value)


@pytest.mark.parametrize("name", MAPS)
def test_every_field_key_bound_and_default_of_the_cddl_is_the_codes(name: str) -> None:
    cls = notation.CLASSES[CALLED.get(name, name)]
    fields = cbor._fields(cls)
    assert fields_of(MAPS[name]) == [(f.name, f.key, f.kind, f.default) for f in fields]
    assert MAPS[name].endswith("  * int => unknown,\n")
    lines = len(MAPS[name].splitlines())
    assert lines == len(fields) + 1 + (name not in ("hello", "clear-status"))


@pytest.mark.parametrize(("union", "classes"), [("request", wire._REQUESTS), ("status", wire._STATUSES)])
def test_every_kind_of_the_cddl_has_the_codes_number(union: str, classes: dict[int, type]) -> None:
    kinds = {int(re.match(r"  0: (\d+),\n", MAPS[name])[1]): name for name in TYPES[union].split(" / ")}  # type: ignore[index]
    assert kinds == {kind: {"status": "ask-status"}.get(n := notation.NAMES[cls], n) for kind, cls in classes.items()}


def test_every_message_stands_in_the_cddl() -> None:
    assert {CALLED.get(name, name) for name in MAPS} == set(notation.CLASSES)


@pytest.mark.parametrize(("name", "enum"), ENUM_CLASSES.items())
def test_every_enumeration_of_the_cddl_is_the_codes(name: str, enum: type[IntEnum]) -> None:
    found = re.findall(r"^  ([a-z-]+): (\d+),$", ENUMS[name], re.MULTILINE)
    assert [(int(number), member) for member, number in found] == members(enum)


def test_everything_the_cddl_names_it_defines() -> None:
    defined = {*MAPS, *TYPES, *ENUMS}
    assert set(ENUMS) == set(ENUM_CLASSES)
    used = set(re.findall(r"(?:=>|\d:) ([a-z][\w-]+)", CDDL)) | {
        n for u in ("request", "status") for n in TYPES[u].split(" / ")
    }
    assert used - {"int"} <= defined
    assert CDDL.count(" = ") == len(MAPS) + len(TYPES) + len(ENUMS)
