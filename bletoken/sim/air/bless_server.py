"""bless on the virtual radio: a GATT server with stock bless's behaviour, and with what bless does not say."""

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Any, Final, Protocol, cast
from uuid import UUID

from bleak.uuids import normalize_uuid_str
from bless.backends.attribute import GATTAttributePermissions
from bless.backends.characteristic import BlessGATTCharacteristic, GATTCharacteristicProperties
from bless.backends.descriptor import BlessGATTDescriptor, GATTDescriptorProperties
from bless.backends.server import BaseBlessServer
from bless.backends.service import BlessGATTService
from bless.exceptions import BlessError
from bumble import att, core, gatt, gatt_server
from bumble.core import AdvertisingData
from bumble.data_types import (
    CompleteListOf128BitServiceUUIDs,
    CompleteLocalName,
    Flags,
    IncompleteListOf128BitServiceUUIDs,
)
from bumble.device import Connection, Device
from bumble.hci import Address, HCI_LE_Set_Scan_Response_Data_Command, Role

from bletoken.errors import RadioUnavailableError
from bletoken.sim.air.radio import AbandonedError, Operations, Radio, bumble_uuid
from bletoken.sim.air.spec import RadioSpec

_LOGGER: Final = logging.getLogger(__name__)

_ADVERTISING_INTERVAL_MS: Final = 100.0
_MAX_NAME_LENGTH: Final = 29
"""A scan response holds 31 octets, two of which are the name's length and type."""

_MAX_VALUE_LENGTH: Final = 512
"""The longest attribute value (Core 5.4 Vol 3 Part F 3.2.9)."""

_APPLICATION_ERRORS: Final = range(0x80, 0xA0)
"""The ATT errors that mean what the application says (Core 5.4 Vol 3 Part F 3.4.1.1)."""


class PeerDelegate(Protocol):
    """What an application is told about the peers of a server, and asked on their behalf.

    A peer is an opaque string, unique for each connection: a peer that comes back is a new one. An exception from
    `read` or `write` answers the request with the ATT error of its `att_error_hint` (0x80 to 0x9F), else 0x0E.
    """

    def connected(self, peer: str) -> None:
        """A peer has connected."""

    def disconnected(self, peer: str) -> None:
        """A peer is gone; nothing about it follows."""

    def mtu_changed(self, peer: str, mtu: int) -> None:
        """A peer's ATT MTU is now this; before the first call it is 23."""

    def read(self, peer: str, uuid: str, offset: int) -> bytes:
        """Return the whole value of a characteristic; a long read is served from one such value."""

    def write(self, peer: str, uuid: str, value: bytes) -> None:
        """Take a value that a peer has written."""


class _AirService(BlessGATTService):  # type: ignore[misc]  # bless is not typed
    def __init__(self, uuid: str, handle: int) -> None:
        super().__init__(uuid)
        self.obj = None
        self._handle = handle
        self._characteristics: dict[int, _AirCharacteristic] = {}

    async def init(self, server: BaseBlessServer) -> None:
        """Nothing to do: Bumble's objects are made at start."""


class _AirCharacteristic(BlessGATTCharacteristic):  # type: ignore[misc]  # bless is not typed
    def __init__(
        self,
        uuid: str,
        properties: GATTCharacteristicProperties,
        permissions: GATTAttributePermissions,
        value: bytearray | None,
        handle: int,
    ) -> None:
        super().__init__(uuid, properties, permissions, value)
        self.obj = None
        self._handle = handle
        self._value = bytearray() if value is None else value
        self._descriptors: dict[int, _AirDescriptor] = {}

    async def init(self, service: BlessGATTService) -> None:
        """Join a service."""
        self._service = service

    @property
    def value(self) -> bytearray:
        """The value as the application set it last."""
        return self._value

    @value.setter
    def value(self, value: bytearray) -> None:
        self._value = value

    @property
    def property_flags(self) -> GATTCharacteristicProperties:
        """The properties as bless gave them."""
        return self._properties_flags

    @property
    def permissions(self) -> GATTAttributePermissions:
        """The permissions as bless gave them."""
        return self._permissions

    @property
    def is_readable(self) -> bool:
        """Whether peers may read it."""
        return bool(
            self._properties_flags & GATTCharacteristicProperties.read
            and self._permissions & GATTAttributePermissions.readable
        )

    @property
    def is_writable(self) -> bool:
        """Whether peers may write it, by requests and by commands: BlueZ, too, tells these apart nowhere."""
        return bool(
            self._properties_flags
            & (GATTCharacteristicProperties.write | GATTCharacteristicProperties.write_without_response)
            and self._permissions & GATTAttributePermissions.writeable
        )


class _AirDescriptor(BlessGATTDescriptor):  # type: ignore[misc]  # bless is not typed
    def __init__(
        self,
        uuid: str,
        properties: GATTDescriptorProperties,
        permissions: GATTAttributePermissions,
        value: bytearray | None,
        handle: int,
    ) -> None:
        super().__init__(uuid, properties, permissions, value)
        self.obj = None
        self._handle = handle
        self._value = bytearray() if value is None else value

    async def init(self, characteristic: BlessGATTCharacteristic) -> None:
        """Join a characteristic."""
        self._characteristic = characteristic

    @property
    def value(self) -> bytearray:
        """The value as the application set it last."""
        return self._value

    @value.setter
    def value(self, value: bytearray) -> None:
        self._value = value


class AirServer(BaseBlessServer):  # type: ignore[misc]  # bless is not typed
    """A bless server on the virtual radio.

    Without `peers`, the stock bless callbacks are used: `read_request_func(characteristic)` and
    `write_request_func(characteristic, value)`.

    Args:
        name: The local name, at most 29 octets of UTF-8.
        loop: As in bless; by default the running one.
        spec: The radio, `air:unix:/path` or `air:tcp:127.0.0.1:port`, with `?mtu=N` for a smaller ATT MTU.
        address: The static random address; by default a fresh one for each server.

    Attributes:
        peers: Who is told about peers, or None.
        on_radio_lost: Called when the hub has gone away, after every peer's `disconnected`; the server may be started
            again.
    """

    def __init__(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        spec: str,
        address: str | None = None,
        **kwargs: Any,  # noqa: ANN401 - bless passes every platform's
    ) -> None:
        super().__init__(loop=loop or asyncio.get_running_loop(), **kwargs)
        self.name = _checked_name(name)
        self.peers: PeerDelegate | None = None
        self.on_radio_lost: Callable[[], None] | None = None
        self._spec = RadioSpec.parse(spec)
        self._address = Address(address) if address else Address.generate_static_address()
        self._handles = itertools.count(1)
        self._peer_numbers = itertools.count(1)
        self._radio: Radio | None = None
        self._gatt: _GattServer | None = None
        self._connections: dict[str, Connection] = {}
        self._is_wanted_on_air = True
        self._advertising = asyncio.Lock()
        self._operations = Operations()
        self._operations.abandon()  # Nothing is possible before `start`.

    # Building -----------------------------------------------------------------------------------------------------

    async def add_new_service(self, uuid: str) -> None:
        """Add a primary service; before `start`."""
        service = _AirService(str(UUID(uuid)), next(self._handles))
        await service.init(self)
        self.services[service.uuid] = service

    async def add_new_characteristic(
        self,
        service_uuid: str,
        char_uuid: str,
        properties: GATTCharacteristicProperties,
        value: bytearray | None,
        permissions: GATTAttributePermissions,
    ) -> None:
        """Add a characteristic to a service; before `start`."""
        if properties & GATTCharacteristicProperties.indicate:
            raise BlessError("the virtual radio notifies and does not indicate")
        service = self.services[str(UUID(service_uuid))]
        characteristic = _AirCharacteristic(str(UUID(char_uuid)), properties, permissions, value, next(self._handles))
        await characteristic.init(service)
        service.add_characteristic(characteristic)

    async def add_new_descriptor(
        self,
        service_uuid: str,
        char_uuid: str,
        desc_uuid: str,
        properties: GATTDescriptorProperties,
        value: bytearray | None,
        permissions: GATTAttributePermissions,
    ) -> None:
        """Add a descriptor, with a value that peers can only read, to a characteristic; before `start`."""
        characteristic = self.services[str(UUID(service_uuid))].get_characteristic(char_uuid)
        descriptor = _AirDescriptor(normalize_uuid_str(desc_uuid), properties, permissions, value, next(self._handles))
        await descriptor.init(characteristic)
        characteristic.add_descriptor(descriptor)

    # Life cycle ---------------------------------------------------------------------------------------------------

    async def start(self, **_kwargs: Any) -> bool:  # noqa: ANN401 - bless passes every platform's
        """Join the hub, publish the services and advertise.

        Raises:
            BlessError: There is no hub, or the server runs already.
        """
        if self._radio and self._radio.is_open:
            raise BlessError("the server is already running")
        await self.stop()  # What a lost radio has left.
        try:
            self._radio = await Radio.open(self._spec.endpoint, name=self.name, address=self._address)
        except RadioUnavailableError as error:
            raise BlessError(str(error)) from error
        self._radio.on_lost = self._on_lost
        self._operations = Operations()
        device = self._radio.device
        self._gatt = device.gatt_server = _GattServer(device, self._read, self._write)
        if self._spec.att_mtu:
            self._gatt.max_mtu = self._spec.att_mtu
        device.add_default_services()
        self._gatt.publish(self.services.values())
        device.on(Device.EVENT_CONNECTION, self._on_connection)
        try:
            await self._operations.run(self._advertise())
        except BaseException as error:
            await self.stop()
            if isinstance(error, AbandonedError | core.BaseBumbleError):
                raise BlessError(f"the virtual radio at {self._spec.endpoint} went away") from error
            raise
        return True

    async def stop(self) -> bool:
        """Stop advertising, disconnect every peer and leave the hub; does nothing twice."""
        radio = self._radio
        if radio is None:
            return True
        if radio.is_open:
            await self._attempt(self._advertise(on=False))
            for peer in tuple(self._connections):
                await self.disconnect_peer(peer)
        # Forgotten only now: until here a connection may still come in, and its end is reported.
        self._radio = None
        self._operations.abandon()
        await self._operations.drained()
        await radio.close()
        self._gatt = None
        return True

    async def is_connected(self) -> bool:
        """Whether any peer is connected."""
        return bool(self._connections)

    async def is_advertising(self) -> bool:
        """Whether the server advertises, or is just about to again after a connection."""
        return self._is_wanted_on_air and self._radio is not None and self._radio.is_open

    async def set_advertising(self, on: bool) -> None:
        """Start or stop advertising; connections are not touched. Before `start` it says what `start` does."""
        self._is_wanted_on_air = on
        await self._attempt(self._advertise())

    async def set_name(self, name: str) -> None:
        """Change the local name in the scan response.

        Raises:
            BlessError: The name is too long.
        """
        self.name = _checked_name(name)
        await self._attempt(self._rename())

    async def disconnect_peer(self, peer: str) -> None:
        """End a peer's connection; does nothing when it has gone already."""
        if self._radio and (connection := self._connections.get(peer)):
            await self._attempt(self._radio.disconnect(connection))

    def update_value(self, service_uuid: str, char_uuid: str) -> bool:
        """Notify every subscriber of a characteristic's value, cut to what each one's MTU holds.

        Returns:
            Whether there is such a characteristic, on a running server.
        """
        service = self.get_service(service_uuid)
        characteristic = service.get_characteristic(char_uuid) if service else None
        if characteristic is None or self._gatt is None:
            return False
        self._gatt.notify(characteristic.uuid, bytes(characteristic.value))
        return True

    async def _attempt(self, operation: Any) -> None:  # noqa: ANN401 - any coroutine
        """Carry out an operation that is void when the radio or the connection goes away meanwhile."""
        try:
            await self._operations.run(operation)
        except (AbandonedError, core.BaseBumbleError) as error:
            _LOGGER.debug("not done on the virtual radio: %s", type(error).__name__)

    async def _advertise(self, *, on: bool = True) -> None:
        """Bring the air in line with what is wanted."""
        async with self._advertising:
            assert self._radio is not None
            device = self._radio.device
            if on and self._is_wanted_on_air:
                await device.start_advertising(
                    advertising_data=self._advertisement(),
                    scan_response_data=self._scan_response(),
                    advertising_interval_min=_ADVERTISING_INTERVAL_MS,
                    advertising_interval_max=_ADVERTISING_INTERVAL_MS,
                )
            else:
                await device.stop_advertising()

    async def _rename(self) -> None:
        """Answer scanners with the name; the advert goes on as it is."""
        async with self._advertising:
            assert self._radio is not None
            await self._radio.device.send_sync_command(
                HCI_LE_Set_Scan_Response_Data_Command(scan_response_data=self._scan_response())
            )

    def _scan_response(self) -> bytes:
        return bytes(AdvertisingData([CompleteLocalName(self.name)]))

    def _advertisement(self) -> bytes:
        kinds = AdvertisingData.Flags
        flags = Flags(kinds.LE_GENERAL_DISCOVERABLE_MODE | kinds.BR_EDR_NOT_SUPPORTED)
        uuids = [core.UUID(uuid) for uuid in self.services]
        if len(uuids) == 1:
            return bytes(AdvertisingData([flags, CompleteListOf128BitServiceUUIDs(uuids)]))
        # One is all that 31 octets hold.
        return bytes(AdvertisingData([flags, IncompleteListOf128BitServiceUUIDs(uuids[:1])]))

    # What happens on the radio --------------------------------------------------------------------------------------

    def _on_connection(self, connection: Connection) -> None:
        if connection.role != Role.PERIPHERAL:
            return
        peer = f"{connection.peer_address.to_string(False)}#{next(self._peer_numbers)}"
        self._connections[peer] = connection
        connection.on(Connection.EVENT_DISCONNECTION, lambda _reason: self._on_disconnection(peer))
        connection.on(Connection.EVENT_CONNECTION_ATT_MTU_UPDATE, lambda: self._on_mtu(peer, connection.att_mtu))
        # A controller stops advertising when it is connected to; this server takes several peers.
        self._operations.spawn(self._advertise())
        if self.peers:
            self.peers.connected(peer)

    def _on_disconnection(self, peer: str) -> None:
        connection = self._connections.pop(peer, None)
        if connection is None:
            return
        if self._gatt:
            self._gatt.forget(connection)
        if self.peers:
            self.peers.disconnected(peer)

    def _on_mtu(self, peer: str, mtu: int) -> None:
        if self.peers:
            self.peers.mtu_changed(peer, mtu)

    def _on_lost(self) -> None:
        self._operations.abandon()
        if self.on_radio_lost:
            self.on_radio_lost()

    def _peer_of(self, connection: Connection) -> str:
        for peer, known in self._connections.items():
            if known is connection:
                return peer
        # Bumble serves requests in tasks: the peer went before its turn came.
        raise att.ATT_Error(att.ATT_UNLIKELY_ERROR_ERROR)

    def _read(self, characteristic: _AirCharacteristic, connection: Connection) -> bytes:
        if not characteristic.is_readable:
            raise att.ATT_Error(att.ATT_READ_NOT_PERMITTED_ERROR)
        with _AttErrors():
            if self.peers:
                value = self.peers.read(self._peer_of(connection), characteristic.uuid, 0)
            else:
                value = self.read_request(characteristic.uuid)
            if len(value) > _MAX_VALUE_LENGTH:
                raise ValueError("an attribute value holds at most 512 octets")
            return bytes(value)

    def _write(self, characteristic: _AirCharacteristic, connection: Connection, value: bytes) -> None:
        if not characteristic.is_writable:
            raise att.ATT_Error(att.ATT_WRITE_NOT_PERMITTED_ERROR)
        with _AttErrors():
            if self.peers:
                self.peers.write(self._peer_of(connection), characteristic.uuid, bytes(value))
            else:
                self.write_request(characteristic.uuid, bytearray(value))


class _AttErrors:
    """Turns whatever the application raises into an ATT error.

    HACK: Bumble 0.0.236 answers nothing after another exception, and the client waits for 30 s.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, att.ATT_Error):
            return
        hint = getattr(error, "att_error_hint", None)
        if isinstance(hint, int) and hint in _APPLICATION_ERRORS:
            raise att.ATT_Error(hint) from error
        _LOGGER.warning("a GATT request failed in the application: %s", type(error).__name__)
        raise att.ATT_Error(att.ATT_UNLIKELY_ERROR_ERROR) from error


class _GattServer(gatt_server.Server):
    """Bumble's GATT server, with permissions and with long reads from one value."""

    def __init__(
        self,
        device: Device,
        read: Callable[[_AirCharacteristic, Connection], bytes],
        write: Callable[[_AirCharacteristic, Connection, bytes], None],
    ) -> None:
        super().__init__(device)
        self._read = read
        self._write = write
        self._published: dict[str, gatt.Characteristic[bytes]] = {}
        self._blessed: dict[int, _AirCharacteristic] = {}
        # The values that long reads are served from, by connection and value handle.
        self._snapshots: dict[att.Bearer, dict[int, bytes]] = {}

    def publish(self, services: Any) -> None:  # noqa: ANN401 - bless is not typed
        """Add the services that an application has built."""
        for service in services:
            characteristics = [self._make(characteristic) for characteristic in service.characteristics]
            self.add_service(gatt.Service(bumble_uuid(service.uuid), characteristics))
            for blessed, made in zip(service.characteristics, characteristics, strict=True):
                self._published[blessed.uuid] = made
                self._blessed[made.handle] = blessed

    def notify(self, uuid: str, value: bytes) -> None:
        """Notify every subscriber, at once."""
        handle = self._published[uuid].handle
        notify_bit = gatt.ClientCharacteristicConfigurationBits.NOTIFICATION
        for bearer, settings in tuple(self.subscribers.items()):
            if int.from_bytes(settings.get(handle, b""), "little") & notify_bit:
                notification = att.ATT_Handle_Value_Notification(
                    attribute_handle=handle, attribute_value=value[: bearer.att_mtu - 3]
                )
                self.send_gatt_pdu(bearer, bytes(notification))

    def forget(self, connection: Connection) -> None:
        """Drop what is kept for a connection."""
        self._snapshots.pop(connection, None)
        self.on_disconnection(connection)

    def on_gatt_pdu(self, bearer: att.Bearer, att_pdu: att.ATT_PDU) -> None:
        """Take a PDU; whatever reads a value from its start makes a new snapshot of it."""
        if (att_pdu.op_code in _READS_FROM_START) or (
            isinstance(att_pdu, att.ATT_Read_Blob_Request) and att_pdu.value_offset == 0
        ):
            self._snapshots.pop(bearer, None)
        super().on_gatt_pdu(bearer, att_pdu)

    def on_att_write_command(self, bearer: att.Bearer, request: att.ATT_Write_Command) -> None:
        """Deliver a Write Command; one that is refused vanishes (Bumble 0.0.236 logs a traceback for each)."""
        blessed = self._blessed.get(request.attribute_handle)
        if blessed is None:
            super().on_att_write_command(bearer, request)
        elif len(request.attribute_value) <= _MAX_VALUE_LENGTH:
            try:
                self._write(blessed, cast("Connection", bearer), request.attribute_value)
            except att.ATT_Error as error:
                _LOGGER.debug("a write command was refused: 0x%02X", error.error_code)

    def on_att_prepare_write_request(self, bearer: att.Bearer, request: att.ATT_Prepare_Write_Request) -> None:
        """Queue a part of a long write; Bumble 0.0.236 checks no permission before the end."""
        blessed = self._blessed.get(request.attribute_handle)
        if blessed is not None and not blessed.is_writable:
            raise att.ATT_Error(att.ATT_WRITE_NOT_PERMITTED_ERROR, request.attribute_handle)
        super().on_att_prepare_write_request(bearer, request)

    def _make(self, blessed: _AirCharacteristic) -> gatt.Characteristic[bytes]:
        kinds = gatt.Characteristic.Permissions
        permissions = kinds.READABLE | kinds.WRITEABLE
        if blessed.permissions & GATTAttributePermissions.read_encryption_required:
            permissions |= kinds.READ_REQUIRES_ENCRYPTION
        if blessed.permissions & GATTAttributePermissions.write_encryption_required:
            permissions |= kinds.WRITE_REQUIRES_ENCRYPTION
        made: gatt.Characteristic[bytes] = gatt.Characteristic(
            bumble_uuid(blessed.uuid),
            gatt.Characteristic.Properties(blessed.property_flags.value & 0xFF),
            permissions,
            None,
            [
                gatt.Descriptor(bumble_uuid(descriptor.uuid), kinds.READABLE, bytes(descriptor.value))
                for descriptor in blessed.descriptors
            ],
        )

        def read(connection: Connection) -> bytes:
            snapshots = self._snapshots.setdefault(connection, {})
            if made.handle not in snapshots:
                snapshots[made.handle] = self._read(blessed, connection)
            return snapshots[made.handle]

        def write(connection: Connection, value: bytes) -> None:
            self._write(blessed, connection, value)

        made.value = gatt.CharacteristicValue(read=read, write=write)
        return made


_READS_FROM_START: Final = frozenset(
    {
        att.Opcode.ATT_READ_REQUEST,
        att.Opcode.ATT_READ_BY_TYPE_REQUEST,
        att.Opcode.ATT_READ_MULTIPLE_REQUEST,
        att.Opcode.ATT_READ_MULTIPLE_VARIABLE_REQUEST,
    }
)


def _checked_name(name: str) -> str:
    if len(name.encode()) > _MAX_NAME_LENGTH:
        raise BlessError(f"a local name holds at most {_MAX_NAME_LENGTH} octets")
    return name
