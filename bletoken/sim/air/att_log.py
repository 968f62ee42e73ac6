"""What went over ATT on one connection: opcodes, handles and lengths, never values. Pure; the clock is an argument."""

import struct
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import IntEnum, StrEnum
from typing import Any, Final, Self
from uuid import UUID


class Direction(StrEnum):
    """Which way a PDU goes, by the link-layer roles of the two ends."""

    TO_PERIPHERAL = "to_peripheral"
    TO_CENTRAL = "to_central"


class AttOpcode(IntEnum):
    """The ATT opcodes (Core 5.4 Vol 3 Part F 3.4.8)."""

    ERROR_RESPONSE = 0x01
    EXCHANGE_MTU_REQUEST = 0x02
    EXCHANGE_MTU_RESPONSE = 0x03
    FIND_INFORMATION_REQUEST = 0x04
    FIND_INFORMATION_RESPONSE = 0x05
    FIND_BY_TYPE_VALUE_REQUEST = 0x06
    FIND_BY_TYPE_VALUE_RESPONSE = 0x07
    READ_BY_TYPE_REQUEST = 0x08
    READ_BY_TYPE_RESPONSE = 0x09
    READ_REQUEST = 0x0A
    READ_RESPONSE = 0x0B
    READ_BLOB_REQUEST = 0x0C
    READ_BLOB_RESPONSE = 0x0D
    READ_MULTIPLE_REQUEST = 0x0E
    READ_MULTIPLE_RESPONSE = 0x0F
    READ_BY_GROUP_TYPE_REQUEST = 0x10
    READ_BY_GROUP_TYPE_RESPONSE = 0x11
    WRITE_REQUEST = 0x12
    WRITE_RESPONSE = 0x13
    PREPARE_WRITE_REQUEST = 0x16
    PREPARE_WRITE_RESPONSE = 0x17
    EXECUTE_WRITE_REQUEST = 0x18
    EXECUTE_WRITE_RESPONSE = 0x19
    HANDLE_VALUE_NOTIFICATION = 0x1B
    HANDLE_VALUE_INDICATION = 0x1D
    HANDLE_VALUE_CONFIRMATION = 0x1E
    READ_MULTIPLE_VARIABLE_REQUEST = 0x20
    READ_MULTIPLE_VARIABLE_RESPONSE = 0x21
    MULTIPLE_HANDLE_VALUE_NOTIFICATION = 0x23
    WRITE_COMMAND = 0x52
    SIGNED_WRITE_COMMAND = 0xD2


_NAMES: Final = {int(opcode): opcode.name for opcode in AttOpcode}

ATT_CID: Final = 0x0004
"""The L2CAP channel of ATT (Core 5.4 Vol 3 Part A 2.1)."""

REQUESTS: Final = frozenset(opcode for opcode in AttOpcode if opcode.name.endswith("_REQUEST"))
"""The PDUs that ask for a response, so that each costs a round trip."""

_DISCOVERY: Final = {
    AttOpcode.READ_BY_GROUP_TYPE_REQUEST: AttOpcode.READ_BY_GROUP_TYPE_RESPONSE,
    AttOpcode.FIND_BY_TYPE_VALUE_REQUEST: AttOpcode.FIND_BY_TYPE_VALUE_RESPONSE,
    AttOpcode.READ_BY_TYPE_REQUEST: AttOpcode.READ_BY_TYPE_RESPONSE,
    AttOpcode.FIND_INFORMATION_REQUEST: AttOpcode.FIND_INFORMATION_RESPONSE,
}

# PDUs whose first parameter is an attribute handle (a range's first handle in discovery requests).
_WITH_HANDLE: Final = frozenset(
    {
        AttOpcode.FIND_INFORMATION_REQUEST,
        AttOpcode.FIND_BY_TYPE_VALUE_REQUEST,
        AttOpcode.READ_BY_TYPE_REQUEST,
        AttOpcode.READ_REQUEST,
        AttOpcode.READ_BLOB_REQUEST,
        AttOpcode.READ_BY_GROUP_TYPE_REQUEST,
        AttOpcode.WRITE_REQUEST,
        AttOpcode.PREPARE_WRITE_REQUEST,
        AttOpcode.PREPARE_WRITE_RESPONSE,
        AttOpcode.HANDLE_VALUE_NOTIFICATION,
        AttOpcode.HANDLE_VALUE_INDICATION,
        AttOpcode.WRITE_COMMAND,
        AttOpcode.SIGNED_WRITE_COMMAND,
    }
)

_MAX_PDUS: Final = 4096
_MAX_CHARACTERISTICS: Final = 256
_SIG_BASE_UUID: Final = UUID("00000000-0000-1000-8000-00805f9b34fb").int


@dataclass(frozen=True)
class AttPdu:
    """One ATT PDU, without its value.

    Attributes:
        time_s: When it arrived, in seconds since the connection began.
        direction: Which way it went.
        opcode: Its first octet.
        handle: The attribute handle it names, or None.
        length: Octets of the whole PDU.
        failed_opcode: In an Error Response, the opcode of the request that failed.
        error_code: In an Error Response, the ATT error.
    """

    time_s: float
    direction: Direction
    opcode: int
    handle: int | None
    length: int
    failed_opcode: int | None = None
    error_code: int | None = None

    @classmethod
    def parse(cls, time_s: float, direction: Direction, pdu: bytes) -> Self:
        """Describe a PDU; a malformed one is described as far as it goes."""
        opcode = pdu[0]
        if opcode == AttOpcode.ERROR_RESPONSE and len(pdu) >= 5:
            failed_opcode, handle, error_code = struct.unpack_from("<BHB", pdu, 1)
            return cls(time_s, direction, opcode, handle, len(pdu), failed_opcode, error_code)
        handle = int.from_bytes(pdu[1:3], "little") if opcode in _WITH_HANDLE and len(pdu) >= 3 else None
        return cls(time_s, direction, opcode, handle, len(pdu))

    @property
    def name(self) -> str:
        """The opcode's name, for people."""
        return _NAMES.get(self.opcode, f"0x{self.opcode:02X}")


class AttLog:
    """The ATT traffic of one connection.

    Attributes:
        pdus: The latest PDUs, oldest first; bounded.
        counts: How many PDUs of each opcode went each way, over the connection's whole life.
        value_handles: The value handle of every characteristic whose declaration was seen in a discovery response.
    """

    def __init__(self) -> None:
        self.pdus: deque[AttPdu] = deque(maxlen=_MAX_PDUS)
        self.counts: Counter[tuple[Direction, int]] = Counter()
        self.value_handles: dict[UUID, int] = {}
        self._partial: dict[Direction, bytearray] = {}

    def add_acl(self, time_s: float, direction: Direction, fragment: bytes, *, is_first: bool) -> None:
        """Take the payload of one ACL data packet.

        Args:
            time_s: Seconds since the connection began.
            direction: Which way it went.
            fragment: The packet's data, a fragment of an L2CAP PDU.
            is_first: Whether the L2CAP PDU starts here (packet boundary flag 0 or 2).
        """
        if is_first:
            self._partial[direction] = bytearray(fragment)
        elif direction in self._partial:
            self._partial[direction] += fragment
        else:
            return  # A continuation of nothing: the start was before our time.
        partial = self._partial[direction]
        if len(partial) < 4:
            return
        length, cid = struct.unpack_from("<HH", partial)
        if len(partial) < 4 + length:
            return
        del self._partial[direction]
        if cid == ATT_CID and length:
            self.add_pdu(time_s, direction, bytes(partial[4 : 4 + length]))

    def add_pdu(self, time_s: float, direction: Direction, pdu: bytes) -> None:
        """Take one whole, non-empty ATT PDU."""
        self.pdus.append(AttPdu.parse(time_s, direction, pdu))
        self.counts[direction, pdu[0]] += 1
        if pdu[0] == AttOpcode.READ_BY_TYPE_RESPONSE and direction is Direction.TO_CENTRAL:
            for uuid, handle in _characteristics(pdu):
                if len(self.value_handles) < _MAX_CHARACTERISTICS:
                    self.value_handles[uuid] = handle

    def to_json(self) -> dict[str, Any]:
        """Return the log as JSON types."""
        return {
            "counts": [[direction, opcode, count] for (direction, opcode), count in sorted(self.counts.items())],
            "pdus": [asdict(pdu) | {"name": pdu.name} for pdu in self.pdus],
            "value_handles": {str(uuid): handle for uuid, handle in self.value_handles.items()},
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        log = cls()
        for direction, opcode, count in document["counts"]:
            log.counts[Direction(direction), opcode] = count
        for pdu in document["pdus"]:
            fields = {key: value for key, value in pdu.items() if key != "name"}
            log.pdus.append(AttPdu(**fields | {"direction": Direction(pdu["direction"])}))
        log.value_handles = {UUID(uuid): handle for uuid, handle in document["value_handles"].items()}
        return log


def handoff_requests(log: AttLog, token_uuid: str) -> int:
    """Count the ATT requests of a hand-off: after discovery, up to the response to the last write to TOKEN.

    A write with response, a read and a CCCD write each count one; Write Commands are no requests; the MTU exchange
    comes before discovery, so it does not count.

    Args:
        log: A connection's log that holds the whole hand-off.
        token_uuid: The UUID of the TOKEN characteristic.

    Raises:
        ValueError: The log holds no discovery of TOKEN, or no answered write to it.
    """
    token = log.value_handles.get(UUID(token_uuid))
    if token is None:
        raise ValueError("the log holds no discovery of this characteristic")
    pdus = list(log.pdus)
    end = _last_write_response(pdus, token)
    start = max((index for index in range(end) if _ends_discovery_step(pdus[index])), default=None)
    if start is None:
        raise ValueError("the log holds no discovery response")
    return sum(pdu.direction is Direction.TO_PERIPHERAL and pdu.opcode in REQUESTS for pdu in pdus[start:end])


def _last_write_response(pdus: list[AttPdu], handle: int) -> int:
    """Return the index of the response to the last answered write (short or long) to this handle."""
    found = None
    pending: AttPdu | None = None
    prepared = False
    for index, pdu in enumerate(pdus):
        if pdu.direction is Direction.TO_PERIPHERAL and pdu.opcode in REQUESTS:
            pending = pdu
        elif pdu.direction is Direction.TO_CENTRAL and pending is not None and _answers(pdu, pending):
            if pending.opcode == AttOpcode.WRITE_REQUEST and pending.handle == handle:
                found = index
            elif pending.opcode == AttOpcode.PREPARE_WRITE_REQUEST and pending.handle == handle:
                prepared = True
            elif pending.opcode == AttOpcode.EXECUTE_WRITE_REQUEST and prepared:
                found, prepared = index, False
            pending = None
    if found is None:
        raise ValueError("the log holds no answered write to this characteristic")
    return found


def _answers(response: AttPdu, request: AttPdu) -> bool:
    # Every response's opcode is its request's plus one.
    return response.opcode == request.opcode + 1 or (
        response.opcode == AttOpcode.ERROR_RESPONSE and response.failed_opcode == request.opcode
    )


def _ends_discovery_step(pdu: AttPdu) -> bool:
    return pdu.direction is Direction.TO_CENTRAL and (
        pdu.opcode in _DISCOVERY.values()
        or (pdu.opcode == AttOpcode.ERROR_RESPONSE and pdu.failed_opcode in _DISCOVERY)
    )


def _characteristics(response: bytes) -> Iterable[tuple[UUID, int]]:
    """Yield UUID and value handle of the characteristic declarations in a Read By Type Response.

    A declaration is handle (2), properties (1), value handle (2) and UUID (2 or 16 octets), Core 5.4 Vol 3 Part G
    3.3.1; anything of another size is the answer to another Read By Type Request.
    """
    size = response[1] if len(response) > 1 else 0
    if size not in (7, 21):
        return
    for offset in range(2, len(response) - size + 1, size):
        handle = int.from_bytes(response[offset + 3 : offset + 5], "little")
        number = int.from_bytes(response[offset + 5 : offset + size], "little")
        yield UUID(int=number if size == 21 else number << 96 | _SIG_BASE_UUID), handle
