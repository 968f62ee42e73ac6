"""What the companion does beyond handing a token over: recover, choose, ask, sign in."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from handoff.bench import Bench, InProcess, open_bench, until

from bletoken import errors
from bletoken.errors import LinkLostError
from bletoken.mode.models import Device as ModeDevice
from bletoken.mode.models import ProvisioningToken
from bletoken.mode.user_api import UserApi
from bletoken.protocol.setup_code import Pin, SetupCode
from bletoken.protocol.wire import CoarseState, Failed, FailureCode, Idle, Provisioned
from bletoken.sim.cloud.faults import ErrorAnswer, Fault
from bletoken_central.handoff import Limits, Progress, Step, Token
from bletoken_central.link import Link
from bletoken_central.onboarding import Companion
from bletoken_central.provisioning import Onboarded
from bletoken_central.recovery import Note, Notes
from bletoken_peripheral.redeemer import Redeemer


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(InProcess(), tmp_path) as opened:
        yield opened


def companion(bench: Bench, **options: object) -> Companion:
    return Companion(
        bench.companion_radio,
        session_key=bench.seed["userKey"],
        mode_url=bench.mode.url,
        notes=bench.path / "notes",
        **options,  # type: ignore[arg-type] # whatever Companion takes
    )


async def test_the_outcome_is_told_while_the_connection_still_lasts(alone: Bench) -> None:
    device = alone.device()
    await device.start()
    ended: list[int | None] = []

    def report(progress: Progress) -> None:
        if progress.step is Step.PROVISIONED:
            ended.append(alone.hub.link.connections[-1].end_reason)

    async with companion(alone, report=report) as c:
        await c.push(device.label.qr, Token(await alone.token()))
    assert ended == [None]


# Recovery -----------------------------------------------------------------------------------------------------------


async def test_an_orphan_is_removed_and_one_device_ends_up_in_the_home_unaided(bench: Bench) -> None:
    device = bench.device()
    await device.start()
    other = await bench.client.post("/devices", json={"token": await bench.token()})
    other_id = other.raise_for_status().json()["id"]
    bench.mode.faults.arm("POST /devices", Fault(drop="after", count=1))
    outcome = await bench.provision(device.label.qr)
    assert outcome.exit_code == 0, outcome
    assert bench.redemptions == [201, 201, 201]
    assert await bench.devices_in_home() == [other_id, outcome.device_id]
    assert device.credentials is not None
    assert await bench.accepts(device.credentials)
    assert "recovering" in outcome.steps


@pytest.mark.bench(tag_echoed=False)
async def test_with_a_tag_that_mode_does_not_echo_nothing_is_removed_and_the_person_is_told(bench: Bench) -> None:
    device = bench.device()
    await device.start()
    bench.mode.faults.arm("POST /devices", Fault(drop="after", count=1))
    outcome = await bench.provision(device.label.qr)
    assert outcome.exit_code == 8, outcome
    [orphan] = await bench.devices_in_home()
    assert str(orphan) in outcome.message
    assert "nothing was removed" in outcome.message


async def test_the_person_can_say_which_device_may_be_removed(tmp_path: Path) -> None:
    async with open_bench(InProcess(), tmp_path, tag_echoed=False) as bench:
        device = bench.device()
        await device.start()
        bench.mode.faults.arm("POST /devices", Fault(drop="after", count=1))
        asked: list[list[int]] = []

        async def choose(devices: Sequence[ModeDevice]) -> int | None:
            asked.append([d.id for d in devices])
            return devices[0].id

        async with companion(bench, choose=choose) as c:
            done = await c.provision(device.label.qr, device_class=bench.seed["deviceClass"])
        assert len(asked) == 1
        assert await bench.devices_in_home() == [done.device_id]


async def test_an_outcome_that_was_not_told_authentically_removes_nothing(alone: Bench) -> None:
    device = alone.device()
    await device.start()
    alone.mode.faults.arm("POST /devices", Fault(hold="after"))

    async def provision() -> Onboarded:
        async with companion(alone, limits=Limits(total_s=6)) as c:
            return await c.provision(device.label.qr, device_class=alone.seed["deviceClass"])

    with pytest.raises(errors.HandoffTimeoutError):
        await provision()
    assert len(await alone.devices_in_home()) == 1
    alone.mode.faults.clear()
    alone.mode.faults.release()


async def test_recovery_ends_after_two_tries(alone: Bench) -> None:
    device = alone.device()
    await device.start()
    alone.mode.faults.arm("POST /devices", Fault(drop="after"))
    async with companion(alone) as c:
        with pytest.raises(errors.OutcomeUnknownError):
            await c.provision(device.label.qr, device_class=alone.seed["deviceClass"])
    assert alone.redemptions == [201, 201, 201]
    assert await alone.devices_in_home() == []


PASSING = {
    "before the token": ("GET /devices", 0),
    "the token": ("POST /homes/{id}/deviceProvisioning", 0),
    "recovering": ("GET /devices", 1),
    "removing": ("DELETE /devices/{id}", 0),
    "in the home": ("GET /devices", 3),
}
"""Which request of a `provision` that has to recover gets no answer: the endpoint, and how many of its requests do."""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("request_of", PASSING)
async def test_what_may_be_asked_again_is_asked_again_when_no_answer_comes(
    alone: Bench, request_of: str, when: Any
) -> None:
    device = alone.device()
    await device.start()
    endpoint, answered = PASSING[request_of]
    alone.mode.faults.arm("POST /devices", Fault(drop="after", count=1))
    good = [Fault(count=answered)] if answered else []
    alone.mode.faults.arm(endpoint, *good, Fault(drop=when, count=1))
    outcome = await alone.provision(device.label.qr)
    assert outcome.exit_code == 0, outcome
    assert await alone.devices_in_home() == [outcome.device_id]
    dropped = [request for request in alone.mode.log.requests(endpoint) if request.fault == "drop"]
    assert len(dropped) == 1


async def test_a_removal_without_an_answer_is_asked_for_again_and_not_decided_again(alone: Bench) -> None:
    device = alone.device()
    await device.start()
    asked: list[list[int]] = []

    async def choose(devices: Sequence[ModeDevice]) -> int | None:
        asked.append([d.id for d in devices])
        return devices[-1].id

    token = await alone.token()
    alone.mode.faults.arm("POST /devices", Fault(drop="after", count=1))
    alone.mode.faults.arm("DELETE /devices/{id}", Fault(drop="after", count=1))
    # Somebody else's device comes into the home before ours is looked for there.
    alone.mode.faults.arm("GET /devices", Fault(count=1), Fault(delay_s=1, count=1))
    async with companion(alone, choose=choose) as c:
        handing = asyncio.create_task(c.provision(device.label.qr, device_class=alone.seed["deviceClass"]))
        await until(lambda: alone.redemptions)
        stranger = await alone.client.post("/devices", json={"token": token})
        done = await handing
    assert asked == []
    assert await alone.devices_in_home() == [stranger.json()["id"], done.device_id]


async def test_a_claim_goes_on_when_the_home_cannot_be_seen_at_first(alone: Bench) -> None:
    device = await alone.pre_provisioned()
    await device.start()
    alone.mode.faults.arm("GET /devices", Fault(drop="before", count=1))
    outcome = await alone.claim(device.label.qr)
    assert outcome.exit_code == 0, outcome


async def test_a_token_that_brings_its_device_late_is_looked_at_once_more_when_it_has_expired(
    alone: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens: list[str] = []
    start_provisioning = UserApi.start_provisioning

    async def noting(api: UserApi, *arguments: Any) -> ProvisioningToken:
        token = await start_provisioning(api, *arguments)
        tokens.append(token.token)
        return token

    monkeypatch.setattr(UserApi, "start_provisioning", noting)
    device, device_class = alone.device("first"), alone.seed["deviceClass"]
    await device.start()
    alone.mode.faults.arm("POST /devices", Fault(error=ErrorAnswer(status=500), count=1))
    async with companion(alone) as c:
        first = await c.provision(device.label.qr, device_class=device_class)
        # Nothing had come of the first token then. Now MODE takes it in after all.
        late = await alone.client.post("/devices", json={"token": tokens[0]})
        orphan = late.raise_for_status().json()["id"]
        rewrite_note(alone, expires_at=1.0)
        await device.stop()
        other = alone.device("second")
        await other.start()
        second = await c.provision(other.label.qr, device_class=device_class)
    assert orphan not in await alone.devices_in_home()
    assert await alone.devices_in_home() == [first.device_id, second.device_id]
    assert list((alone.path / "notes").iterdir()) == []


async def dies(bench: Bench, code: SetupCode, last: Step) -> None:
    """A companion that hands a token over, and is gone once it has told of this step."""

    def die(progress: Progress) -> None:
        if progress.step is last:
            dying.cancel()

    async with companion(bench, report=die) as c:
        dying = asyncio.create_task(c.provision(code, device_class=bench.seed["deviceClass"]))
        await asyncio.wait({dying})
    assert dying.cancelled()


def rewrite_note(bench: Bench, **changes: object) -> None:
    """Change what the only note says."""
    [note] = (bench.path / "notes").iterdir()
    note.write_text(json.dumps({**json.loads(note.read_text()), **changes}))


@pytest.mark.parametrize("expires", [False, True], ids=["at once", "after the token expired"])
@pytest.mark.parametrize(
    "last", [Step.REDEEMING, Step.RECOVERING], ids=["before it heard of it", "before it removed the device"]
)
async def test_an_unknown_outcome_is_put_right_by_the_next_run_if_the_companion_died(
    alone: Bench, last: Step, expires: bool
) -> None:
    device = alone.device()
    await device.start()
    alone.mode.faults.arm("POST /devices", Fault(drop="after", count=1))
    await dies(alone, device.label.qr, last)
    await device.saw("outcome unknown")
    if expires:
        rewrite_note(alone, expires_at=1.0)
    async with companion(alone) as c:
        done = await c.provision(device.label.qr, device_class=alone.seed["deviceClass"])
    assert await alone.devices_in_home() == [done.device_id]
    assert alone.redemptions == [201, 201]
    assert list((alone.path / "notes").iterdir()) == []


async def test_a_device_that_is_asking_mode_for_a_companion_that_died_is_waited_for_by_the_next(alone: Bench) -> None:
    device, steps = alone.device(), list[Step]()
    await device.start()
    alone.mode.faults.arm("POST /devices", Fault(delay_s=2, drop="after", count=1))
    await dies(alone, device.label.qr, Step.REDEEMING)
    async with companion(alone, report=lambda progress: steps.append(progress.step)) as c:
        done = await c.provision(device.label.qr, device_class=alone.seed["deviceClass"])
    assert Step.WAITING in steps
    assert await alone.devices_in_home() == [done.device_id]
    assert alone.redemptions == [201, 201]


@pytest.mark.parametrize("last", [Step.SENDING, Step.ACCEPTED, Step.STORED], ids=lambda step: step.name.lower())
async def test_what_a_companion_that_died_did_not_hear_is_heard_by_the_next_run(alone: Bench, last: Step) -> None:
    device = alone.device()
    await device.start()
    await dies(alone, device.label.qr, last)
    if last is not Step.SENDING:
        await device.saw("provisioned")
    async with companion(alone) as c:
        done = await c.provision(device.label.qr, device_class=alone.seed["deviceClass"], tag="kitchen")
    assert await alone.devices_in_home() == [done.device_id]
    assert device.credentials is not None
    assert device.credentials.device_id == done.device_id
    assert done.device.tag == "kitchen"
    assert alone.redemptions == [201]


async def test_what_an_earlier_run_gave_another_class_is_no_success_of_this_one(alone: Bench) -> None:
    device = alone.device()
    await device.start()
    await dies(alone, device.label.qr, Step.STORED)
    await device.saw("provisioned")
    rewrite_note(alone, device_class="another")
    async with companion(alone) as c:
        with pytest.raises(errors.AlreadyProvisionedError):
            await c.provision(device.label.qr, device_class=alone.seed["deviceClass"])


async def test_a_token_of_an_earlier_run_that_mode_refused_is_asked_about_once(alone: Bench) -> None:
    device, steps = alone.device(), list[Step]()
    await device.start()
    alone.mode.faults.arm("POST /devices", Fault(error=ErrorAnswer(status=403), count=1))
    await dies(alone, device.label.qr, Step.REDEEMING)
    await device.saw("failed")
    async with companion(alone, report=lambda progress: steps.append(progress.step)) as c:
        done = await c.provision(device.label.qr, device_class=alone.seed["deviceClass"])
    assert steps.count(Step.ASKING) == 1
    assert await alone.devices_in_home() == [done.device_id]
    assert list((alone.path / "notes").iterdir()) == []


async def test_a_device_that_was_in_the_home_before_is_no_success_whatever_a_device_says(
    alone: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = (await alone.client.post("/devices", json={"token": await alone.token()})).raise_for_status().json()["id"]
    device = alone.device()
    await device.start()
    status = Redeemer.status

    def lying(redeemer: Redeemer, re: int) -> object:
        said = status(redeemer, re)
        return replace(said, device_id=victim) if isinstance(said, Provisioned) else said

    monkeypatch.setattr(Redeemer, "status", lying)
    async with companion(alone) as c:
        with pytest.raises(errors.NotInHomeError, match="before"):
            await c.provision(device.label.qr, device_class=alone.seed["deviceClass"], tag="mine")
    key = alone.seed["userKey"]
    assert (await alone.ask_mode("GET", f"/devices/{victim}", key)).json().get("tag") != "mine"


async def test_the_token_of_another_device_is_left_to_whoever_hands_it_over(alone: Bench) -> None:
    device, steps = alone.device(), list[Step]()
    await device.start()
    theirs = Note("ab" * 16, alone.mode.url, 1, "lamp", [], time.time(), token_ref="cd" * 16)
    Notes(alone.path / "notes").keep(theirs)
    async with companion(alone, report=lambda progress: steps.append(progress.step)) as c:
        done = await c.provision(device.label.qr, device_class=alone.seed["deviceClass"])
    assert await alone.devices_in_home() == [done.device_id]
    assert Notes(alone.path / "notes").all() == [theirs]
    assert steps.count(Step.ASKING) == 1


async def test_where_no_earlier_run_is_open_the_device_is_not_asked_about_any(alone: Bench) -> None:
    device, steps = alone.device(), list[Step]()
    await device.start()
    async with companion(alone, report=lambda progress: steps.append(progress.step)) as c:
        await c.provision(device.label.qr, device_class=alone.seed["deviceClass"])
    assert Step.ASKING not in steps
    assert steps.count(Step.CONNECTING) == 1


async def test_an_expired_session_leaves_the_notes_of_earlier_runs_alone(alone: Bench) -> None:
    device = alone.device()
    note = Note("ab" * 16, alone.mode.url, 1, "lamp", [], 1.0, expires_at=2.0, outcome_unknown=True)
    Notes(alone.path / "notes").keep(note)
    alone.seed["userKey"] = "v1.expired"
    async with companion(alone) as c:
        with pytest.raises(errors.NotSignedInError):
            await c.provision(device.label.qr, home_id=1, device_class="lamp")
    assert Notes(alone.path / "notes").all() == [note]


async def test_a_device_that_has_the_token_is_asked_what_became_of_it_after_the_token_expired() -> None:
    now = datetime.now(UTC)
    token = Token("token", now - timedelta(seconds=1))
    with pytest.raises(errors.TokenRefusedError):
        token.request(now, was_sent=False)
    assert token.request(now, was_sent=True).expires_in_s == 1


async def test_the_device_gets_the_tag_it_is_to_have(alone: Bench) -> None:
    device = alone.device()
    await device.start()
    async with companion(alone) as c:
        done = await c.provision(device.label.qr, device_class=alone.seed["deviceClass"], tag="kitchen")
    assert done.device.tag == "kitchen"
    assert list((alone.path / "notes").iterdir()) == []


# Choosing -----------------------------------------------------------------------------------------------------------


async def test_among_twenty_devices_the_qr_code_finds_its_own_without_connecting_to_another(alone: Bench) -> None:
    devices = [alone.device(f"device-{n}") for n in range(20)]
    async with asyncio.TaskGroup() as group:
        for device in devices:
            group.create_task(device.start())
    outcome = await alone.push(devices[13].label.qr, await alone.token())
    assert outcome.exit_code == 0, outcome
    connected = [n for n, device in enumerate(devices) if "companion connected" in device.steps]
    assert connected == [13]


@pytest.mark.produces(exit_code=23)
@pytest.mark.parametrize("bench", ["processes"], indirect=True)
async def test_a_pin_with_several_devices_near_says_so(bench: Bench) -> None:
    devices = [bench.device(f"device-{n}") for n in range(2)]
    for device in devices:
        await device.start()
    pin = devices[1].label.pin
    assert pin is not None
    outcome = await bench.push(pin, "token")
    assert outcome.exit_code == 23, outcome
    assert "2 bletoken devices are near" in outcome.message


async def test_a_pin_with_several_devices_near_asks_which_one_and_then_takes_that(alone: Bench) -> None:
    devices = [alone.device(f"device-{n}") for n in range(3)]
    for device in devices:
        await device.start()
    pin = devices[1].label.pin
    assert pin is not None
    outcome = await alone.push(pin, await alone.token())
    assert outcome.exit_code == 23, outcome
    assert all("companion connected" not in device.steps for device in devices)
    async with Companion(alone.hub.radio) as c:
        near = [found async for found in c.scan(1)]
        assert len(near) == 3
        [mine] = [found for found in near if found.name and found.name.is_of(devices[1].label.qr)]
        pushed = await c.push(pin, Token(await alone.token()), address=mine.address)
    assert await alone.devices_in_home() == [pushed.device_id]
    assert ["companion connected" in device.steps for device in devices] == [False, True, False]


async def test_a_pin_without_an_authentic_answer_is_tried_three_times_and_no_more(
    alone: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = alone.device()
    await device.start()
    assert device.label.pin is not None
    sent: list[bytes] = []

    async def lost(link: Link, message: bytes) -> None:
        sent.append(message)
        raise LinkLostError("just as the message left")

    monkeypatch.setattr(Link, "send", lost)
    outcome = await alone.push(device.label.pin, await alone.token())
    assert outcome.exit_code == 4, outcome
    assert "type it again" in outcome.message
    assert len(sent) == len(set(sent)) == 3


async def test_the_three_tries_of_a_pin_are_for_a_whole_provision_whatever_it_recovers_from(
    alone: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = alone.device()
    await device.start()
    assert device.label.pin is not None
    alone.mode.faults.arm("POST /devices", Fault(drop="after", count=1))
    sent, send = 0, Link.send

    async def losing(link: Link, message: bytes) -> None:
        nonlocal sent
        sent += 1
        if sent != 3:
            raise LinkLostError("just as the message left")
        await send(link, message)

    monkeypatch.setattr(Link, "send", losing)
    outcome = await alone.provision(device.label.pin)
    assert outcome.exit_code == 4, outcome
    assert "type it again" in outcome.message
    # The third was answered, and led to a new token; with the fourth three were not.
    assert sent == 4
    assert await alone.devices_in_home() == []


async def test_two_companions_at_one_device_one_finishes_the_other_is_told(alone: Bench) -> None:
    device = alone.device()
    await device.start()
    outcomes = await asyncio.gather(
        *[alone.push(device.label.qr, await alone.token()) for _ in range(2)],
    )
    codes = sorted(outcome.exit_code for outcome in outcomes)
    assert codes in ([0, 10], [0, 11]), outcomes
    [winner] = [outcome for outcome in outcomes if outcome.exit_code == 0]
    assert await alone.devices_in_home() == [winner.device_id]
    assert alone.redemptions == [201]


# Asking -------------------------------------------------------------------------------------------------------------


async def test_info_without_a_code_tells_what_anybody_may_know(alone: Bench) -> None:
    device = alone.device()
    await device.start()
    async with Companion(alone.hub.radio) as c:
        told = await c.info()
    assert (told.offer.state, told.offer.device_class, told.status) == (
        CoarseState.READY,
        alone.seed["deviceClass"],
        None,
    )


async def test_info_with_the_code_tells_what_became_of_the_last_token(alone: Bench) -> None:
    device = alone.device()
    await device.start()
    async with Companion(alone.hub.radio) as c:
        assert isinstance((await c.info(device.label.qr)).status, Idle)
        await alone.push(device.label.qr, "no-token-of-modes")
        failed = (await c.info(device.label.qr)).status
        assert isinstance(failed, Failed)
        assert (failed.code, failed.reason) == (FailureCode.TOKEN_REFUSED, "INVALID_TOKEN")
        pushed = await alone.push(device.label.qr, await alone.token())
        provisioned = (await c.info(device.label.qr)).status
        assert isinstance(provisioned, Provisioned)
        assert provisioned.device_id == pushed.device_id


async def test_a_wrong_pin_cannot_ask_anything(alone: Bench) -> None:
    device = alone.device()
    await device.start()
    async with Companion(alone.hub.radio) as c:
        with pytest.raises(errors.CodeRefusedError):
            await c.info(Pin("13572468"))


# Notes that stay ----------------------------------------------------------------------------------------------------


@pytest.fixture
def note_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk lets no note be removed."""

    def forget(*_: object) -> None:
        raise errors.StorageError("cannot erase")

    monkeypatch.setattr(Notes, "forget", forget)


@pytest.mark.usefixtures("note_that_stays")
async def test_a_note_that_cannot_be_removed_makes_no_failure_of_what_succeeded(alone: Bench) -> None:
    device = alone.device()
    await device.start()
    outcome = await alone.provision(device.label.qr)
    assert outcome.exit_code == 0, outcome
    assert await alone.devices_in_home() == [outcome.device_id]


@pytest.mark.usefixtures("note_that_stays")
async def test_a_note_that_cannot_be_removed_does_not_hide_that_mode_gave_no_token(alone: Bench) -> None:
    device = alone.device()
    await device.start()
    await alone.sim("/_sim/seed", {"onDemand": False})
    assert (await alone.provision(device.label.qr)).exit_code == errors.TokenDeniedError.exit_code
