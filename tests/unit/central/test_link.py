"""The companion's radio on a platform that fails in every way there is."""

import random
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData
from bleak.exc import (
    BleakBluetoothNotAvailableError,
    BleakBluetoothNotAvailableReason,
    BleakCharacteristicNotFoundError,
    BleakDBusError,
    BleakDeviceNotFoundError,
    BleakError,
    BleakGATTProtocolError,
)

from bletoken.errors import DeviceNotFoundError, RadioError, RadioUnavailableError
from bletoken.protocol.setup_code import AdvertName, Label
from bletoken.protocol.wire import SERVICE_UUID
from bletoken_central import link
from bletoken_central.link import Found, Link, Radio

SERVICE_UNKNOWN = "org.freedesktop.DBus.Error.ServiceUnknown"
ACCESS_DENIED = "org.freedesktop.DBus.Error.AccessDenied"
OFF = BleakBluetoothNotAvailableError("No powered adapter.", BleakBluetoothNotAvailableReason.POWERED_OFF)
NONE = BleakBluetoothNotAvailableError("No Bluetooth adapters found.", BleakBluetoothNotAvailableReason.NO_BLUETOOTH)

EVERY_CLASS: list[Exception] = [
    BleakError("anything"),
    BleakDBusError("org.bluez.Error.Failed", ["le-connection-abort-by-local"]),
    BleakDBusError("org.bluez.Error.NotReady", ["Resource Not Ready"]),
    BleakDBusError(SERVICE_UNKNOWN, []),
    BleakCharacteristicNotFoundError("x"),
    BleakGATTProtocolError(0x0E),
    OFF,
    NONE,
    TimeoutError(),
    EOFError(),
    OSError(5, "input"),
    BrokenPipeError(),
    FileNotFoundError(),
    AssertionError(),
    KeyError("Device"),
    AttributeError("'NoneType' object has no attribute 'call'"),
    RuntimeError("AcquireNotify socket disconnected"),
]


class Scanner:
    """A scanner of bleak that fails as told, and then works."""

    failures: ClassVar[list[Exception]] = []
    starts: ClassVar[int] = 0
    latest: ClassVar["Scanner"]

    def __init__(self, on_advert: Callable[[BLEDevice, AdvertisementData], None], **options: Any) -> None:
        self.on_advert = on_advert
        self.options = options
        Scanner.latest = self

    def hears(self, address: str, name: str, *service_uuids: str) -> None:
        advert = AdvertisementData(name, {}, {}, list(service_uuids), None, -50, ())
        self.on_advert(BLEDevice(address, name, None), advert)

    async def start(self) -> None:
        Scanner.starts += 1
        if Scanner.failures:
            raise Scanner.failures.pop(0)

    async def stop(self) -> None:
        raise KeyError("whatever")


@pytest.fixture(autouse=True)
def _on_air(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "BleakScanner", Scanner)
    monkeypatch.setattr(link, "_PAUSE_S", 0.001)
    monkeypatch.setattr(Scanner, "failures", [])
    monkeypatch.setattr(Scanner, "starts", 0)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OFF, r"'system' cannot be used: Bluetooth is switched off; switch it on: bluetoothctl power on"),
        (BleakDBusError("org.bluez.Error.NotReady", ["Not Ready"]), "bluetoothctl power on .*rfkill unblock bluetooth"),
        (NONE, r"No Bluetooth adapters found\.$"),
        (BleakError("adapter 'hci7' not found"), "adapter 'hci7' not found"),
        (BleakDBusError(SERVICE_UNKNOWN, []), "systemctl start bluetooth"),
        (BleakDBusError(ACCESS_DENIED, []), "group bluetooth"),
        (FileNotFoundError(), "D-Bus with BlueZ"),
        (KeyError("x"), "'x'"),
        (AssertionError(), "AssertionError"),
    ],
)
async def test_a_radio_that_cannot_scan_says_what_to_do(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    Scanner.failures = [error]
    with pytest.raises(RadioUnavailableError, match=message):
        async with Radio("system").scan():
            pass
    assert Scanner.starts == 1


@pytest.mark.parametrize("radio", ["system", "system:hci1"])
async def test_on_bluez_a_device_is_heard_by_its_advert_whatever_services_bluez_remembers(
    radio: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    name = AdvertName("p", Label.generate(random.Random(1).randbytes, with_pin=False).qr.advert_tag(b"ab"))
    async with Radio(radio).scan() as heard:
        scanner = Scanner.latest
        scanner.hears("00:00:00:00:00:01", "a lamp")
        # Its program died while a companion was connected: BlueZ has learnt that our service is gone.
        scanner.hears("00:00:00:00:00:02", str(name), "00001801-0000-1000-8000-00805f9b34fb")
        # Connected a moment ago: BlueZ has another name for it until its next advert.
        scanner.hears("00:00:00:00:00:03", "raspberrypi", SERVICE_UUID)
        found = [await anext(heard) for _ in range(2)]
    assert [(one.address[-1], one.name) for one in found] == [("2", name), ("3", None)]
    # BlueZ filters by what is in an advert, bleak by what BlueZ remembers.
    assert "service_uuids" not in scanner.options
    assert scanner.options["bluez"]["filters"] == {"UUIDs": [SERVICE_UUID]}
    assert scanner.options["bluez"].get("adapter") == (radio.partition(":")[2] or None)


async def test_a_radio_that_is_busy_is_waited_for() -> None:
    Scanner.failures = [BleakDBusError("org.bluez.Error.InProgress", ["Operation already in progress"])] * 3
    async with Radio("system").scan():
        assert Scanner.starts == 4


@pytest.mark.parametrize("error", EVERY_CLASS, ids=lambda error: type(error).__name__)
async def test_a_radio_that_has_worked_is_waited_for(error: Exception) -> None:
    radio = Radio("system")
    async with radio.scan():
        pass
    Scanner.failures = [error] * 3
    async with radio.scan():
        assert Scanner.starts == 5


async def test_a_radio_that_has_worked_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "_COMES_BACK_S", 0.01)
    radio = Radio("system")
    async with radio.scan():
        pass
    Scanner.failures = [OFF] * 1000
    with pytest.raises(RadioUnavailableError):
        async with radio.scan():
            pass


class Client:
    """A client of bleak whose every operation fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def connect(self) -> None:
        raise self._error

    disconnect = connect

    async def start_notify(self, *_: object) -> None:
        raise self._error

    async def read_gatt_char(self, _: str) -> bytearray:
        raise self._error

    async def write_gatt_char(self, *_: object, **__: object) -> None:
        raise self._error

    @property
    def services(self) -> object:
        raise self._error


def link_with(error: Exception, monkeypatch: pytest.MonkeyPatch) -> Link:
    monkeypatch.setattr(Radio, "client", lambda *_: Client(error))
    return Radio("system").connect(Found("AA", None, -50, BLEDevice("AA", None, None)))


@pytest.mark.parametrize("error", EVERY_CLASS, ids=lambda error: type(error).__name__)
async def test_every_failure_of_a_connection_is_one_that_is_tried_again(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = link_with(error, monkeypatch)
    for operation in (failing.__aenter__, failing.subscribe, failing.read_hello, lambda: failing.send(b"x")):
        with pytest.raises(RadioError) as raised:
            await operation()
        # That one would end the run.
        assert not isinstance(raised.value, RadioUnavailableError)
    await failing.__aexit__()


async def test_a_device_that_is_no_longer_heard_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceNotFoundError):
        await link_with(BleakDeviceNotFoundError("AA", "gone"), monkeypatch).__aenter__()
