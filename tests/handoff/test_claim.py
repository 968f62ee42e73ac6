"""A pre-provisioned device is claimed: over Bluetooth LE, and by its typed claim code; written once for every bench."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from handoff.bench import WAIT_S, Bench, Device, command, until
from handoff.conftest import Clock
from handoff.raw_companion import RawCompanion, ask, connected, name_on_air

from bletoken.mode.device_api import DeviceApi
from bletoken.protocol.wire import (
    Accepted,
    AskStatus,
    Claim,
    Claimable,
    CoarseState,
    Failed,
    FailureCode,
    Idle,
    Provision,
    Provisioned,
    Status,
)
from bletoken.sim.cloud.faults import ErrorAnswer, Fault
from bletoken_peripheral.claiming import ClaimRecord

in_process = pytest.mark.parametrize("bench", ["in-process"], indirect=True)
processes = pytest.mark.parametrize("bench", ["processes"], indirect=True)


async def answer(companion: RawCompanion) -> Status:
    """The answer after those that only say that it goes on."""
    status = await companion.heard()
    while isinstance(status, Accepted):
        status = await companion.heard()
    assert isinstance(status, Status)
    return status


def claim_mode(bench: Bench, device: Device) -> bool:
    """Whether MODE takes a claim of this device now."""
    made = bench.mode.store.device(device.device_id)
    assert made is not None
    return made.claim_expires_ns is not None


def registrations(bench: Bench) -> list[int | None]:
    """What MODE decided about each request to turn a claim mode on or off."""
    return [request.decided for request in bench.mode.log.requests("POST /deviceRegistration")]


@pytest.mark.essential_on("bluez")
@pytest.mark.produces(exit_code=0)
async def test_a_device_is_claimed_and_announces_itself(bench: Bench) -> None:
    device = await bench.pre_provisioned()
    await device.start()
    outcome = await bench.claim(device.label.qr)
    assert outcome.exit_code == 0, outcome
    assert (outcome.device_id, outcome.result["event"]) == (device.device_id, "provisioned")
    assert await bench.devices_in_home() == [device.device_id]
    await device.saw("provisioned")
    assert device.folder.read_claim() == ClaimRecord(device.claim_code, is_claimed=True, was_opened=True)
    assert device.credentials is not None
    assert await bench.accepts(device.credentials)
    assert device.claim_code not in outcome.shown


async def test_a_pin_claims_too(bench: Bench) -> None:
    device = await bench.pre_provisioned()
    await device.start()
    assert device.label.pin is not None
    outcome = await bench.claim(device.label.pin)
    assert (outcome.exit_code, outcome.device_id) == (0, device.device_id), outcome


async def test_a_device_whose_claim_mode_is_on_is_claimed_by_its_typed_code(bench: Bench) -> None:
    device = await bench.pre_provisioned()
    assert device.credentials is not None
    async with DeviceApi(bench.mode.url) as api:
        await api.open_claim_window(device.device_id, device.credentials.api_key, 300)
    await device.start()
    outcome = await bench.claim_typed(device.claim_code)
    assert (outcome.exit_code, outcome.device_id, outcome.result["event"]) == (0, device.device_id, "provisioned")
    await device.saw("provisioned")


@pytest.mark.produces(FailureCode.NOT_ALLOWED, exit_code=19)
async def test_the_right_label_without_an_open_window_is_not_allowed(bench: Bench) -> None:
    device = await bench.pre_provisioned()
    with device.folder.lock() as folder:
        folder.write_claim(ClaimRecord(device.claim_code, was_opened=True))
    await device.start()
    assert device.label.pin is not None
    for code in (device.label.qr, device.label.pin):
        outcome = await bench.claim(code)
        assert outcome.exit_code == 19, outcome
        assert "window is closed" in outcome.message
    assert registrations(bench) == []
    assert not claim_mode(bench, device)


async def test_the_first_window_opens_by_itself_and_no_later_one(bench: Bench) -> None:
    device = await bench.pre_provisioned()
    await device.start()
    # Before the window is open, so that power that comes and goes cannot open it again and again.
    assert device.folder.read_claim() == ClaimRecord(device.claim_code, was_opened=True)
    await device.stop()
    await device.start()
    assert (await bench.claim(device.label.qr)).exit_code == 19
    await open_window(device)
    assert (await bench.claim(device.label.qr)).exit_code == 0


async def test_the_claim_code_goes_to_the_session_that_asked_and_comes_after_modes_confirmation(bench: Bench) -> None:
    device = await bench.pre_provisioned()
    await device.start()
    # MODE has turned it on, and its answer is held back.
    bench.mode.faults.arm("POST /deviceRegistration", Fault(hold="after"))
    async with connected(bench, device.label.qr) as other, connected(bench, device.label.qr) as raw:
        assert isinstance(await other.ask(AskStatus()), Idle)
        first = await raw.ask(Claim(60))
        assert isinstance(first, Accepted)
        await until(lambda: registrations(bench))
        await until(lambda: claim_mode(bench, device))
        bench.mode.faults.clear()
        bench.mode.faults.release()
        claimable = await answer(raw)
        assert isinstance(claimable, Claimable)
        assert claimable.claim_code == device.claim_code
        assert isinstance(await other.ask(AskStatus()), Idle)


async def test_a_duration_out_of_bounds_turns_nothing_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    device = await bench.pre_provisioned()
    await device.start()
    async with connected(bench, device.label.qr) as raw:
        assert isinstance(await raw.ask(AskStatus()), Idle)
        for duration in (0, 59, 901, 65535):
            with monkeypatch.context() as patch:
                patch.setattr(
                    "bletoken.protocol.companion.encode_request",
                    lambda _, d=duration: (
                        bytes([0xA2, 0, 2, 1]) + b"\x19" + d.to_bytes(2)
                        if d > 255
                        else bytes([0xA2, 0, 2, 1]) + (bytes([d]) if d < 24 else bytes([0x18, d]))
                    ),
                )
                failed = await raw.ask(Claim(60))
            assert isinstance(failed, Failed)
            assert failed.code is FailureCode.REQUEST_INVALID
        await raw.send(Claim(60))
        assert isinstance(await answer(raw), Claimable)
    assert len(registrations(bench)) == 1


async def test_a_pre_provisioned_device_takes_no_token(bench: Bench) -> None:
    device = await bench.pre_provisioned()
    await device.start()
    failed = await ask(bench, device.label.qr, Provision("a-token-of-somebody"))
    assert isinstance(failed, Failed)
    assert failed.code is FailureCode.NOT_ALLOWED
    assert (await ask(bench, device.label.qr, AskStatus())) == Idle(0, state=CoarseState.PRE_PROVISIONED)
    assert bench.redemptions == []


@pytest.mark.produces(FailureCode.ALREADY_PROVISIONED, exit_code=11)
async def test_a_device_that_somebody_else_claimed_says_so(bench: Bench) -> None:
    device = await bench.pre_provisioned()
    refused = Fault(error=ErrorAnswer(status=403, reason="DEVICE_ALREADY_IN_HOME"))
    bench.mode.faults.arm("POST /deviceRegistration", refused)
    await device.start()
    outcome = await bench.claim(device.label.qr)
    assert outcome.exit_code == 11, outcome


@pytest.mark.produces(FailureCode.CLAIM_REFUSED, exit_code=29)
async def test_a_key_of_another_device_is_refused_with_modes_reason(bench: Bench) -> None:
    other = await bench.pre_provisioned("other")
    device = await bench.pre_provisioned()
    assert other.credentials is not None
    assert device.credentials is not None
    with device.folder.lock() as folder:
        folder.write_credentials(replace(device.credentials, api_key=other.credentials.api_key))
    await device.start()
    outcome = await bench.claim(device.label.qr)
    assert outcome.exit_code == 29, outcome
    assert "MATCHING_DEVICE_ONLY" in outcome.message


@pytest.mark.produces(FailureCode.CREDENTIALS_REFUSED, exit_code=21)
async def test_a_device_that_mode_does_not_know_any_more_says_so(bench: Bench) -> None:
    device = await bench.pre_provisioned()
    await device.start()
    unknown = Fault(error=ErrorAnswer(status=401, reason="UNAUTHENTICATED_CLIENT"))
    bench.mode.faults.arm("POST /deviceRegistration", unknown)
    outcome = await bench.claim(device.label.qr)
    assert outcome.exit_code == 21, outcome


@pytest.mark.produces(exit_code=26)
async def test_a_claim_mode_that_has_ended_is_told_as_such(bench: Bench) -> None:
    device = await bench.pre_provisioned()
    await device.start()
    gone = Fault(error=ErrorAnswer(status=403, reason="DEVICE_NOT_CLAIMABLE"))
    bench.mode.faults.arm("POST /devices", gone)
    answer_with_past = '{"claimExpirationTime": "2020-01-01T00:00:00.000000000Z"}'
    bench.mode.faults.arm(
        "POST /deviceRegistration",
        Fault(error=ErrorAnswer(status=200, body=answer_with_past, content_type="application/json", when="after")),
    )
    outcome = await bench.claim(device.label.qr)
    assert outcome.exit_code == 26, outcome


@pytest.mark.produces(exit_code=27)
async def test_a_typed_code_of_a_device_whose_claim_mode_is_off_or_off_again(bench: Bench) -> None:
    device = await bench.pre_provisioned()
    never = await bench.claim_typed(device.claim_code)
    assert never.exit_code == 27, never
    assert device.credentials is not None
    async with DeviceApi(bench.mode.url) as api:
        await api.open_claim_window(device.device_id, device.credentials.api_key, 300)
        await api.close_claim_window(device.device_id, device.credentials.api_key)
    off_again = await bench.claim_typed(device.claim_code)
    assert off_again.exit_code == 27, off_again


@pytest.mark.produces(exit_code=28)
async def test_a_wrong_claim_code_is_refused(bench: Bench) -> None:
    await bench.pre_provisioned()
    outcome = await bench.claim_typed("not-the-code-of-any-device")
    assert outcome.exit_code == 28, outcome
    assert "not-the-code" not in outcome.message


async def test_a_device_in_a_home_is_not_claimed_again_by_its_typed_code(bench: Bench) -> None:
    device = await bench.pre_provisioned()
    await device.start()
    assert (await bench.claim(device.label.qr)).exit_code == 0
    again = await bench.claim_typed(device.claim_code)
    assert again.exit_code == 11, again
    await device.saw("provisioned")
    over_the_air = await bench.claim(device.label.qr)
    assert over_the_air.exit_code == 11, over_the_air
    assert await ask(bench, device.label.qr, AskStatus()) == Provisioned(0, device_id=device.device_id)


@pytest.mark.produces(exit_code=30)
async def test_without_on_demand_provisioning_there_is_no_token_and_the_message_says_where_to_look(
    bench: Bench,
) -> None:
    await bench.sim("/_sim/seed", {"onDemand": False})
    device = bench.device()
    await device.start()
    outcome = await bench.provision(device.label.qr)
    assert outcome.exit_code == 30, outcome
    assert "PERMISSION_DENIED" in outcome.message


async def test_each_mechanism_says_so_when_the_other_is_the_devices(bench: Bench) -> None:
    ahead = await bench.pre_provisioned("ahead")
    await ahead.start()
    token = await bench.push(ahead.label.qr, "a-token-of-somebody")
    assert (token.exit_code, "is pre-provisioned" in token.message) == (19, True), token
    await ahead.stop()
    device = bench.device()
    await device.start()
    claim = await bench.claim(device.label.qr)
    assert (claim.exit_code, "by token" in claim.message) == (19, True), claim


async def test_nothing_is_turned_on_for_one_who_cannot_claim(bench: Bench) -> None:
    device = await bench.pre_provisioned()
    await device.start()
    bench.seed["homeId"] += 1
    outcome = await bench.claim(device.label.qr)
    assert outcome.exit_code == 16, outcome
    assert registrations(bench) == []


@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_answer_of_mode_to_the_device_that_gets_lost_is_asked_for_again(bench: Bench, when: str) -> None:
    device = await bench.pre_provisioned()
    await device.start()
    bench.mode.faults.arm("POST /deviceRegistration", Fault(drop=when, count=1))  # type: ignore[arg-type]
    outcome = await bench.claim(device.label.qr)
    assert (outcome.exit_code, outcome.device_id) == (0, device.device_id), outcome


@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_answer_of_mode_to_the_companion_that_gets_lost_is_asked_for_again(bench: Bench, when: str) -> None:
    device = await bench.pre_provisioned()
    await device.start()
    bench.mode.faults.arm("POST /devices", Fault(drop=when, count=1))  # type: ignore[arg-type]
    outcome = await bench.claim(device.label.qr)
    assert (outcome.exit_code, outcome.device_id) == (0, device.device_id), outcome
    assert await bench.devices_in_home() == [device.device_id]


@pytest.mark.produces(FailureCode.CLOUD_UNREACHABLE, exit_code=7)
async def test_a_device_that_cannot_reach_mode_says_so_and_nothing_was_turned_on(bench: Bench) -> None:
    device = await bench.pre_provisioned(retry_s=1, mode_url="http://127.0.0.1:9")
    assert device.credentials is not None
    with device.folder.lock() as folder:
        folder.write_credentials(replace(device.credentials, mode_url="http://127.0.0.1:9"))
    await device.start()
    outcome = await bench.claim(device.label.qr)
    assert outcome.exit_code == 7, outcome
    assert registrations(bench) == []


@processes
async def test_a_device_killed_after_it_was_claimed_announces_itself_at_its_next_start(bench: Bench) -> None:
    device = await bench.pre_provisioned()
    await device.start()
    async with connected(bench, device.label.qr) as raw:
        await raw.send(Claim(300))
        assert isinstance(await answer(raw), Claimable)
    await device.kill()
    home = {"homeId": bench.seed["homeId"], "claimCode": device.claim_code}
    (await bench.ask_mode("POST", "/devices", bench.seed["userKey"], home)).raise_for_status()
    assert device.folder.read_claim() == ClaimRecord(device.claim_code, was_opened=True)
    await device.start()
    await device.saw("provisioned")
    assert device.folder.read_claim() == ClaimRecord(device.claim_code, is_claimed=True, was_opened=True)
    assert len(bench.mode.log.requests("PUT /devices/{id}/event")) == 1


async def test_a_device_taken_out_of_its_home_can_be_claimed_again_once_its_window_is_opened(bench: Bench) -> None:
    device = await bench.pre_provisioned()
    await device.start()
    assert (await bench.claim(device.label.qr)).exit_code == 0
    await device.saw("provisioned")
    (await bench.ask_mode("DELETE", f"/devices/{device.device_id}", bench.seed["userKey"])).raise_for_status()
    await device.stop()
    await device.start()
    await device.saw("in no home any more")
    assert (await bench.claim(device.label.qr)).exit_code == 19
    await open_window(device)
    outcome = await bench.claim(device.label.qr)
    assert (outcome.exit_code, outcome.device_id) == (0, device.device_id), outcome


async def test_the_advert_says_that_a_device_can_be_claimed_and_then_that_it_is_provisioned(bench: Bench) -> None:
    device = await bench.pre_provisioned()
    await device.start()
    name = await name_on_air(bench)
    assert name.startswith("bletoken-1c-")
    assert (await bench.claim(device.label.qr)).exit_code == 0
    await device.saw("provisioned")
    async with asyncio.timeout(WAIT_S):
        while not name.startswith("bletoken-1p-"):
            name = await name_on_air(bench)


# Time ---------------------------------------------------------------------------------------------------------------


@in_process
async def test_a_claim_mode_that_ends_unused_is_noticed_and_can_be_turned_on_again(bench: Bench, clock: Clock) -> None:
    device = await bench.pre_provisioned()
    await device.start()
    async with connected(bench, device.label.qr) as raw:
        await raw.send(Claim(60))
        assert isinstance(await answer(raw), Claimable)
        clock.ahead_s += 60
        await device.saw("claim mode ended")
        await raw.send(Claim(60))
        assert isinstance(await answer(raw), Claimable)
    assert (await bench.claim(device.label.qr)).exit_code == 0


@in_process
async def test_who_asks_while_mode_is_being_asked_is_answered_too(bench: Bench) -> None:
    device = await bench.pre_provisioned()
    await device.start()
    bench.mode.faults.arm("POST /deviceRegistration", Fault(hold="after"))
    async with connected(bench, device.label.qr) as first, connected(bench, device.label.qr) as second:
        await first.send(Claim(60))
        await until(lambda: registrations(bench))
        await second.send(Claim(900))
        assert isinstance(await second.heard(), Accepted)
        bench.mode.faults.clear()
        bench.mode.faults.release()
        one, other = await answer(first), await answer(second)
    assert isinstance(one, Claimable)
    assert isinstance(other, Claimable)
    assert other.until - one.until > 800, "each gets what it asked for"


@in_process
async def test_a_companion_that_left_is_not_waited_for(bench: Bench) -> None:
    device = await bench.pre_provisioned()
    await device.start()
    bench.mode.faults.arm("POST /deviceRegistration", Fault(error=ErrorAnswer(status=503)))
    async with connected(bench, device.label.qr) as raw:
        await raw.send(Claim(60))
        await device.saw("waiting for MODE")
    await device.saw("companion left")
    bench.mode.faults.clear()
    assert (await bench.claim(device.label.qr)).exit_code == 0


# On the device alone ------------------------------------------------------------------------------------------------


@processes
async def test_a_button_turns_the_claim_mode_on_and_off_and_the_running_device_follows(bench: Bench) -> None:
    device = await bench.pre_provisioned()
    await device.start()
    status, said = await command(device, "claim", "--duration-s", "120")
    assert (status, said["claimable"]) == (0, True), said
    assert device.claim_code not in json.dumps(said)
    assert claim_mode(bench, device)
    await device.saw("claim mode on")
    assert 0 < (await command(device, "status"))[1]["claim_mode_s"] <= 120
    status, said = await command(device, "claim", "--off")
    assert (status, said["claimable"]) == (0, False)
    assert not claim_mode(bench, device)
    await device.saw("claim mode off")
    assert (await command(device, "status"))[1]["claim_mode_s"] == 0
    assert (await bench.claim_typed(device.claim_code)).exit_code == 27


@processes
async def test_the_button_needs_no_running_device_and_waits_for_the_claim_if_asked(bench: Bench) -> None:
    device = await bench.pre_provisioned()
    waiting = asyncio.create_task(command(device, "claim", "--wait"))
    await until(lambda: claim_mode(bench, device))
    # Without a running device nobody announces it.
    home = {"homeId": bench.seed["homeId"], "claimCode": device.claim_code}
    (await bench.ask_mode("POST", "/devices", bench.seed["userKey"], home)).raise_for_status()
    status, said = await waiting
    assert (status, said["home_id"]) == (0, bench.seed["homeId"])


@processes
async def test_the_button_says_what_mode_has_against_it(bench: Bench) -> None:
    device = await bench.pre_provisioned()
    other = await bench.pre_provisioned("other")
    own = device.credentials
    assert own is not None
    assert other.credentials is not None
    with device.folder.lock() as folder:
        folder.write_credentials(replace(own, api_key=other.credentials.api_key))
    status, said = await command(device, "claim")
    assert (status, "MATCHING_DEVICE_ONLY" in said["message"]) == (29, True), said
    with device.folder.lock() as folder:
        folder.write_credentials(replace(own, api_key="v1.nobodys-key"))
    assert (await command(device, "claim"))[0] == 21
    with device.folder.lock() as folder:
        folder.write_credentials(own)
    assert (await command(device, "claim"))[0] == 0
    assert (await bench.claim_typed(device.claim_code)).exit_code == 0
    status, said = await command(device, "claim")
    assert status == 11, said


@processes
async def test_a_device_put_up_with_init_is_claimed(bench: Bench, tmp_path: Path) -> None:
    await bench.sim("/_sim/seed", {"onDemand": False})
    made = await bench.sim("/_sim/devices", {"deviceClass": bench.seed["deviceClass"]})
    device = bench.device()
    (tmp_path / "key").write_text(made["apiKey"])
    (tmp_path / "claim-code").write_text(made["claimCode"])
    keys = ["--api-key-file", str(tmp_path / "key"), "--claim-code-file", str(tmp_path / "claim-code")]
    status, _ = await command(device, "init", "--device-id", str(made["id"]), *keys)
    assert status == 0
    await device.start()
    outcome = await bench.claim(device.label.qr)
    assert (outcome.exit_code, outcome.device_id) == (0, made["id"]), outcome


async def open_window(device: Device) -> None:
    """Press the device's button."""
    from bletoken_peripheral import control

    await asyncio.to_thread(control.ask, device.folder.path, control.Command.OPEN)


def test_the_record_does_not_show_its_claim_code(tmp_path: Path) -> None:
    assert "secret-code" not in repr(ClaimRecord("secret-code"))
