"""bleak on the virtual radio: a scanner and a client that code written for bleak cannot tell from a real adapter's."""

import asyncio
import struct
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, TypeVar
from uuid import UUID

from bleak.args import SizedBuffer
from bleak.assigned_numbers import CharacteristicPropertyName
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.client import BaseBleakClient, NotifyCallback
from bleak.backends.descriptor import BleakGATTDescriptor
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData, AdvertisementDataCallback, BaseBleakScanner
from bleak.backends.service import BleakGATTService, BleakGATTServiceCollection
from bleak.exc import BleakDeviceNotFoundError, BleakError, BleakGATTProtocolError
from bleak.uuids import normalize_uuid_16, normalize_uuid_32
from bumble import att, core, gatt, hci
from bumble.core import AdvertisingData
from bumble.device import Advertisement, Connection
from bumble.gatt_client import CharacteristicProxy, Client, ServiceProxy

from bletoken.errors import RadioUnavailableError
from bletoken.sim.air.radio import AbandonedError, Adapter, Lease, Operations, Radio, bumble_uuid
from bletoken.sim.air.spec import RadioSpec

_T = TypeVar("_T")

_DEFAULT_ATT_MTU: Final = 517
"""What BlueZ offers."""

_PROPERTIES: Final[dict[gatt.Characteristic.Properties, CharacteristicPropertyName]] = {
    gatt.Characteristic.Properties.BROADCAST: "broadcast",
    gatt.Characteristic.Properties.READ: "read",
    gatt.Characteristic.Properties.WRITE_WITHOUT_RESPONSE: "write-without-response",
    gatt.Characteristic.Properties.WRITE: "write",
    gatt.Characteristic.Properties.NOTIFY: "notify",
    gatt.Characteristic.Properties.INDICATE: "indicate",
    gatt.Characteristic.Properties.AUTHENTICATED_SIGNED_WRITES: "authenticated-signed-writes",
    gatt.Characteristic.Properties.EXTENDED_PROPERTIES: "extended-properties",
}


def backends(spec: str) -> tuple[type["AirScanner"], type["AirClient"]]:
    """Return the classes to pass as `backend` to `BleakScanner` and `BleakClient`: a new adapter on a hub.

    What is made with the classes of one call shares one radio, and so one address; several calls are several adapters.

    Args:
        spec: A radio spec, `air:unix:/path` or `air:tcp:127.0.0.1:port`, with `?mtu=N` to offer another ATT MTU.

    Raises:
        UsageError: The spec cannot be read.
    """
    parsed = RadioSpec.parse(spec)
    shared = Adapter(parsed.endpoint)

    class BoundScanner(AirScanner):
        adapter = shared

    class BoundClient(AirClient):
        adapter = shared
        att_mtu = parsed.att_mtu or _DEFAULT_ATT_MTU

    return BoundScanner, BoundClient


class AirScanner(BaseBleakScanner):
    """A bleak scanner on the virtual radio; `backends` binds it to an adapter.

    Attributes:
        adapter: The radio that it shares.
    """

    adapter: ClassVar[Adapter]

    def __init__(
        self,
        detection_callback: AdvertisementDataCallback | None,
        service_uuids: list[str] | None,
        scanning_mode: Literal["active", "passive"],
        **_platform_arguments: Any,  # noqa: ANN401 - bleak passes every platform's
    ) -> None:
        super().__init__(detection_callback, service_uuids)
        self._is_active = scanning_mode == "active"
        self._lease: Lease | None = None

    async def start(self) -> None:
        """Start scanning.

        Raises:
            BleakError: There is no hub, or the scanner runs already.
        """
        if self._lease:
            raise BleakError("the scanner is already running")
        self.seen_devices.clear()
        self._lease = await _lease(self.adapter)
        try:
            await self._lease.radio.start_scan(self._heard, is_active=self._is_active)
        except BaseException as error:
            await self.stop()
            if isinstance(error, AbandonedError | core.BaseBumbleError):
                raise BleakError(f"the virtual radio at {self.adapter.endpoint} went away") from error
            raise

    async def stop(self) -> None:
        """Stop scanning; does nothing when the radio has gone."""
        lease, self._lease = self._lease, None
        if lease is None:
            return
        try:
            with suppress(AbandonedError, core.BaseBumbleError):  # The radio may go away meanwhile.
                await lease.radio.stop_scan(self._heard)
        finally:
            lease.give_back()
            await lease.settled()

    def _heard(self, advertisement: Advertisement) -> None:
        data = _advertisement_data(advertisement)
        if not self.is_allowed_uuid(data.service_uuids):
            return
        address = advertisement.address.to_string(False)
        details = {"address": advertisement.address}
        device = self.create_or_update_device(address, address, data.local_name, details, data)
        self.call_detection_callbacks(device, data)


@dataclass(eq=False)
class _Link:
    """A client's connection, and what hangs on it."""

    lease: Lease
    connection: Connection
    operations: Operations = field(default_factory=Operations)
    is_reported: bool = False

    @property
    def gatt(self) -> Client:
        return self.connection.gatt_client


class AirClient(BaseBleakClient):
    """A bleak client on the virtual radio; `backends` binds it to an adapter.

    Args:
        address_or_ble_device: The device, or its address.
        disconnected_callback: Called once when an established connection ends, whoever ended it.
        timeout: Seconds for `connect`; when an address was given, also for finding it.
        services: Only these services are discovered (UUIDs in full form); None for all.
        att_mtu: The ATT MTU to offer; by default the spec's. 23 leaves the exchange out.

    Attributes:
        adapter: The radio that it shares.
    """

    adapter: ClassVar[Adapter]
    att_mtu: int = _DEFAULT_ATT_MTU

    def __init__(
        self,
        address_or_ble_device: BLEDevice | str,
        *,
        disconnected_callback: Callable[[], None] | None,
        timeout: float,
        services: set[str] | None = None,
        att_mtu: int | None = None,
        **_platform_arguments: Any,  # noqa: ANN401 - bleak passes every platform's
    ) -> None:
        super().__init__(address_or_ble_device, disconnected_callback=disconnected_callback, timeout=timeout)
        self._device = address_or_ble_device if isinstance(address_or_ble_device, BLEDevice) else None
        self._wanted_services = services
        if att_mtu is not None:
            self.att_mtu = att_mtu
        self._link: _Link | None = None

    @property
    def name(self) -> str:
        """The advertised name, or the address with dashes."""
        return (self._device.name if self._device else None) or self.address.replace(":", "-")

    @property
    def mtu_size(self) -> int:
        """The negotiated ATT MTU; 23 while not connected."""
        return self._link.connection.att_mtu if self._link else att.ATT_DEFAULT_MTU

    @property
    def is_connected(self) -> bool:
        """Whether the link is up."""
        return self._link is not None

    # Connectivity -------------------------------------------------------------------------------------------------

    async def connect(self, pair: bool, **_kwargs: Any) -> None:  # noqa: ANN401 - bleak's own signature
        """Connect, exchange the MTU and discover.

        Raises:
            BleakDeviceNotFoundError: Nothing with this address advertises (when the address was given as a string).
            BleakError: There is no hub, or the connection was lost at once.
            TimeoutError: The device did not answer in time.
        """
        if self._link:
            raise BleakError("the client is already connected")
        lease = await _lease(self.adapter)
        try:
            address = self._device.details["address"] if self._device else await self._find(lease.radio)
            async with asyncio.timeout(self._timeout):
                connection = await self._establish(lease.radio, address)
                link = self._link = _Link(lease, connection)
                connection.on(Connection.EVENT_DISCONNECTION, lambda _reason: self._on_disconnection(link))
                if not lease.radio.holds(connection):
                    self._on_disconnection(link)  # It ended before anybody listened.
                if pair:
                    await self._run(connection.pair())
                if self.att_mtu > att.ATT_DEFAULT_MTU:
                    await self._run(link.gatt.request_mtu(self.att_mtu))
                services = await self._run(self._discover(link))
        except BaseException as error:
            if self._link:
                await self.disconnect()
            lease.give_back()
            await lease.settled()
            if isinstance(error, AbandonedError):
                raise BleakError(f"the virtual radio at {self.adapter.endpoint} went away") from error
            raise
        if self._link is not link:
            raise BleakError("the device disconnected at once")
        self.services = services
        link.is_reported = True

    async def disconnect(self) -> None:
        """Disconnect; does nothing when not connected."""
        link = self._link
        if link is None:
            return
        with suppress(AbandonedError, core.BaseBumbleError):  # The link may end by itself meanwhile.
            await link.operations.run(link.lease.radio.disconnect(link.connection))
        await link.lease.settled()

    async def pair(self, *_args: Any, **_kwargs: Any) -> None:  # noqa: ANN401 - bleak's own signature
        """Pair with the device."""
        await self._run(self._connected().connection.pair())

    async def unpair(self) -> None:
        """Not available: the virtual radio keeps no bonds."""
        raise BleakError("the virtual radio keeps no bonds")

    async def _establish(self, radio: Radio, address: hci.Address) -> Connection:
        async with radio.connecting:
            if radio.device.find_connection_by_bd_addr(address):
                raise BleakError(f"this adapter is already connected to {self.address}")
            attempt = asyncio.create_task(radio.device.connect(address, timeout=None))
            try:
                await asyncio.wait({attempt})
            except BaseException:
                await _give_up(radio, attempt)
                raise
        if attempt.cancelled():
            raise AbandonedError
        try:
            return attempt.result()
        except core.BaseBumbleError as error:
            raise BleakError(f"cannot connect to {self.address}: {error}") from error

    async def _find(self, radio: Radio) -> hci.Address:
        """Look for the address given, as its kind (public or random) is only known from its advertisement."""
        found: asyncio.Future[hci.Address] = asyncio.get_running_loop().create_future()

        def heard(advertisement: Advertisement) -> None:
            if advertisement.address.to_string(False).upper() == self.address.upper() and not found.done():
                found.set_result(advertisement.address)

        async def look() -> hci.Address:
            return await found

        await radio.start_scan(heard, is_active=False)
        try:
            async with asyncio.timeout(self._timeout):
                return await radio.operations.run(look())
        except TimeoutError as error:
            raise BleakDeviceNotFoundError(
                self.address, f"no device with the address {self.address} was found"
            ) from error
        finally:
            found.cancel()
            await radio.stop_scan(heard)

    def _on_disconnection(self, link: _Link) -> None:
        if self._link is not link:
            return
        self._link = None
        self.services = None
        link.operations.abandon()
        link.lease.give_back()
        if link.is_reported and self._disconnected_callback:
            self._disconnected_callback()

    # Discovery ----------------------------------------------------------------------------------------------------

    async def _discover(self, link: _Link) -> BleakGATTServiceCollection:
        found: list[ServiceProxy]
        if self._wanted_services is None:
            found = await link.gatt.discover_services()
        else:
            found = []
            for uuid in sorted(self._wanted_services):
                found += await link.gatt.discover_service(bumble_uuid(uuid))
        services = BleakGATTServiceCollection()
        for service in found:
            bleak_service = BleakGATTService(service, service.handle, _bleak_uuid(service.uuid))
            services.add_service(bleak_service)
            for characteristic in await link.gatt.discover_characteristics([], service):
                services.add_characteristic(
                    BleakGATTCharacteristic(
                        characteristic,
                        characteristic.handle,
                        _bleak_uuid(characteristic.uuid),
                        [name for flag, name in _PROPERTIES.items() if characteristic.properties & flag],
                        lambda: self.mtu_size - 3,
                        bleak_service,
                    )
                )
            for bleak_characteristic in bleak_service.characteristics:
                proxy: CharacteristicProxy[bytes] = bleak_characteristic.obj
                for descriptor in await link.gatt.discover_descriptors(proxy):
                    services.add_descriptor(
                        BleakGATTDescriptor(
                            descriptor, descriptor.handle, _bleak_uuid(descriptor.type), bleak_characteristic
                        )
                    )
        return services

    # Reading and writing ------------------------------------------------------------------------------------------

    async def read_gatt_char(
        self,
        characteristic: BleakGATTCharacteristic,
        *,
        use_cached: bool = False,
        **_kwargs: Any,  # noqa: ANN401 - bleak's own signature
    ) -> bytearray:
        """Read a value, a long one with Read Blob Requests."""
        return bytearray(await self._run(self._connected().gatt.read_value(characteristic.handle)))

    async def read_gatt_descriptor(
        self,
        descriptor: BleakGATTDescriptor,
        *,
        use_cached: bool = False,
        **_kwargs: Any,  # noqa: ANN401 - bleak's own signature
    ) -> bytearray:
        """Read a descriptor's value."""
        return bytearray(await self._run(self._connected().gatt.read_value(descriptor.handle)))

    async def write_gatt_char(
        self,
        characteristic: BleakGATTCharacteristic,
        data: SizedBuffer,
        response: bool,
    ) -> None:
        """Write a value; with a response, a long one by Prepare and Execute Write Requests."""
        link = self._connected()
        value = bytes(data)
        if not response and len(value) > self.mtu_size - 3:
            raise BleakError(f"a write without response holds {self.mtu_size - 3} octets here, not {len(value)}")
        await self._run(link.gatt.write_value(characteristic.handle, value, with_response=response))

    async def write_gatt_descriptor(self, descriptor: BleakGATTDescriptor, data: SizedBuffer) -> None:
        """Write a descriptor's value."""
        await self._run(self._connected().gatt.write_value(descriptor.handle, bytes(data), with_response=True))

    async def start_notify(
        self,
        characteristic: BleakGATTCharacteristic,
        callback: NotifyCallback,
        **_kwargs: Any,  # noqa: ANN401 - bleak's own signature
    ) -> None:
        """Subscribe to notifications, or to indications where there are no notifications."""
        link = self._connected()
        cccd = self._cccd(characteristic)
        is_notified = "notify" in characteristic.properties
        subscribers = link.gatt.notification_subscribers if is_notified else link.gatt.indication_subscribers
        # Not `Client.subscribe`: Bumble 0.0.236 discovers the descriptors again at every subscription.
        subscribers[characteristic.handle] = {lambda value: callback(bytearray(value))}
        bits = gatt.ClientCharacteristicConfigurationBits
        setting = bits.NOTIFICATION if is_notified else bits.INDICATION
        await self._run(link.gatt.write_value(cccd, struct.pack("<H", setting), with_response=True))

    async def stop_notify(self, characteristic: BleakGATTCharacteristic) -> None:
        """Undo `start_notify`."""
        link = self._connected()
        cccd = self._cccd(characteristic)
        await self._run(link.gatt.write_value(cccd, bytes(2), with_response=True))
        link.gatt.notification_subscribers.pop(characteristic.handle, None)
        link.gatt.indication_subscribers.pop(characteristic.handle, None)

    @staticmethod
    def _cccd(characteristic: BleakGATTCharacteristic) -> int:
        descriptor = characteristic.get_descriptor(normalize_uuid_16(0x2902))
        if descriptor is None:
            raise BleakError(f"characteristic {characteristic.uuid} does not notify")
        return descriptor.handle

    def _connected(self) -> _Link:
        if self._link is None:
            raise BleakError("not connected")
        return self._link

    async def _run(self, operation: Coroutine[Any, Any, _T]) -> _T:
        """Carry out an operation on the link, with bleak's errors.

        HACK: Bumble 0.0.236 ends pending requests by `CancelledError` when the link goes, which the caller would take
        for its own cancellation.
        """
        link = self._link
        if link is None:
            operation.close()
            raise BleakError("the connection was lost")
        try:
            return await link.operations.run(operation)
        except AbandonedError as error:
            raise BleakError("the connection was lost") from error
        except att.ATT_Error as error:
            raise BleakGATTProtocolError(error.error_code) from error
        except core.BaseBumbleError as error:
            raise BleakError(f"the device did not answer properly: {type(error).__name__}") from error


async def _lease(adapter: Adapter) -> Lease:
    try:
        return await adapter.lease()
    except RadioUnavailableError as error:
        raise BleakError(str(error)) from error


async def _give_up(radio: Radio, attempt: asyncio.Task[Connection]) -> None:
    """Stop connecting; a connection that comes about in this very moment is ended again."""
    if not attempt.done():
        cancel = hci.HCI_LE_Create_Connection_Cancel_Command()
        with suppress(AbandonedError, core.BaseBumbleError):  # It came about, or the radio went: the attempt says so.
            await radio.operations.run(radio.device.send_sync_command(cancel))
        await asyncio.wait({attempt})
    if not attempt.cancelled() and attempt.exception() is None:
        with suppress(AbandonedError, core.BaseBumbleError):
            await radio.operations.run(radio.disconnect(attempt.result()))


def _advertisement_data(advertisement: Advertisement) -> AdvertisementData:
    """Read an advertisement and its scan response; what is malformed (it may be hostile) is left out."""
    uuids: list[str] = []
    name: str | None = None
    tx_power: int | None = None
    service_data: dict[str, bytes] = {}
    manufacturer_data: dict[int, bytes] = {}
    kinds = AdvertisingData.Type
    for kind, data in advertisement.data.ad_structures:
        match kind:
            case (
                kinds.INCOMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS | kinds.COMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS
            ):
                uuids += _uuids(data, 2)
            case (
                kinds.INCOMPLETE_LIST_OF_32_BIT_SERVICE_CLASS_UUIDS | kinds.COMPLETE_LIST_OF_32_BIT_SERVICE_CLASS_UUIDS
            ):
                uuids += _uuids(data, 4)
            case (
                kinds.INCOMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS
                | kinds.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS
            ):
                uuids += _uuids(data, 16)
            case kinds.SHORTENED_LOCAL_NAME | kinds.COMPLETE_LOCAL_NAME:
                name = data.decode(errors="replace")
            case kinds.TX_POWER_LEVEL if len(data) == 1:
                tx_power = int.from_bytes(data, "little", signed=True)
            case kinds.SERVICE_DATA_16_BIT_UUID if len(data) >= 2:
                service_data[_uuids(data, 2)[0]] = data[2:]
            case kinds.SERVICE_DATA_32_BIT_UUID if len(data) >= 4:
                service_data[_uuids(data, 4)[0]] = data[4:]
            case kinds.SERVICE_DATA_128_BIT_UUID if len(data) >= 16:
                service_data[_uuids(data, 16)[0]] = data[16:]
            case kinds.MANUFACTURER_SPECIFIC_DATA if len(data) >= 2:
                manufacturer_data[int.from_bytes(data[:2], "little")] = data[2:]
    return AdvertisementData(
        local_name=name,
        manufacturer_data=manufacturer_data,
        service_data=service_data,
        service_uuids=uuids,
        tx_power=tx_power,
        rssi=advertisement.rssi,
        platform_data=(advertisement,),
    )


def _uuids(data: bytes, size: int) -> list[str]:
    numbers = [
        int.from_bytes(data[offset : offset + size], "little") for offset in range(0, len(data) - size + 1, size)
    ]
    if size == 16:
        return [str(UUID(int=number)) for number in numbers]
    return [normalize_uuid_32(number) for number in numbers]


def _bleak_uuid(uuid: core.UUID) -> str:
    return str(UUID(bytes=bytes(reversed(uuid.to_bytes(force_128=True)))))
