"""What a stranger, a rogue device or a damaged packet can do: end a try, and nothing else."""

import asyncio
import secrets

import cbor2
import pytest
from handoff.bench import Bench, Device, until
from handoff.stranger import Stranger

from bletoken.protocol import frames
from bletoken.protocol.companion import CompanionMachine
from bletoken.protocol.setup_code import AdvertName, Label
from bletoken.protocol.wire import (
    TOKEN_UUID,
    ClearCode,
    Offer,
    Provision,
)
from bletoken.sim.air.att_log import AttOpcode, Direction
from bletoken_peripheral.gatt_server import GattServer

in_process = pytest.mark.parametrize("bench", ["in-process"], indirect=True)
processes = pytest.mark.parametrize("bench", ["processes"], indirect=True)


async def started(bench: Bench) -> Device:
    device = bench.device()
    await device.start()
    return device


async def is_ready_for_the_next_try(bench: Bench, device: Device, stranger: Stranger) -> None:
    """The device takes a token as if nothing had been, while the stranger is still connected."""
    outcome = await bench.push(device.label.qr, await bench.token())
    assert outcome.exit_code == 0, outcome
    assert bench.redemptions == [201]
    assert device.folder.read_failures() == 0
    await stranger.client.disconnect()


@pytest.mark.parametrize(
    ("written", "code"),
    [
        pytest.param(
            [b"\x80" + bytes(200)] + [bytes([i]) + bytes(230) for i in range(1, 20)],
            ClearCode.TOO_LARGE,
            marks=pytest.mark.produces(ClearCode.TOO_LARGE),
            id="a message of more than 4096 octets",
        ),
        pytest.param(
            [b"\xc0"], ClearCode.MALFORMED, marks=pytest.mark.produces(ClearCode.MALFORMED), id="an empty frame"
        ),
        pytest.param(
            [b"\x01abc"],
            ClearCode.MALFORMED,
            marks=pytest.mark.produces(ClearCode.MALFORMED),
            id="a frame that continues nothing",
        ),
        pytest.param(
            [b"\x80abc", b"\x42def"],
            ClearCode.MALFORMED,
            marks=pytest.mark.produces(ClearCode.MALFORMED),
            id="a frame left out",
        ),
        pytest.param(
            [b"\x80abc", b"\x01def", b"\x01def"],
            ClearCode.MALFORMED,
            marks=pytest.mark.produces(ClearCode.MALFORMED),
            id="a frame twice",
        ),
        pytest.param(
            [b"\xc0\x01\x01\x01short"],
            ClearCode.MALFORMED,
            marks=pytest.mark.produces(ClearCode.MALFORMED),
            id="a truncated first message",
        ),
        pytest.param(
            [b"\xc0\x01\x02" + bytes(60)],
            ClearCode.UNSUPPORTED_VERSION,
            marks=pytest.mark.produces(ClearCode.UNSUPPORTED_VERSION),
            id="another version",
        ),
        pytest.param(
            [b"\xc0\x04" + bytes(60)],
            ClearCode.UNSUPPORTED_VERSION,
            marks=pytest.mark.produces(ClearCode.UNSUPPORTED_VERSION),
            id="version 2's first message",
        ),
        pytest.param(
            [b"\xc0\x01\x01\x07" + bytes(60)],
            ClearCode.MALFORMED,
            marks=pytest.mark.produces(ClearCode.MALFORMED),
            id="an unknown method",
        ),
        pytest.param(
            [b"\xc0\x09abc"], ClearCode.MALFORMED, marks=pytest.mark.produces(ClearCode.MALFORMED), id="an unknown type"
        ),
        pytest.param(
            [b"\xc0\x01\x01\x01" + bytes(60)],
            ClearCode.STALE_OFFER,
            marks=pytest.mark.produces(ClearCode.STALE_OFFER),
            id="an offer nobody made",
        ),
        pytest.param(
            [b"\xc0\x02" + bytes(40)],
            ClearCode.NOT_AUTHENTIC,
            marks=pytest.mark.produces(ClearCode.NOT_AUTHENTIC),
            id="a sealed message out of the blue",
        ),
    ],
)
async def test_what_is_not_the_protocol_gets_a_clear_status(
    bench: Bench, written: list[bytes], code: ClearCode
) -> None:
    device = await started(bench)
    stranger = await Stranger.connect(bench)
    # The ATT answer is a hint that platforms drop or change, so nothing is asked of it.
    for frame in written:
        try:
            await stranger.write(frame)
        except Exception:  # noqa: BLE001 whatever the stack makes of it
            break
    assert await stranger.refused_with() is code
    await is_ready_for_the_next_try(bench, device, stranger)


@pytest.mark.produces(ClearCode.NOT_AUTHENTIC, ClearCode.STALE_OFFER)
async def test_a_wrong_qr_secret_is_not_authentic_and_costs_the_offer(bench: Bench) -> None:
    device = await started(bench)
    stranger = await Stranger.connect(bench)
    hello = await stranger.hello()
    machine = CompanionMachine(Label.generate(secrets.token_bytes, with_pin=False).qr, secrets.token_bytes)
    machine.offer_read(hello)
    message = machine.first_message(Provision("stolen"))
    await stranger.write(*frames.split(message, 244))
    assert await stranger.refused_with() is ClearCode.NOT_AUTHENTIC
    assert await stranger.hello() != hello
    await stranger.write(*frames.split(message, 244))
    assert await stranger.refused_with() is ClearCode.STALE_OFFER
    await is_ready_for_the_next_try(bench, device, stranger)


async def test_a_recorded_first_message_is_worth_nothing_on_another_connection(bench: Bench) -> None:
    device = await started(bench)
    stranger = await Stranger.connect(bench)
    machine = CompanionMachine(device.label.qr, secrets.token_bytes)
    machine.offer_read(await stranger.hello())
    message = machine.first_message(Provision("recorded"))
    await stranger.client.disconnect()
    replayer = await Stranger.connect(bench)
    await replayer.write(*frames.split(message, 244))
    assert await replayer.refused_with() is ClearCode.STALE_OFFER
    assert device.journal is None
    await is_ready_for_the_next_try(bench, device, replayer)


@in_process
async def test_the_token_characteristic_cannot_be_read(bench: Bench) -> None:
    await started(bench)
    stranger = await Stranger.connect(bench)
    with pytest.raises(Exception, match=r"(?i)read|protocol"):
        await stranger.client.read_gatt_char(TOKEN_UUID)
    await stranger.client.disconnect()


class RogueDevice:
    """A device that offers what it likes under the right name."""

    def __init__(self, hello: bytes) -> None:
        self._hello = hello
        self.written: list[bytes] = []

    def connected(self, peer: str) -> None: ...
    def disconnected(self, peer: str) -> None: ...
    def radio_lost(self) -> None: ...
    def radio_away(self, why: str) -> None: ...
    def radio_back(self) -> None: ...

    def hello(self, peer: str) -> bytes:
        return self._hello

    def token_written(self, peer: str, frame: bytes) -> None:
        self.written.append(frame)


def offer_with(versions: list[int]) -> bytes:
    return cbor2.dumps({1: versions, 2: bytes(16), 3: {1: b"\x09" + bytes(31)}, 4: [1], 5: 0}, canonical=True)


@processes
@pytest.mark.parametrize(
    ("hello", "exit_code"),
    [
        pytest.param(offer_with([2]), 13, id="another version"),
        pytest.param(offer_with([0]), 13, id="an older version"),
        pytest.param(b"", 12, id="nothing"),
        pytest.param(b"\xa0", 12, id="an empty map"),
        pytest.param(offer_with([1]) + b"\0", 12, id="trailing octets"),
        pytest.param(bytes(183), 12, id="too large"),
        pytest.param(offer_with([1]).replace(b"\x09" + bytes(31), bytes(32)), 12, id="a share of low order"),
    ],
)
async def test_a_rogue_offer_ends_in_a_typed_error_and_no_token_leaves(
    bench: Bench, hello: bytes, exit_code: int
) -> None:
    label = Label.generate(secrets.token_bytes, with_pin=False)
    rogue = RogueDevice(hello)
    async with GattServer(bench.device_radio, str(AdvertName("r", label.qr.advert_tag(b"xy"))), rogue):
        outcome = await bench.push(label.qr, "precious", total_s=20)
    assert outcome.exit_code == exit_code, outcome
    assert rogue.written == []


@processes
@pytest.mark.produces(exit_code=20)
async def test_a_silent_device_ends_in_a_typed_error(bench: Bench) -> None:
    label = Label.generate(secrets.token_bytes, with_pin=False)
    hello = offer_with([1])
    assert Offer.decode(hello)
    async with GattServer(bench.device_radio, str(AdvertName("r", label.qr.advert_tag(b"xy"))), RogueDevice(hello)):
        outcome = await bench.push(label.qr, "precious", total_s=3)
    assert outcome.exit_code == 20, outcome


BITS_OF = {
    # opcode: where the value begins, and how much of it is damaged
    AttOpcode.READ_RESPONSE: (Direction.TO_CENTRAL, 1, 150),
    AttOpcode.WRITE_REQUEST: (Direction.TO_PERIPHERAL, 3, 200),
    AttOpcode.HANDLE_VALUE_NOTIFICATION: (Direction.TO_CENTRAL, 3, 45),
}


@in_process
@pytest.mark.parametrize("opcode", list(BITS_OF), ids=lambda opcode: opcode.name.lower())
async def test_one_flipped_bit_on_the_air_never_stores_a_wrong_token_nor_reports_a_false_success(
    bench: Bench, opcode: AttOpcode
) -> None:
    direction, begin, octets = BITS_OF[opcode]
    step = 8 * octets // 12 + 1
    for number, bit in enumerate(range(8 * begin, 8 * (begin + octets), step)):
        device = bench.device(f"device-{number}", with_pin=False)
        await device.start()
        token = await bench.token()
        # The first write of a connection is the subscription.
        bench.hub.corrupt(direction, opcode, bit, nth=2 if opcode is AttOpcode.WRITE_REQUEST else 1)
        outcome = await bench.push(device.label.qr, token, answer_s=1, total_s=30)
        if outcome.exit_code == 0:
            # The companion noticed and tried again; then everything is true.
            await device.saw("provisioned")
            assert device.credentials is not None
            assert device.credentials.device_id == outcome.device_id
        else:
            assert outcome.exit_code in (4, 12, 13, 14, 20), (bit, outcome)
            assert device.journal is None, bit
        await device.stop()
    assert all(decided == 201 for decided in bench.redemptions)


@in_process
async def test_a_connection_that_proves_nothing_is_dropped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bletoken.protocol.device.AUTHENTICATION_TIMEOUT_S", 1)
    await started(bench)
    stranger = await Stranger.connect(bench)
    await until(lambda: not stranger.client.is_connected)
    await asyncio.sleep(0)
