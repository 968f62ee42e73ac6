import json
import struct
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bletoken.sim.air.att_log import AttLog, AttOpcode, Direction, handoff_requests

TOKEN = UUID("b1e70002-0c99-46dc-baf4-a8712fe5a5d4")
STATUS = UUID("b1e70003-0c99-46dc-baf4-a8712fe5a5d4")
TOKEN_HANDLE = 18


def l2cap(pdu: bytes, cid: int = 4) -> bytes:
    return struct.pack("<HH", len(pdu), cid) + pdu


class Talk:
    """Writes a conversation into a log."""

    def __init__(self) -> None:
        self.log = AttLog()

    def up(self, opcode: int, *parameters: bytes) -> "Talk":
        return self._say(Direction.TO_PERIPHERAL, bytes([opcode, *b"".join(parameters)]))

    def down(self, opcode: int, *parameters: bytes) -> "Talk":
        return self._say(Direction.TO_CENTRAL, bytes([opcode, *b"".join(parameters)]))

    def _say(self, direction: Direction, pdu: bytes) -> "Talk":
        self.log.add_acl(0.0, direction, l2cap(pdu), is_first=True)
        return self

    def discovery(self) -> "Talk":
        declarations = b"".join(
            struct.pack("<HBH", handle - 1, 8, handle) + uuid.bytes[::-1]
            for uuid, handle in ((TOKEN, TOKEN_HANDLE), (STATUS, 20))
        )
        return (
            self.up(AttOpcode.EXCHANGE_MTU_REQUEST, b"\x05\x02")
            .down(AttOpcode.EXCHANGE_MTU_RESPONSE, b"\x05\x02")
            .up(AttOpcode.FIND_BY_TYPE_VALUE_REQUEST, b"\x01\0\xff\xff")
            .down(AttOpcode.FIND_BY_TYPE_VALUE_RESPONSE, b"\x10\0\x20\0")
            .up(AttOpcode.READ_BY_TYPE_REQUEST, b"\x10\0\x20\0\x03\x28")
            .down(AttOpcode.READ_BY_TYPE_RESPONSE, b"\x15", declarations)
            .up(AttOpcode.READ_BY_TYPE_REQUEST, b"\x14\0\x20\0\x03\x28")
            .down(AttOpcode.ERROR_RESPONSE, b"\x08\x14\0\x0a")
        )

    def read(self, handle: int = 16) -> "Talk":
        return self.up(AttOpcode.READ_REQUEST, struct.pack("<H", handle)).down(AttOpcode.READ_RESPONSE, b"hello")

    def write(self, handle: int = TOKEN_HANDLE) -> "Talk":
        return self.up(AttOpcode.WRITE_REQUEST, struct.pack("<H", handle), b"x").down(AttOpcode.WRITE_RESPONSE)


def test_a_read_a_subscription_and_a_write_count_three() -> None:
    talk = Talk().discovery().read().write(21).write()
    assert handoff_requests(talk.log, str(TOKEN)) == 3


def test_what_comes_after_the_last_write_does_not_count() -> None:
    talk = Talk().discovery().read().write().write().read()
    assert handoff_requests(talk.log, str(TOKEN)) == 3


def test_discovery_after_the_last_write_does_not_hide_the_hand_off() -> None:
    talk = Talk().discovery().read().write()
    talk.up(AttOpcode.FIND_INFORMATION_REQUEST, b"\x01\0\xff\xff").down(AttOpcode.ERROR_RESPONSE, b"\x04\x01\0\x0a")
    assert handoff_requests(talk.log, str(TOKEN)) == 2


def test_a_write_that_is_refused_counts_too() -> None:
    talk = Talk().discovery().up(AttOpcode.WRITE_REQUEST, b"\x12\0x").down(AttOpcode.ERROR_RESPONSE, b"\x12\x12\0\x80")
    assert handoff_requests(talk.log, str(TOKEN)) == 1


def test_write_commands_notifications_and_the_peripherals_own_requests_do_not_count() -> None:
    talk = Talk().discovery().up(AttOpcode.WRITE_COMMAND, b"\x12\0x")
    talk.down(AttOpcode.READ_BY_GROUP_TYPE_REQUEST, b"\x01\0\xff\xff\0\x28")
    talk.down(AttOpcode.HANDLE_VALUE_NOTIFICATION, b"\x14\0x").write()
    assert handoff_requests(talk.log, str(TOKEN)) == 1


def test_each_part_of_a_long_write_counts() -> None:
    talk = Talk().discovery()
    for offset in (0, 18):
        part = struct.pack("<HH", TOKEN_HANDLE, offset) + b"x" * 18
        talk.up(AttOpcode.PREPARE_WRITE_REQUEST, part).down(AttOpcode.PREPARE_WRITE_RESPONSE, part)
    talk.up(AttOpcode.EXECUTE_WRITE_REQUEST, b"\x01").down(AttOpcode.EXECUTE_WRITE_RESPONSE)
    assert handoff_requests(talk.log, str(TOKEN)) == 3


@pytest.mark.parametrize(
    ("talk", "why"),
    [
        (Talk().read().write(), "no discovery of this characteristic"),
        (Talk().discovery().read(), "no answered write"),
        (Talk().discovery().up(AttOpcode.WRITE_REQUEST, b"\x12\0x"), "no answered write"),
        (Talk().discovery().write(21), "no answered write"),
    ],
)
def test_a_log_without_a_whole_hand_off_is_refused(talk: Talk, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        handoff_requests(talk.log, str(TOKEN))


def test_a_log_survives_json() -> None:
    log = Talk().discovery().read().write().log
    again = AttLog.from_json(json.loads(json.dumps(log.to_json())))
    assert again.pdus == log.pdus
    assert again.counts == log.counts
    assert again.value_handles == {TOKEN: TOKEN_HANDLE, STATUS: 20}


def test_the_log_holds_no_values() -> None:
    log = Talk().discovery().up(AttOpcode.WRITE_REQUEST, b"\x12\0", b"secret-token").down(AttOpcode.WRITE_RESPONSE).log
    assert "secret" not in json.dumps(log.to_json())
    assert b"secret".hex() not in json.dumps(log.to_json())


def test_the_log_is_bounded_and_the_counts_go_on() -> None:
    talk = Talk()
    for _ in range(3000):
        talk.read()
    assert len(talk.log.pdus) == 4096
    assert talk.log.counts[Direction.TO_PERIPHERAL, AttOpcode.READ_REQUEST] == 3000


@given(pdus=st.lists(st.binary(min_size=1, max_size=60), max_size=5), size=st.integers(1, 27))
def test_any_fragmentation_gives_the_same_pdus(pdus: list[bytes], size: int) -> None:
    log = AttLog()
    for pdu in pdus:
        whole = l2cap(pdu)
        for offset in range(0, len(whole), size):
            log.add_acl(0.0, Direction.TO_CENTRAL, whole[offset : offset + size], is_first=offset == 0)
    assert [(pdu.opcode, pdu.length) for pdu in log.pdus] == [(pdu[0], len(pdu)) for pdu in pdus]


@given(st.lists(st.tuples(st.sampled_from(Direction), st.binary(max_size=40), st.booleans())))
def test_garbage_never_raises(fragments: list[tuple[Direction, bytes, bool]]) -> None:
    log = AttLog()
    for direction, fragment, is_first in fragments:
        log.add_acl(0.0, direction, fragment, is_first=is_first)
    json.dumps(log.to_json())


def test_other_channels_and_continuations_of_nothing_are_left_out() -> None:
    log = AttLog()
    log.add_acl(0.0, Direction.TO_CENTRAL, l2cap(b"\x0a\x10\0", cid=6), is_first=True)
    log.add_acl(0.0, Direction.TO_CENTRAL, l2cap(b"\x0a\x10\0"), is_first=False)
    assert not log.pdus
