"""Somebody on the air changes one bit: no token reaches the device's owner, and no false outcome the companion's."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.protocol.pair import PIN, QR, TOKEN, Device, companion, open_session

from bletoken.errors import RemoteProtocolError, UnsupportedVersionError
from bletoken.protocol import frames
from bletoken.protocol.companion import CompanionMachine
from bletoken.protocol.device import Output, Requested, Send
from bletoken.protocol.setup_code import SetupCode
from bletoken.protocol.wire import ClearStatus, Identify, Provisioned, Status, token_ref

CODES = pytest.mark.parametrize("code", [QR, PIN], ids=["qr", "pin"])
OUTCOME = Provisioned(0, token_ref(TOKEN.token), 12345)


def flipped(octets: bytes, bit: int) -> bytes:
    changed = bytearray(octets)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def bits(pieces: Sequence[bytes]) -> list[tuple[int, int]]:
    """Every bit as (piece, bit in it)."""
    return [(n, bit) for n, piece in enumerate(pieces) for bit in range(8 * len(piece))]


def write(device: Device, pieces: Sequence[bytes]) -> list[Output]:
    """Frames as a GATT server passes them on, whatever they hold."""
    outputs: list[Output] = []
    for piece in pieces:
        try:
            message = device.machine.frame_received("a", piece, device.now)
        except RemoteProtocolError as e:
            outputs += device.machine.frame_refused("a", e)
        else:
            if message is not None:
                outputs += device.machine.message_received("a", message, device.now)
    return outputs


def assert_nothing_but_a_count(device: Device, outputs: Sequence[Output]) -> None:
    for output in outputs:
        assert isinstance(output, Send)
        ClearStatus.decode(output.message)
    assert device.disk.saved in ([], [1])


def after_flip_in_hello(code: SetupCode, bit: int) -> None:
    device = Device()
    device.connect()
    mine = companion(code)
    try:
        mine.offer_read(flipped(device.hello(), bit))
        octets = mine.first_message(TOKEN)
    except (RemoteProtocolError, UnsupportedVersionError):
        return
    assert_nothing_but_a_count(device, device.take(octets))


def after_flip_in_first_message(code: SetupCode, flip: tuple[int, int]) -> None:
    device = Device()
    device.connect()
    mine = companion(code)
    mine.offer_read(device.hello())
    pieces = frames.split(mine.first_message(TOKEN), 20)
    piece, bit = flip
    pieces[piece] = flipped(pieces[piece], bit)
    assert_nothing_but_a_count(device, write(device, pieces))


def sizes() -> tuple[int, list[bytes]]:
    device = Device()
    device.connect()
    hello = device.hello()
    mine = companion()
    mine.offer_read(hello)
    return 8 * len(hello), frames.split(mine.first_message(TOKEN), 20)


HELLO_BITS, FIRST_PIECES = sizes()


def test_no_bit_of_the_offer_can_be_changed_unnoticed() -> None:
    for bit in range(HELLO_BITS):
        after_flip_in_hello(QR, bit)


@given(st.integers(0, HELLO_BITS - 1))
@settings(max_examples=150)
def test_no_bit_of_the_offer_can_be_changed_unnoticed_with_a_pin_either(bit: int) -> None:
    after_flip_in_hello(PIN, bit)


def test_no_bit_of_the_first_messages_frames_can_be_changed_unnoticed() -> None:
    for flip in bits(FIRST_PIECES):
        after_flip_in_first_message(QR, flip)


@given(st.sampled_from(bits(FIRST_PIECES)))
@settings(max_examples=150)
def test_no_bit_of_the_first_messages_frames_can_be_changed_unnoticed_with_a_pin_either(flip: tuple[int, int]) -> None:
    after_flip_in_first_message(PIN, flip)


@CODES
def test_without_a_flip_the_token_arrives(code: SetupCode) -> None:
    device = Device()
    device.connect()
    mine = companion(code)
    mine.offer_read(device.hello())
    (output,) = write(device, frames.split(mine.first_message(TOKEN), 20))
    assert isinstance(output, Requested)


def test_no_bit_of_a_later_requests_frames_can_be_changed_unnoticed() -> None:
    device = Device()
    mine, asked = open_session(device)
    listen(mine, frames.split(sealed(device.machine.send(asked.session, OUTCOME)), 20))
    _, octets = mine.request(Identify())
    session = device.machine._connections["a"].sessions[asked.session.short_sid]
    pieces = frames.split(octets, 20)
    for piece, bit in bits(pieces):
        # Each try finds the session as it was; a failed one ends it.
        device.machine.disconnected("a")
        device.connect()
        connection = device.machine._connections["a"]
        connection.machine._state = connection.machine._state.SECURED
        connection.sessions[asked.session.short_sid] = session
        assert_nothing_but_a_count(
            device, write(device, [*pieces[:piece], flipped(pieces[piece], bit), *pieces[piece + 1 :]])
        )
    connection.sessions[asked.session.short_sid] = session
    connection.machine._state = connection.machine._state.SECURED
    (output,) = write(device, pieces)
    assert isinstance(output, Requested)


def sealed(outputs: Sequence[Output]) -> bytes:
    (output,) = outputs
    assert isinstance(output, Send)
    return output.message


def listen(mine: CompanionMachine, pieces: Sequence[bytes]) -> list[Status | ClearStatus]:
    """Notifications as a companion passes them on until an error ends the run."""
    heard: list[Status | ClearStatus] = []
    for piece in pieces:
        try:
            status = mine.frame_received(piece, 0)
        except RemoteProtocolError:
            break
        if status is not None:
            heard.append(status)
    return heard


def test_no_bit_of_a_statuss_frames_can_be_changed_unnoticed() -> None:
    device = Device()
    _, asked = open_session(device)
    pieces = frames.split(sealed(device.machine.send(asked.session, OUTCOME)), 20)
    # The same entropy makes the same session again, so that each try finds a companion that has heard nothing yet.
    assert listen(open_session(Device())[0], pieces) == [OUTCOME]
    for piece, bit in bits(pieces):
        mine, _ = open_session(Device())
        changed = [*pieces[:piece], flipped(pieces[piece], bit), *pieces[piece + 1 :]]
        for heard in listen(mine, changed):
            # One bit makes a clear status of a sealed one at the most; that is a hint and never an outcome.
            assert isinstance(heard, ClearStatus)


@CODES
def test_no_octet_of_a_status_can_be_changed_unnoticed_in_any_way(code: SetupCode) -> None:
    device = Device()
    _, asked = open_session(device, code)
    whole = sealed(device.machine.send(asked.session, OUTCOME))
    for place in range(len(whole)):
        mine, _ = open_session(Device(), code)
        for change in (0x01, 0x80, 0xFF):
            changed = whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :]
            assert OUTCOME not in listen(mine, frames.split(changed, 100))


@given(st.integers(1, 508), st.data())
@settings(max_examples=60)
def test_a_status_cut_short_or_drawn_out_is_none(length: int, data: st.DataObject) -> None:
    device = Device()
    mine, asked = open_session(device)
    whole = sealed(device.machine.send(asked.session, OUTCOME))
    changed = whole[:length] if length < len(whole) else whole + data.draw(st.binary(min_size=1, max_size=20))
    assert listen(mine, frames.split(changed, 100)) == []
