"""Scanning and one connection, on bleak, on hardware or on the virtual radio; the only module that touches it.

It carries octets and translates errors; it knows neither codes nor tokens.
"""

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Self

from bleak import BleakClient, BleakScanner
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData
from bleak.exc import (
    BleakBluetoothNotAvailableError,
    BleakBluetoothNotAvailableReason,
    BleakDBusError,
    BleakDeviceNotFoundError,
    BleakGATTProtocolError,
)

from bletoken.errors import (
    BletokenError,
    DeviceNotFoundError,
    LinkLostError,
    RadioError,
    RadioUnavailableError,
    UsageError,
)
from bletoken.protocol import frames
from bletoken.protocol.setup_code import AdvertName
from bletoken.protocol.wire import HELLO_UUID, SERVICE_UUID, STATUS_UUID, TOKEN_UUID

_log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S: Final = 10
_START_TIMEOUT_S: Final = 10

_COMES_BACK_S: Final = 15
"""Seconds for which a radio that has worked is waited for: a Bluetooth service that restarts takes a few."""

_PAUSE_S: Final = 0.5
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
        self._scanner_options: dict[str, Any] = {"service_uuids": [SERVICE_UUID]}
        self._client_options: dict[str, Any] = {}
        kind, _, adapter = spec.partition(":")
        self._is_systems = kind == "system"
        self._has_worked = False
        if kind == "air":
            try:
                from bletoken.sim.air.bleak_backend import backends
            except ImportError as e:
                raise UsageError("the virtual radio needs the simulator: pip install 'bletoken[sim]'") from e
            scanner, client = backends(spec)
            self._scanner_options["backend"], self._client_options["backend"] = scanner, client
            return
        if kind != "system":
            raise UsageError(f"the radio must be 'system', 'system:hci1' or 'air:unix:/path/of/the/hub', not {spec!r}")
        bluez = {"adapter": adapter} if adapter else {}
        self._client_options["bluez"] = bluez
        if sys.platform == "linux":
            # BlueZ filters by what is in an advert. bleak would do so by what BlueZ remembers of the device, which has
            # lost our service when a device's program dies while it is connected, for as long as somebody scans.
            self._scanner_options = {"bluez": {**bluez, "filters": {"UUIDs": [SERVICE_UUID]}}}

    @contextlib.asynccontextmanager
    async def scan(self) -> AsyncIterator[AsyncIterator[Found]]:
        """Scan while inside; iterate over every advert of a bletoken device as it is heard.

        Raises:
            RadioUnavailableError: The radio cannot scan.
        """
        heard: asyncio.Queue[Found] = asyncio.Queue()

        def on_advert(device: BLEDevice, advert: AdvertisementData) -> None:
            name = AdvertName.parse(advert.local_name or device.name)
            if name is not None or SERVICE_UUID in advert.service_uuids:
                heard.put_nowait(Found(device.address, name, advert.rssi, device))

        async def all_heard() -> AsyncIterator[Found]:
            while True:
                yield await heard.get()

        scanner = await self._start_scan(on_advert)
        try:
            yield all_heard()
        finally:
            with _ignored("the scan did not stop cleanly"):
                await scanner.stop()

    async def _start_scan(self, on_advert: Callable[[BLEDevice, AdvertisementData], None]) -> BleakScanner:
        give_up_at = time.monotonic() + _COMES_BACK_S
        while True:
            scanner = BleakScanner(on_advert, **self._scanner_options)
            try:
                async with asyncio.timeout(_START_TIMEOUT_S):
                    await scanner.start()
            except Exception as e:
                # bleak raises whatever its platform's libraries do.
                may_pass = self._is_systems and (self._has_worked or _is_busy(e))
                if not may_pass or time.monotonic() >= give_up_at:
                    raise RadioUnavailableError(f"the radio {self.spec!r} cannot be used: {_reason(e)}") from e
                _log.debug("the radio cannot scan now: %s", type(e).__name__)
                await asyncio.sleep(_PAUSE_S)
            else:
                self._has_worked = True
                return scanner

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
        self._notified: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._client = radio.client(found.device, lambda _: self._notified.put_nowait(None))

    async def __aenter__(self) -> Self:
        with _translated():
            try:
                await self._client.connect()
            except BleakDeviceNotFoundError as e:
                raise DeviceNotFoundError("the device is no longer heard") from e
        return self

    async def __aexit__(self, *_: object) -> None:
        with _ignored("the connection did not end cleanly"):
            await self._client.disconnect()

    async def subscribe(self) -> None:
        """Ask for notifications of STATUS; before anything is sent, so that none is missed."""
        with _translated():
            async with asyncio.timeout(_OPERATION_TIMEOUT_S):
                await self._client.start_notify(STATUS_UUID, lambda _, value: self._notified.put_nowait(bytes(value)))

    async def read_hello(self) -> bytes:
        """The device's offer to this connection."""
        with _translated():
            async with asyncio.timeout(_OPERATION_TIMEOUT_S):
                return bytes(await self._client.read_gatt_char(HELLO_UUID))

    async def send(self, message: bytes) -> None:
        """Write a message to TOKEN, frame by frame, each acknowledged."""
        with _translated():
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
def _translated() -> Iterator[None]:
    """Make a `RadioError` of whatever bleak raises: a connection that fails in any way is worth another try."""
    try:
        yield
    except BletokenError:
        raise
    except BleakGATTProtocolError as e:
        raise RadioError(f"the device refused an operation (ATT error 0x{e.code:02x})") from e
    except Exception as e:
        # bleak lets through what its platforms' libraries raise, down to KeyError, and now and then an assertion.
        raise RadioError(f"the Bluetooth operation failed: {_reason(e)}") from e


@contextlib.contextmanager
def _ignored(what: str) -> Iterator[None]:
    """Let no error of an ending hide what the beginning came to."""
    try:
        yield
    except Exception:  # noqa: BLE001 see _translated
        _log.debug(what, exc_info=True)


def _is_busy(error: Exception) -> bool:
    return isinstance(error, BleakDBusError) and error.dbus_error == "org.bluez.Error.InProgress"


def _reason(error: Exception) -> str:
    """What went wrong, and where it is known what a person can do about it."""
    is_off = isinstance(error, BleakBluetoothNotAvailableError) and (
        error.reason is BleakBluetoothNotAvailableReason.POWERED_OFF
    )
    name = error.dbus_error if isinstance(error, BleakDBusError) else ""
    if is_off or name == "org.bluez.Error.NotReady":
        command = ": bluetoothctl power on (and, where it is blocked: rfkill unblock bluetooth)"
        return "Bluetooth is switched off; switch it on" + (command if sys.platform == "linux" else "")
    if name in _NO_SERVICE:
        return "the Bluetooth service (bluetoothd) does not run; start it: systemctl start bluetooth"
    if name == "org.freedesktop.DBus.Error.AccessDenied":
        return "this user may not use Bluetooth; add it to the group bluetooth"
    if isinstance(error, FileNotFoundError):
        return "no Bluetooth service answers on this machine (D-Bus with BlueZ)"
    if isinstance(error, BleakBluetoothNotAvailableError):
        # Its second argument, the reason, is no text.
        return str(error.args[0])
    return str(error) or type(error).__name__


_NO_SERVICE: Final = frozenset(
    f"org.freedesktop.{name}"
    for name in ("DBus.Error.ServiceUnknown", "DBus.Error.NameHasNoOwner", "DBus.Error.NoReply", "systemd1.NoSuchUnit")
)
