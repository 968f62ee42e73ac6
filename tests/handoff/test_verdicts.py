"""Whatever a device says shows at the companion as a message and an exit code of its own."""

import secrets

import pytest
from handoff.bench import Bench
from handoff.scripted import ScriptedDevice

from bletoken.protocol.setup_code import Label
from bletoken.protocol.wire import Accepted, ClearCode, Failed, FailureCode, Provisioned, Redeeming, Status, Stored

FAILURES = {
    FailureCode.TOKEN_REFUSED: (6, "refused the provisioning token: WHY"),
    FailureCode.TOKEN_EXPIRED: (6, "expired"),
    FailureCode.CLOUD_UNREACHABLE: (7, "cannot reach MODE"),
    FailureCode.CLOUD_ERROR: (16, "come back later"),
    FailureCode.CLOCK_WRONG: (18, "clock is wrong"),
    FailureCode.STORAGE_FAILED: (15, "cannot store"),
    FailureCode.BUSY: (10, "another token"),
    FailureCode.ALREADY_PROVISIONED: (11, "provisioned already"),
    FailureCode.NOT_ALLOWED: (19, "does not allow"),
    FailureCode.OUTCOME_UNKNOWN: (8, "no usable answer"),
    FailureCode.CREDENTIALS_REFUSED: (21, "does not accept the device's key"),
    FailureCode.CLAIM_REFUSED: (29, "turn its claim mode on: WHY"),
    FailureCode.REQUEST_INVALID: (12, "could not read the request"),
}
CLEAR = {
    ClearCode.STALE_OFFER: (14, "another offer"),
    ClearCode.MALFORMED: (12, "could not read the message"),
    ClearCode.TOO_LARGE: (12, "could not read the message"),
    ClearCode.UNSUPPORTED_VERSION: (13, "version"),
    ClearCode.LOCKED: (5, "for 7 s"),
    ClearCode.BUSY: (10, "busy"),
    ClearCode.NOT_AUTHENTIC: (4, "does not accept this setup code"),
    ClearCode.STORAGE_FAILED: (15, "cannot write"),
}


def params(table: dict[FailureCode, tuple[int, str]] | dict[ClearCode, tuple[int, str]], enum: type) -> list[object]:
    # Over the code's own enum, so that a new member without a row fails.
    return [
        pytest.param(code, marks=pytest.mark.produces(code, exit_code=table[code][0]), id=code.name.lower())
        for code in enum
    ]


@pytest.mark.parametrize("code", params(FAILURES, FailureCode))
async def test_each_authentic_failure_has_its_message_and_exit_code(bench: Bench, code: FailureCode) -> None:
    def fail(re: int, reference: bytes) -> list[Status]:
        no_token = code in (FailureCode.NOT_ALLOWED, FailureCode.REQUEST_INVALID)
        return [Failed(re, None if no_token else reference, code=code, reason="WHY")]

    label = Label.generate(secrets.token_bytes, with_pin=False)
    async with ScriptedDevice(label, script=fail).on_air(bench.device_radio):
        outcome = await bench.push(label.qr, "token")
    assert (outcome.exit_code, FAILURES[code][1] in outcome.message) == (FAILURES[code][0], True), outcome


@pytest.mark.parametrize("code", params(CLEAR, ClearCode))
async def test_each_clear_status_has_its_message_and_exit_code(bench: Bench, code: ClearCode) -> None:
    label = Label.generate(secrets.token_bytes, with_pin=False)
    async with ScriptedDevice(label, clear=code).on_air(bench.device_radio):
        outcome = await bench.push(label.qr, "token")
    assert (outcome.exit_code, CLEAR[code][1] in outcome.message) == (CLEAR[code][0], True), outcome


@pytest.mark.parametrize("bench", ["processes"], indirect=True)
async def test_hostile_reasons_reach_the_screen_as_bounded_printable_text(bench: Bench) -> None:
    def fail(re: int, reference: bytes) -> list[Status]:
        return [Failed(re, reference, code=FailureCode.TOKEN_REFUSED, reason="\x1b[2J\u202egnp.exe\r\n" + "x" * 40)]

    label = Label.generate(secrets.token_bytes, with_pin=False)
    async with ScriptedDevice(label, script=fail).on_air(bench.device_radio):
        outcome = await bench.push(label.qr, "token")
    assert outcome.exit_code == 6
    assert "gnp.exe" in outcome.shown
    assert outcome.shown.isprintable()


async def test_what_speaks_of_another_token_is_no_success(bench: Bench) -> None:
    def mixed_up(re: int, reference: bytes) -> list[Status]:
        return [Provisioned(re, bytes(16), device_id=666), Provisioned(re, None, device_id=667)]

    label = Label.generate(secrets.token_bytes, with_pin=False)
    async with ScriptedDevice(label, script=mixed_up).on_air(bench.device_radio):
        outcome = await bench.push(label.qr, "token", total_s=3)
    assert outcome.exit_code == 20, outcome


@pytest.mark.produces(exit_code=22)
async def test_a_device_that_lies_about_the_home_is_found_out(bench: Bench) -> None:
    def lie(re: int, reference: bytes) -> list[Status]:
        return [
            Accepted(re, reference),
            Redeeming(re, reference),
            Stored(re, reference),
            Provisioned(re, reference, device_id=4711),
        ]

    label = Label.generate(secrets.token_bytes, with_pin=False)
    async with ScriptedDevice(label, script=lie).on_air(bench.device_radio):
        outcome = await bench.provision(label.qr)
    assert outcome.exit_code == 22, outcome
    assert "4711" in outcome.message
