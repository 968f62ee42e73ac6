"""A process's own end of the virtual radio: one Bumble host on a hub, alone or shared, and what is under way on it."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, Self, TypeVar
from uuid import UUID

from bumble import att, core
from bumble.device import Advertisement, Connection, Device, DeviceConfiguration
from bumble.hci import Address, HCI_Disconnect_Command, HCI_ErrorCode
from bumble.host import Host
from bumble.transport.common import StreamPacketSink, StreamPacketSource

from bletoken.errors import RadioUnavailableError
from bletoken.sim.air.att_log import REQUESTS, AttOpcode
from bletoken.sim.air.spec import Endpoint

_LOGGER: Final = logging.getLogger(__name__)
_T = TypeVar("_T")

_FROM_CLIENTS: Final = {*REQUESTS, AttOpcode.HANDLE_VALUE_CONFIRMATION}
_FROM_SERVERS: Final = {
    opcode for opcode in AttOpcode if opcode.name.endswith(("_RESPONSE", "_NOTIFICATION", "_INDICATION"))
}
_SIG_BASE_UUID: Final = UUID("00000000-0000-1000-8000-00805f9b34fb").int


def bumble_uuid(uuid: str) -> core.UUID:
    """Return a UUID (in full form) in its shortest one, as which servers hold and clients ask for it."""
    number = UUID(uuid).int
    if number & ~(0xFFFF << 96) == _SIG_BASE_UUID:
        return core.UUID.from_16_bits(number >> 96)
    return core.UUID(uuid)


class AbandonedError(Exception):
    """The link or the radio went away before the operation was done."""


class Operations:
    """What is under way on one connection or radio, so that all of it can end when that goes away.

    A caller that is cancelled leaves its operation running: ATT allows no second request before the first is
    answered, and an HCI command cannot be taken back either.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_over = False

    def spawn(self, operation: Coroutine[Any, Any, object]) -> None:
        """Start an operation that nobody waits for."""
        if self._is_over:
            operation.close()
        else:
            self._start(operation)

    async def run(self, operation: Coroutine[Any, Any, _T]) -> _T:
        """Carry out an operation.

        Raises:
            AbandonedError: It ended because its connection or radio did, or never began because that was gone.
        """
        if self._is_over:
            operation.close()
            raise AbandonedError
        task = self._start(operation)
        await asyncio.wait({task})
        if task.cancelled():
            raise AbandonedError
        return task.result()

    def abandon(self) -> None:
        """End everything that is under way, for good.

        HACK: until Python 3.11 `asyncio.wait_for`, in which Bumble awaits every answer, swallows a cancellation that
        comes in the same turn of the loop as the answer; what was to end would go on, and wait for 30 s.
        """
        self._is_over = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            asyncio.get_running_loop().call_soon(self.abandon)

    async def drained(self) -> None:
        """Wait until nothing is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, operation: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.create_task(operation)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            _LOGGER.debug("an operation on the virtual radio failed: %s", type(error).__name__)


class Radio:
    """One HCI host that has joined a hub.

    Attributes:
        device: Bumble's host stack.
        operations: What is under way on the radio as a whole.
        connecting: Held while a connection is being created: HCI allows one at a time.
        on_lost: Called when the hub goes away, after every connection has ended.
    """

    def __init__(self, source: "_Source", transport: asyncio.Transport, device: Device) -> None:
        self.device = device
        self.operations = Operations()
        self.connecting = asyncio.Lock()
        self.on_lost: Callable[[], None] | None = None
        self._source = source
        self._transport = transport
        self._scanning = asyncio.Lock()
        self._scanners: dict[Callable[[Advertisement], None], bool] = {}
        self._is_closing = False
        source.on_closed = self._closed
        device.on(Device.EVENT_ADVERTISEMENT, self._heard)
        device.l2cap_channel_manager.register_fixed_channel(att.ATT_CID, self._on_att_pdu)

    @classmethod
    async def open(cls, endpoint: Endpoint, *, name: str, address: Address | None = None) -> Self:
        """Join a hub.

        Args:
            endpoint: Where the hub listens.
            name: The GAP device name.
            address: This host's static random address; by default a fresh one.

        Raises:
            RadioUnavailableError: No hub is there.
        """
        try:
            transport, source = await endpoint.connect(_Source)
        except OSError as error:
            raise RadioUnavailableError(
                f"no virtual radio at {endpoint}: {error.strerror or error}; start one with `bletoken-sim air`"
            ) from error
        configuration = DeviceConfiguration(
            name=name,
            address=address or Address.generate_static_address(),
            # Whoever needs another GATT server puts it in place before the default services are added.
            gap_service_enabled=False,
            gatt_service_enabled=False,
        )
        device = Device.from_config_with_hci(configuration, source, StreamPacketSink(transport))
        radio = cls(source, transport, device)
        try:
            await radio.operations.run(device.power_on())
        except (AbandonedError, core.BaseBumbleError) as error:
            await radio.close()
            raise RadioUnavailableError(f"the virtual radio at {endpoint} went away") from error
        except BaseException:
            radio.close_soon()
            raise
        return radio

    @property
    def is_open(self) -> bool:
        """Whether the hub is still there."""
        return not (self._is_closing or self._source.terminated.done())

    def close_soon(self) -> None:
        """Leave the hub, without waiting until that is done."""
        self._is_closing = True
        self.operations.abandon()
        self._transport.close()

    async def close(self) -> None:
        """Leave the hub."""
        self.close_soon()
        await self.closed()

    async def closed(self) -> None:
        """Wait until the socket is closed and nothing is under way."""
        await asyncio.wait({self._source.terminated})
        await self.operations.drained()

    def holds(self, connection: Connection) -> bool:
        """Tell whether a connection is still up."""
        return self.device.connections.get(connection.handle) is connection

    async def disconnect(self, connection: Connection) -> None:
        """End a connection and wait until it has ended; run this as one of some `operations`.

        HACK: Bumble 0.0.236's `Connection.disconnect` raises in the midst of the host's event handling when it is
        cancelled, or the radio lost, at the wrong moment; then the others are never told.
        """
        if not self.holds(connection):
            return
        ended = asyncio.Event()
        connection.once(Connection.EVENT_DISCONNECTION, lambda _reason: ended.set())
        reason = HCI_ErrorCode.REMOTE_USER_TERMINATED_CONNECTION_ERROR
        await self.device.send_async_command(HCI_Disconnect_Command(connection_handle=connection.handle, reason=reason))
        await ended.wait()

    async def start_scan(self, heard: Callable[[Advertisement], None], *, is_active: bool) -> None:
        """Call `heard` for every advertisement until `stop_scan`."""
        self._scanners[heard] = is_active
        await self._scan()

    async def stop_scan(self, heard: Callable[[Advertisement], None]) -> None:
        """Undo `start_scan`; does nothing twice."""
        if self._scanners.pop(heard, None) is not None and self.is_open:
            await self._scan()

    async def _scan(self) -> None:
        async with self._scanning:
            if self.device.scanning:
                await self.operations.run(self.device.stop_scanning())
            if self._scanners:
                await self.operations.run(self.device.start_scanning(active=any(self._scanners.values())))

    def _heard(self, advertisement: Advertisement) -> None:
        for heard in tuple(self._scanners):
            heard(advertisement)

    def _on_att_pdu(self, handle: int, pdu: bytes) -> None:
        """Hand an ATT PDU to Bumble, unless it makes no sense: then answer it, or hang up, as BlueZ does.

        HACK: Bumble 0.0.236 drops such a PDU and leaves the peer, or its own caller, waiting for 30 s.
        """
        connection = self.device.lookup_connection(handle)
        if connection is None or not pdu:
            return
        opcode = pdu[0]
        is_from_server, is_command = bool(opcode & 0x01), bool(opcode & 0x40)
        is_known = opcode in _FROM_SERVERS if is_from_server else is_command or opcode in _FROM_CLIENTS
        refusal = att.ATT_INVALID_PDU_ERROR if is_known else att.ATT_REQUEST_NOT_SUPPORTED_ERROR
        try:
            parsed = att.ATT_PDU.from_bytes(pdu)
        except Exception:  # noqa: BLE001 - Bumble's parsers fail in their own ways (IndexError, struct.error, ...)
            is_known = False
        else:
            is_known = is_known and not (is_from_server and _is_out_of_turn(connection, parsed))
        if is_known:
            self.device.on_gatt_pdu(handle, pdu)
        elif is_from_server:
            self._hang_up(connection)
        elif not is_command:
            error = att.ATT_Error_Response(
                request_opcode_in_error=opcode, attribute_handle_in_error=0, error_code=refusal
            )
            connection.send_l2cap_pdu(att.ATT_CID, bytes(error))

    def _hang_up(self, connection: Connection) -> None:
        self.operations.spawn(self.disconnect(connection))

    def _closed(self) -> None:
        self.operations.abandon()
        if not self._is_closing and self.on_lost:
            self.on_lost()


def _is_out_of_turn(connection: Connection, pdu: att.ATT_PDU) -> bool:
    if pdu.op_code not in att.ATT_RESPONSES:
        return False
    request = connection.gatt_client.pending_request
    answered = pdu.request_opcode_in_error if isinstance(pdu, att.ATT_Error_Response) else pdu.op_code - 1
    return request is None or request.op_code != answered


class _Source(StreamPacketSource):
    """The receiving half of the socket to the hub."""

    on_closed: Callable[[], None] | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        _LOGGER.debug("the connection to the hub ended: %s", exc)
        # HACK: Bumble 0.0.236 fails the pending command even when it has just been answered; that raises, and nobody
        # else is told.
        if isinstance(self.sink, Host) and self.sink.pending_response and self.sink.pending_response.done():
            self.sink.pending_response = None
        try:
            self.on_transport_lost()
        finally:
            if self.on_closed:
                self.on_closed()


class Adapter:
    """One radio for all the scanners and clients that use it, as an operating system has: it is there while any does.

    Args:
        endpoint: The hub to join.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._opening = asyncio.Lock()
        self._radio: Radio | None = None
        self._users = 0

    async def lease(self) -> "Lease":
        """Use the radio, from now until the lease is given back.

        Raises:
            RadioUnavailableError: No hub is there.
        """
        async with self._opening:
            if self._radio is None or not self._radio.is_open:
                self._radio, self._users = None, 0
                radio = await Radio.open(self.endpoint, name="companion")
                radio.device.add_default_services()
                self._radio = radio
            self._users += 1
            return Lease(self._radio, self._give_back)

    def _give_back(self, radio: Radio) -> None:
        # The users of a radio that was lost may give it back when the next one is already there.
        if radio is self._radio:
            self._users -= 1
            if not self._users:
                self._radio = None
                radio.close_soon()


class Lease:
    """One user's hold on an adapter's radio; the last one to give theirs back closes it.

    Attributes:
        radio: The radio.
    """

    def __init__(self, radio: Radio, give_back: Callable[[Radio], None]) -> None:
        self.radio = radio
        self._give_back: Callable[[Radio], None] | None = give_back

    def give_back(self) -> None:
        """Return the radio; does nothing twice."""
        give_back, self._give_back = self._give_back, None
        if give_back:
            give_back(self.radio)

    async def settled(self) -> None:
        """Wait until the radio is closed, if it is closing."""
        if not self.radio.is_open:
            await self.radio.closed()
