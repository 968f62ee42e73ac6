import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bletoken.errors import RemoteProtocolError
from bletoken.protocol import frames
from bletoken.protocol.frames import LARGEST_FRAME, LARGEST_MESSAGE, SMALLEST_FRAME, MessageTooLargeError, Reassembler

FIRST, LAST = 0x80, 0x40

messages = st.builds(
    lambda pattern, size: (pattern * (size // len(pattern) + 1))[:size],
    st.binary(min_size=1, max_size=300),
    st.integers(1, LARGEST_MESSAGE),
)
sizes = st.integers(SMALLEST_FRAME, LARGEST_FRAME)


def numbered(size: int) -> bytes:
    """A message in which every piece is recognisable."""
    return b"".join(n.to_bytes(2) for n in range(size // 2 + 1))[:size]


def feed(reassembler: Reassembler, pieces: list[bytes], now: float = 0) -> list[bytes]:
    """Every message that comes out of these frames."""
    return [m for piece in pieces if (m := reassembler.receive(piece, now)) is not None]


def assert_usable(reassembler: Reassembler, now: float = 0) -> None:
    message = numbered(333)
    assert feed(reassembler, frames.split(message, 20), now) == [message]
    assert reassembler.deadline is None


# Whole messages -----------------------------------------------------------------------------------------------------


@given(messages, sizes)
def test_any_message_over_any_frame_size_arrives_whole(message: bytes, size: int) -> None:
    pieces = frames.split(message, size)
    assert all(2 <= len(piece) <= size for piece in pieces)
    assert feed(Reassembler(), pieces) == [message]


@pytest.mark.parametrize("size", range(SMALLEST_FRAME, LARGEST_FRAME + 1))
def test_the_lengths_around_every_frame_size_arrive_whole(size: int) -> None:
    payload = size - 1
    reassembler = Reassembler()
    for length in (1, 2, payload - 1, payload, payload + 1, 2 * payload, 2 * payload + 1, 4095, 4096):
        message = numbered(length)
        pieces = frames.split(message, size)
        assert len(pieces) == -(-length // payload)
        assert feed(reassembler, pieces) == [message]


def test_every_length_arrives_whole_over_the_smallest_frames() -> None:
    reassembler = Reassembler()
    whole = numbered(LARGEST_MESSAGE)
    for length in range(1, LARGEST_MESSAGE + 1, 3):
        assert feed(reassembler, frames.split(whole[:length], SMALLEST_FRAME)) == [whole[:length]]


@given(st.lists(st.tuples(messages, sizes), max_size=5))
@settings(max_examples=50)
def test_messages_arrive_one_after_the_other(sent: list[tuple[bytes, int]]) -> None:
    pieces = [piece for message, size in sent for piece in frames.split(message, size)]
    assert feed(Reassembler(), pieces) == [message for message, _ in sent]


def test_the_sequence_wraps_at_64() -> None:
    pieces = frames.split(numbered(19 * 130), 20)
    assert len(pieces) == 130
    assert [piece[0] & 0x3F for piece in pieces] == [n % 64 for n in range(130)]
    assert [piece[0] >> 6 for piece in pieces] == [2, *[0] * 128, 1]


def test_a_message_of_one_frame_is_first_and_last() -> None:
    assert frames.split(b"x", 20) == [b"\xc0x"]


@pytest.mark.parametrize(
    ("mtu", "size"), [(None, 20), (0, 20), (22, 20), (23, 20), (24, 21), (185, 182), (247, 244), (511, 508), (517, 508)]
)
def test_the_frame_size_for_an_mtu(mtu: int | None, size: int) -> None:
    assert frames.frame_size(mtu) == size


@pytest.mark.parametrize("length", [0, LARGEST_MESSAGE + 1])
def test_a_message_of_a_wrong_length_is_not_cut(length: int) -> None:
    with pytest.raises(ValueError, match="message"):
        frames.split(bytes(length), 20)


@pytest.mark.parametrize("size", [0, 1, SMALLEST_FRAME - 1, LARGEST_FRAME + 1])
def test_frames_of_a_wrong_size_are_not_made(size: int) -> None:
    with pytest.raises(ValueError, match="frame"):
        frames.split(b"x", size)


# Broken sequences ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", range(130))
def test_a_missing_frame_is_found_and_the_next_message_arrives(missing: int) -> None:
    pieces = frames.split(numbered(19 * 130), 20)
    del pieces[missing]
    reassembler = Reassembler()
    if missing == 129:
        assert feed(reassembler, pieces) == []
    else:
        with pytest.raises(RemoteProtocolError):
            feed(reassembler, pieces)
    assert_usable(reassembler)


@pytest.mark.parametrize("twice", range(1, 70))
def test_a_frame_that_comes_twice_is_refused_and_the_next_message_arrives(twice: int) -> None:
    pieces = frames.split(numbered(19 * 70), 20)
    pieces.insert(twice, pieces[twice])
    reassembler = Reassembler()
    with pytest.raises(RemoteProtocolError):
        feed(reassembler, pieces)
    assert_usable(reassembler)


@pytest.mark.parametrize("place", range(69))
def test_swapped_frames_are_refused_and_the_next_message_arrives(place: int) -> None:
    pieces = frames.split(numbered(19 * 70), 20)
    pieces[place], pieces[place + 1] = pieces[place + 1], pieces[place]
    reassembler = Reassembler()
    with pytest.raises(RemoteProtocolError):
        feed(reassembler, pieces)
    assert_usable(reassembler)


def test_64_missing_frames_are_what_the_sequence_cannot_see_and_the_box_has_to() -> None:
    pieces = frames.split(numbered(19 * 130), 20)
    assert feed(Reassembler(), pieces[:10] + pieces[74:]) == [
        numbered(19 * 130)[: 19 * 10] + numbered(19 * 130)[19 * 74 :]
    ]


def test_a_first_frame_begins_anew_in_the_middle_of_a_message() -> None:
    unfinished = frames.split(numbered(1000), 20)[:30]
    assert feed(Reassembler(), unfinished + frames.split(b"whole", 20)) == [b"whole"]


def test_a_first_frame_with_a_count_is_refused() -> None:
    for count in range(1, 64):
        reassembler = Reassembler()
        with pytest.raises(RemoteProtocolError):
            reassembler.receive(bytes([FIRST | LAST | count]) + b"x", 0)
        assert_usable(reassembler)


def test_after_an_error_the_rest_of_that_message_is_refused_too() -> None:
    pieces = frames.split(numbered(200), 20)
    reassembler = Reassembler()
    feed(reassembler, pieces[:3])
    for piece in pieces[4:]:
        with pytest.raises(RemoteProtocolError):
            reassembler.receive(piece, 0)
    assert reassembler.deadline is None


@pytest.mark.parametrize("frame", [b"", b"\xc0", b"\x00", b"\xc0" + bytes(LARGEST_FRAME), b"\xc0" + bytes(10**5)])
def test_a_frame_of_a_wrong_size_is_refused_and_the_next_message_arrives(frame: bytes) -> None:
    reassembler = Reassembler()
    feed(reassembler, frames.split(numbered(100), 20)[:2])
    with pytest.raises(RemoteProtocolError):
        reassembler.receive(frame, 0)
    assert_usable(reassembler)


@pytest.mark.parametrize("size", [20, 244, 508])
def test_a_message_that_grows_too_large_is_refused_and_held_no_longer(size: int) -> None:
    reassembler = Reassembler()
    payload = bytes(size - 1)
    with pytest.raises(MessageTooLargeError):  # noqa: PT012 the frame that is too much is the last of many
        for n in range(LARGEST_MESSAGE // len(payload) + 1):
            assert n * len(payload) <= LARGEST_MESSAGE
            reassembler.receive(bytes([(FIRST if n == 0 else 0) | n & 0x3F]) + payload, 0)
    assert reassembler._parts == b""
    assert_usable(reassembler)


def test_a_stream_without_end_holds_no_more_than_one_message() -> None:
    reassembler = Reassembler()
    for n in range(3000):
        with contextlib.suppress(RemoteProtocolError):
            reassembler.receive(bytes([(FIRST if n % 12 == 0 else 0) | n % 12]) + bytes(500), 0)
        assert len(reassembler._parts) <= LARGEST_MESSAGE


# Time ---------------------------------------------------------------------------------------------------------------


def test_a_frame_after_ten_seconds_of_silence_is_refused_and_the_next_message_arrives() -> None:
    pieces = frames.split(numbered(60), 20)
    reassembler = Reassembler()
    reassembler.receive(pieces[0], 100)
    assert reassembler.deadline == 110
    reassembler.receive(pieces[1], 109.9)
    assert reassembler.deadline == 119.9
    with pytest.raises(RemoteProtocolError, match="late"):
        reassembler.receive(pieces[2], 119.9)
    assert_usable(reassembler, 119.9)


def test_a_message_that_takes_a_minute_is_refused_however_steady_its_frames_are() -> None:
    pieces = frames.split(numbered(19 * 10), 20)
    reassembler = Reassembler()
    for n in range(8):
        reassembler.receive(pieces[n], n * 8.5)
        if n == 7:
            assert reassembler.deadline == 60
    with pytest.raises(RemoteProtocolError, match="late"):
        reassembler.receive(pieces[8], 60)
    assert_usable(reassembler, 61)


def test_a_slow_message_that_makes_progress_arrives() -> None:
    message = numbered(19 * 12)
    reassembler = Reassembler()
    arrived = [reassembler.receive(piece, n * 5.0) for n, piece in enumerate(frames.split(message, 20))]
    assert arrived[-1] == message


def test_a_first_frame_is_never_too_late() -> None:
    reassembler = Reassembler()
    reassembler.receive(frames.split(numbered(60), 20)[0], 0)
    assert_usable(reassembler, 10**6)


def test_reset_forgets_the_message_in_progress() -> None:
    pieces = frames.split(numbered(60), 20)
    reassembler = Reassembler()
    reassembler.receive(pieces[0], 0)
    reassembler.reset()
    assert reassembler.deadline is None
    with pytest.raises(RemoteProtocolError):
        reassembler.receive(pieces[1], 0)


# Garbage ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.binary(max_size=600), st.floats(-1e9, 1e9)), max_size=40))
@settings(max_examples=200)
def test_garbage_is_a_message_or_refused_and_nothing_else(garbage: list[tuple[bytes, float]]) -> None:
    reassembler = Reassembler()
    for frame, now in garbage:
        try:
            message = reassembler.receive(frame, now)
        except RemoteProtocolError as e:
            assert 0x80 <= e.att_error_hint <= 0x9F  # noqa: PT017 it is no error when none comes
        else:
            assert message is None or 1 <= len(message) <= LARGEST_MESSAGE
    assert_usable(reassembler)
