"""Scanning and one connection, on bleak, on hardware or on the virtual radio; the only module that touches it.

It carries octets and translates errors; it knows neither codes nor tokens.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Self

from bleak import BleakClient, BleakScanner
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData
from bleak.exc import BleakBluetoothNotAvailableError, BleakDeviceNotFoundError, BleakError, BleakGATTProtocolError

from bletoken.errors import DeviceNotFoundError, LinkLostError, RadioError, RadioUnavailableError, UsageError
from bletoken.protocol import frames
from bletoken.protocol.setup_code import AdvertName
from bletoken.protocol.wire import HELLO_UUID, SERVICE_UUID, STATUS_UUID, TOKEN_UUID

_CONNECT_TIMEOUT_S: Final = 10
_OPERATION_TIMEOUT_S: Final = 30
"""ATT gives up a transaction after this long (Core Specification, Vol 3, Part F, 3.3.3)."""


@dataclass(frozen=True, slots=True)
class Found:
    """A bletoken device on the air.

    Attributes:
        address: The address, or what the platform calls it by.
        name: What its name says; None when the platform did not give us one of ours.
        rssi: The signal strength in dBm.
    """

    address: str
    name: AdvertName | None
    rssi: int
    device: BLEDevice = field(repr=False, compare=False)


class Radio:
    """Which radio to use.

    Args:
        spec: `system`, `system:<adapter>`, or `air:...` for the virtual radio.

    Raises:
        UsageError: It is none of these.
    """

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self._scanner_options: dict[str, Any] = {}
        self._client_options: dict[str, Any] = {}
        kind, _, adapter = spec.partition(":")
        if kind == "air":
            try:
                from bletoken.sim.air.bleak_backend import backends
            except ImportError as e:
                raise UsageError("the virtual radio needs the simulator: pip install 'bletoken[sim]'") from e
            scanner, client = backends(spec)
            self._scanner_options, self._client_options = {"backend": scanner}, {"backend": client}
        elif kind != "system":
            raise UsageError(f"the radio must be 'system', 'system:hci1' or 'air:unix:/path/of/the/hub', not {spec!r}")
        elif adapter:
            self._scanner_options = self._client_options = {"bluez": {"adapter": adapter}}

    @contextlib.asynccontextmanager
    async def scan(self) -> AsyncIterator[AsyncIterator[Found]]:
        """Scan while inside; iterate over every advert of a bletoken device as it is heard.

        Raises:
            RadioUnavailableError: The radio cannot scan.
        """
        heard: asyncio.Queue[Found] = asyncio.Queue()

        def on_advert(device: BLEDevice, advert: AdvertisementData) -> None:
            if SERVICE_UUID in advert.service_uuids:
                name = AdvertName.parse(advert.local_name or device.name)
                heard.put_nowait(Found(device.address, name, advert.rssi, device))

        async def all_heard() -> AsyncIterator[Found]:
            while True:
                yield await heard.get()

        scanner = BleakScanner(on_advert, service_uuids=[SERVICE_UUID], **self._scanner_options)
        try:
            await scanner.start()
        except FileNotFoundError as e:
            raise RadioUnavailableError("no Bluetooth service answers on this machine (D-Bus with BlueZ)") from e
        except (BleakError, OSError, EOFError) as e:
            raise RadioUnavailableError(f"the radio {self.spec!r} cannot be used: {e}") from e
        try:
            yield all_heard()
        finally:
            with contextlib.suppress(BleakError, OSError):
                await scanner.stop()

    async def find(self, wanted: Callable[[Found], bool], timeout_s: float) -> Found:
        """The first device that is wanted, as soon as it is heard.

        Raises:
            DeviceNotFoundError: None was heard in time.
            RadioUnavailableError: The radio cannot scan.
        """
        others: set[str] = set()
        async with self.scan() as heard:
            try:
                async with asyncio.timeout(timeout_s):
                    async for found in heard:
                        if wanted(found):
                            return found
                        others.add(found.address)
            except TimeoutError:
                near = f"{len(others)} other bletoken device(s) are near" if others else "no bletoken device is near"
                raise DeviceNotFoundError(f"the device was not heard within {timeout_s:.0f} s; {near}") from None
        raise AssertionError("adverts never end")

    def connect(self, found: Found) -> "Link":
        """A link to a device, as an async context manager."""
        return Link(self, found)

    def client(self, device: BLEDevice, on_disconnect: Callable[[BleakClient], None]) -> BleakClient:
        """The client of bleak for a device, not yet connected."""
        # Asking for our service alone saves discovering all others.
        return BleakClient(
            device,
            disconnected_callback=on_disconnect,
            services=[SERVICE_UUID],
            timeout=_CONNECT_TIMEOUT_S,
            **self._client_options,
        )


class Link:
    """One connection to one device, as an async context manager.

    Every method raises `LinkLostError` when the connection ends, and `RadioError` when an operation fails.
    """

    def __init__(self, radio: Radio, found: Found) -> None:
        self._radio = radio
        self._found = found
        self._notified: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._client = radio.client(found.device, lambda _: self._notified.put_nowait(None))

    async def __aenter__(self) -> Self:
        with _translated(self._radio.spec):
            try:
                await self._client.connect()
            except BleakDeviceNotFoundError as e:
                raise DeviceNotFoundError("the device is no longer heard") from e
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(BleakError, OSError, TimeoutError, EOFError):
            await self._client.disconnect()

    async def subscribe(self) -> None:
        """Ask for notifications of STATUS; before anything is sent, so that none is missed."""
        with _translated(self._radio.spec):
            async with asyncio.timeout(_OPERATION_TIMEOUT_S):
                await self._client.start_notify(STATUS_UUID, lambda _, value: self._notified.put_nowait(bytes(value)))

    async def read_hello(self) -> bytes:
        """The device's offer to this connection."""
        with _translated(self._radio.spec):
            async with asyncio.timeout(_OPERATION_TIMEOUT_S):
                return bytes(await self._client.read_gatt_char(HELLO_UUID))

    async def send(self, message: bytes) -> None:
        """Write a message to TOKEN, frame by frame, each acknowledged."""
        with _translated(self._radio.spec):
            characteristic = self._client.services.get_characteristic(TOKEN_UUID)
            if characteristic is None:
                raise RadioError("the device has no bletoken service")
            # `mtu_size` is 23 on BlueZ whatever the MTU is; this is right everywhere.
            size = max(frames.SMALLEST_FRAME, min(characteristic.max_write_without_response_size, frames.LARGEST_FRAME))
            for frame in frames.split(message, size):
                async with asyncio.timeout(_OPERATION_TIMEOUT_S):
                    await self._client.write_gatt_char(characteristic, frame, response=True)

    async def receive(self, timeout_s: float) -> bytes:
        """The next notified frame.

        Raises:
            TimeoutError: None came in time.
            LinkLostError: The connection ended.
        """
        async with asyncio.timeout(timeout_s):
            frame = await self._notified.get()
        if frame is None:
            # Whoever asks again hears the same.
            self._notified.put_nowait(None)
            raise LinkLostError("the connection to the device was lost")
        return frame


@contextlib.contextmanager
def _translated(spec: str) -> Iterator[None]:
    try:
        yield
    except BleakBluetoothNotAvailableError as e:
        raise RadioUnavailableError(f"the radio {spec!r} cannot be used: {e}") from e
    except BleakGATTProtocolError as e:
        raise RadioError(f"the device refused an operation (ATT error 0x{e.code:02x})") from e
    except (BleakError, OSError, EOFError, TimeoutError) as e:
        raise RadioError(f"the Bluetooth operation failed: {e or type(e).__name__}") from e
