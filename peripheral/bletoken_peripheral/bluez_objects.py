"""Which adapters BlueZ has, and which of its devices are connected to us, from what it tells over D-Bus; no I/O.

Device objects stand for whoever is connected to this machine, by whomever; here it is decided who is a peer of ours.
"""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol, TypeVar

T = TypeVar("T")

ADAPTER: Final = "org.bluez.Adapter1"
DEVICE: Final = "org.bluez.Device1"
GATT_MANAGER: Final = "org.bluez.GattManager1"
ADVERT_MANAGER: Final = "org.bluez.LEAdvertisingManager1"

_MOST_STRANGERS: Final = 1024
"""Device objects that are remembered as having come in by themselves."""

_SWITCH_ON: Final = "switch it on: bluetoothctl power on (and, where it is blocked: rfkill unblock bluetooth)"


class PeerDelegate(Protocol):
    """What an application is told about the peers of a server, and asked on their behalf.

    A peer is an opaque string, unique for each connection: a device that comes back is a new one.
    """

    def connected(self, peer: str) -> None:
        """A peer has connected."""

    def disconnected(self, peer: str) -> None:
        """A peer is gone; nothing about it follows."""

    def mtu_changed(self, peer: str, mtu: int) -> None:
        """A peer's ATT MTU is now this; it is not known before the first call."""

    def read(self, peer: str, uuid: str, offset: int) -> bytes:
        """Return the whole value of a characteristic; a long read is served from one such value."""

    def write(self, peer: str, uuid: str, value: bytes) -> None:
        """Take a value that a peer has written; `RemoteProtocolError` refuses it."""


class Peer:
    """One connection of one device.

    Attributes:
        name: What it is called above: unique for the connection.
        mtu: Its ATT MTU; 0 while it is not known.
        uses_us: Whether it has read or written one of our characteristics.
        values: What long reads are served from, by characteristic.
    """

    __slots__ = ("mtu", "name", "uses_us", "values")

    def __init__(self, name: str) -> None:
        self.name = name
        self.mtu = 0
        self.uses_us = False
        self.values: dict[str, bytes] = {}


class Peers:
    """Who of BlueZ's devices is connected to us.

    BlueZ tells of every device that is connected, by whomever: headphones and sensors too. A device that BlueZ first
    saw connected has come in by itself, and so has whoever reads or writes our characteristics. All others are not our
    business, and must not be dropped.

    Attributes:
        delegate: Who is told.
    """

    def __init__(self) -> None:
        self.delegate: PeerDelegate | None = None
        self._peers: dict[str, Peer] = {}
        self._came_in: set[str] = set()
        self._numbers = itertools.count(1)

    def __bool__(self) -> bool:
        return bool(self._peers)

    @property
    def ours(self) -> list[str]:
        """The paths of the devices that use our service."""
        return [path for path, peer in self._peers.items() if peer.uses_us]

    def appeared(self, path: str, *, connected: bool) -> None:
        """BlueZ knows a new device."""
        if connected and len(self._came_in) < _MOST_STRANGERS:
            self._came_in.add(path)
        self.changed(path, connected=connected)

    def changed(self, path: str, *, connected: bool) -> None:
        """A device's `Connected` changed."""
        if not connected:
            self._left(path)
        elif path in self._came_in and path not in self._peers:
            self._announce(path)

    def vanished(self, path: str) -> None:
        """BlueZ has forgotten a device."""
        self._left(path)
        self._came_in.discard(path)

    def all_left(self) -> None:
        """The adapter is gone, or its power: nobody is connected."""
        for path in list(self._peers):
            self._left(path)

    def all_vanished(self) -> None:
        """BlueZ is gone, with all that it knew."""
        self.all_left()
        self._came_in.clear()

    def using(self, path: str, mtu: int) -> Peer:
        """The peer that reads or writes one of our characteristics."""
        peer = self._peers.get(path) or self._announce(path)
        peer.uses_us = True
        if mtu and mtu != peer.mtu:
            peer.mtu = mtu
            if self.delegate:
                self.delegate.mtu_changed(peer.name, mtu)
        return peer

    def path_of(self, name: str) -> str | None:
        """The device that a peer is; None when it has gone."""
        return next((path for path, peer in self._peers.items() if peer.name == name), None)

    def _announce(self, path: str) -> Peer:
        peer = self._peers[path] = Peer(f"{path.rpartition('/')[2]}#{next(self._numbers)}")
        if self.delegate:
            self.delegate.connected(peer.name)
        return peer

    def _left(self, path: str) -> None:
        peer = self._peers.pop(path, None)
        if peer is not None and self.delegate:
            self.delegate.disconnected(peer.name)


# Adapters -----------------------------------------------------------------------------------------------------------


class Adapter:
    """An adapter as BlueZ shows it."""

    __slots__ = ("address", "interfaces", "is_powered", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.address = ""
        self.is_powered = False
        self.interfaces: set[str] = set()

    @property
    def name(self) -> str:
        """What people call it, such as `hci0`."""
        return self.path.rpartition("/")[2]

    @property
    def is_complete(self) -> bool:
        """Whether all is there that a peripheral needs; after a start BlueZ adds one after the other."""
        return {ADAPTER, GATT_MANAGER, ADVERT_MANAGER} <= self.interfaces


class Adapters:
    """BlueZ's adapters, and which of them is ours.

    Args:
        wanted: Its name (`hci1`) or address; None for the first that is switched on.
    """

    def __init__(self, wanted: str | None) -> None:
        self._wanted = wanted
        self._known: dict[str, Adapter] = {}
        self._address: str | None = None

    def appeared(self, path: str, interfaces: Mapping[str, Mapping[str, Any]]) -> None:
        """BlueZ tells of interfaces of an object."""
        ours = {ADAPTER, GATT_MANAGER, ADVERT_MANAGER} & interfaces.keys()
        if ours:
            adapter = self._known.setdefault(path, Adapter(path))
            adapter.interfaces |= ours
            self.changed(path, interfaces.get(ADAPTER, {}))

    def changed(self, path: str, properties: Mapping[str, Any]) -> None:
        """Properties of an adapter changed."""
        adapter = self._known.get(path)
        if adapter is None:
            return
        if (address := value_of(properties, "Address", str)) is not None:
            adapter.address = address
        if (is_powered := value_of(properties, "Powered", bool)) is not None:
            adapter.is_powered = is_powered

    def vanished(self, path: str, interfaces: Iterable[str]) -> None:
        """BlueZ has removed interfaces of an object."""
        if path in self._known:
            self._known[path].interfaces -= set(interfaces)
            if not self._known[path].interfaces:
                del self._known[path]

    def all_vanished(self) -> None:
        """BlueZ is gone."""
        self._known.clear()

    @property
    def usable(self) -> Adapter | None:
        """Our adapter, when it is there with all that is needed, and has power."""
        adapter = self._ours
        return adapter if adapter and adapter.is_complete and adapter.is_powered else None

    @property
    def what_is_missing(self) -> str:
        """Why there is no usable adapter, and what a person can do about it."""
        adapter = self._ours
        if adapter is None:
            there = ", ".join(sorted(a.name for a in self._known.values()))
            return (
                f"there is no Bluetooth adapter {self._wanted!r}; there is: {there or 'none'}"
                if self._wanted
                else "there is no Bluetooth adapter; plug one in, or see what bluetoothctl list says"
            )
        if not adapter.is_powered:
            return f"the Bluetooth adapter {adapter.name} is switched off; {_SWITCH_ON}"
        return f"the Bluetooth adapter {adapter.name} cannot advertise over Bluetooth LE; name another"

    def prefer(self, adapter: Adapter) -> None:
        """Take this adapter again when it comes back, whatever its name is then."""
        self._address = adapter.address

    @property
    def _ours(self) -> Adapter | None:
        def rank(adapter: Adapter) -> tuple[bool, bool, bool, str]:
            return adapter.address != self._address, not adapter.is_complete, not adapter.is_powered, adapter.path

        return min((adapter for adapter in self._known.values() if self._will_do(adapter)), key=rank, default=None)

    def _will_do(self, adapter: Adapter) -> bool:
        # HACK: bless looks for the name anywhere in the path, so that "hci1" finds "hci10". Seen with bless 0.3.0; goes
        # with the first release that compares whole names.
        return (
            self._wanted in (None, adapter.name)
            or str(self._wanted).upper() == adapter.address.upper()
            or adapter.address == self._address
        )


def value_of(properties: Mapping[str, Any], name: str, kind: type[T]) -> T | None:
    """The value of a property or an option; None when it is not there, or of another type than `kind`."""
    variant = properties.get(name)
    value = getattr(variant, "value", None)
    return value if type(value) is kind else None
