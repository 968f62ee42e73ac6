"""What bless lacks on Linux: who is connected, long reads, an advert of our own, and BlueZ going away and coming back.

It is bless's server for BlueZ with workarounds on top, each marked `HACK` with what is seen without it, the versions
that show it, and when it can go. It carries octets and knows neither codes nor tokens. Only Linux imports it.

What arrives over D-Bus is untrusted: calls and signals count only from who owns `org.bluez`, and everything is bounded.
"""

import asyncio
import contextlib
import itertools
import logging
import re
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final

from bless.backends.attribute import GATTAttributePermissions
from bless.backends.bluezdbus.dbus.application import BlueZGattApplication
from bless.backends.bluezdbus.server import BlessServerBlueZDBus
from bless.backends.characteristic import GATTCharacteristicProperties
from dbus_next.constants import BusType, MessageFlag, MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

from bletoken.errors import RadioUnavailableError, RemoteProtocolError
from bletoken.protocol.wire import SERVICE_UUID
from bletoken_peripheral.bluez_bus import CALL_TIMEOUT_S, DBUS, Bus, RefusedError
from bletoken_peripheral.bluez_objects import (
    ADAPTER,
    ADVERT_MANAGER,
    DEVICE,
    GATT_MANAGER,
    Adapter,
    Adapters,
    Peer,
    PeerDelegate,
    Peers,
    value_of,
)

_log = logging.getLogger(__name__)

_PROPERTIES: Final = "org.freedesktop.DBus.Properties"
_OBJECTS: Final = "org.freedesktop.DBus.ObjectManager"
_BLUEZ: Final = "org.bluez"
_ADVERT: Final = "org.bluez.LEAdvertisement1"

_FIRST_PAUSE_S: Final = 0.5
_MOST_FAILURES: Final = 6
"""Failed registrations in a row, each after twice the pause, before the radio counts as lost: about half a minute."""

_STABLE_S: Final = 60
"""Seconds after which a registration has lasted, and what failed before counts no more."""

_ADVERTISING_INTERVAL_MS: Final = 100
_LONGEST_NAME: Final = 29
"""A scan response holds 31 octets, two of which are the name's length and type."""

_LONGEST_VALUE: Final = 512
"""Octets of the longest attribute value (Core 5.4 Vol 3 Part F 3.2.9)."""

_APPLICATION_ERRORS: Final = range(0x80, 0xA0)
"""The ATT errors that mean what the application says (Core 5.4 Vol 3 Part F 3.4.1.1)."""

_OBJECT_SIGNALS: Final = ("InterfacesAdded", "InterfacesRemoved")


class _AttError(Exception):
    """What BlueZ is to answer the peer with: the name of one of its errors, and for application errors the code."""

    def __init__(self, name: str, text: str = "") -> None:
        super().__init__(text)
        self.name = f"{_BLUEZ}.Error.{name}"


class _Claim:
    """Holds an adapter for one peripheral at a time, across users, for as long as the process lives.

    HACK: BlueZ lets any number of programs register the same service, and a companion would find one of them by
    chance. Seen with BlueZ 5.66; D-Bus's policy keeps us from owning a name. A socket in the abstract namespace needs
    no folder, and ends with its process. Anybody on this machine can hold it, who can stop us in simpler ways as well.
    Goes when BlueZ refuses a service that is registered already.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.address = adapter.address
        address = adapter.address if re.fullmatch(r"[0-9A-Fa-f:]{17}", adapter.address) else adapter.name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind(f"\0bletoken-peripheral-{address}")
        except OSError as e:
            self._socket.close()
            raise RadioUnavailableError(
                f"another bletoken-peripheral is on the air with the adapter {adapter.name} ({address}) already;"
                " stop it, or name another adapter"
            ) from e

    def release(self) -> None:
        """Let the next one have it."""
        self._socket.close()


class BlueZServer(BlessServerBlueZDBus):  # type: ignore[misc] # bless has no types
    """bless's server on BlueZ, with what bless does not say.

    Args:
        name: The local name in the scan response; any text of up to 29 octets.
        adapter: The adapter's name or address; None for the first that is switched on.

    Attributes:
        peers: Who is told about peers.
        on_radio_lost: Called when the radio is gone for good, after every peer's `disconnected`.
        on_radio_away: Called with the reason when BlueZ, the adapter or its power has gone; all is registered again
            when they come back.
        on_radio_back: Called when that has happened.
    """

    def __init__(self, name: str, adapter: str | None = None) -> None:
        self.peers: PeerDelegate | None = None
        self.on_radio_lost: Callable[[], None] = lambda: None
        self.on_radio_away: Callable[[str], None] = lambda _: None
        self.on_radio_back: Callable[[], None] = lambda: None
        self._adapters = Adapters(adapter)
        self._peers = Peers()
        self._owner = ""
        self._app_is_registered = False
        self._advert_path = ""
        self._advert_name: str | None = None
        self._advert_numbers = itertools.count(1)
        self._paths: dict[str, str] = {}
        self._epoch = 0
        self._is_on_air = False
        self._registered_at: float | None = None
        self._failures = 0
        self._changed = asyncio.Event()
        self._claim: _Claim | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.bus: Bus | None = None
        super().__init__(_checked(name))

    # Building --------------------------------------------------------------------------------------------------------

    async def setup(self) -> None:
        """Connect to BlueZ; bless's constructor starts this, and whoever builds awaits it.

        Raises:
            RadioUnavailableError: There is no D-Bus, no BlueZ, or no adapter that can be used.
        """
        try:
            self.bus = Bus(bus_type=BusType.SYSTEM)
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await self.bus.connect()
        except Exception as e:
            # dbus-next raises whatever comes up.
            raise RadioUnavailableError(f"there is no system bus (D-Bus) to reach BlueZ on: {e}") from e
        # HACK: bless makes D-Bus paths of the name, and fails where it has no ASCII letter or digit. Seen with bless
        # 0.3.0; goes when paths are independent of the name.
        self.app = BlueZGattApplication("bletoken", _BLUEZ, self.bus)
        self.bus.add_message_handler(self._on_message)
        try:
            await self._listen(self.bus)
            await self._look()
        except RefusedError as e:
            raise RadioUnavailableError(f"BlueZ cannot be reached: {e}") from e

    async def add_new_service(self, uuid: str) -> None:
        """Add a primary service; before `start`."""
        await super().add_new_service(uuid)
        # HACK: bless makes only the first service a primary one. Seen with bless 0.3.0 (bless issues 142, 146); goes
        # when all that are added are.
        list(self.services.values())[-1].gatt._primary = True  # noqa: SLF001 there is no other way

    async def add_new_characteristic(
        self,
        service_uuid: str,
        char_uuid: str,
        properties: GATTCharacteristicProperties,
        value: bytearray | None,
        permissions: GATTAttributePermissions,
    ) -> None:
        """Add a characteristic to a service; before `start`."""
        await super().add_new_characteristic(service_uuid, char_uuid, properties, value, permissions)
        added = self.services[service_uuid].characteristics[-1]
        self._paths[added.gatt.path] = added.uuid

    # Life cycle ------------------------------------------------------------------------------------------------------

    async def start(self, **_kwargs: Any) -> bool:  # noqa: ANN401 bless passes every platform's
        """Register the services, advertise, and go on doing so until `stop`.

        Raises:
            RadioUnavailableError: It cannot be done; the message says what to do.
        """
        await self.setup_task
        assert self.bus is not None, "set up"
        self._peers.delegate = self.peers
        if not self._owner:
            raise RadioUnavailableError(
                "the Bluetooth service (bluetoothd) does not run; start it: systemctl start bluetooth"
            )
        self.bus.export(self.app.path, self.app)
        try:
            await self._register()
        except RefusedError as e:
            raise RadioUnavailableError(f"BlueZ does not let this program advertise: {e}") from e
        self._tasks = [asyncio.create_task(self._stay_registered()), asyncio.create_task(self._watch_bus(self.bus))]
        for task in self._tasks:
            task.add_done_callback(self._ended)
        return True

    async def stop(self) -> bool:
        """Stop advertising, disconnect who uses the service, and leave the bus; does nothing twice."""
        tasks = [self.setup_task, *self._tasks]
        self._tasks = []
        try:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._unregister()
        finally:
            self._is_on_air = False
            self._peers.all_vanished()
            if self.bus is not None:
                self.bus.close()
            self._release()
        return True

    async def is_connected(self) -> bool:
        """Whether any peer is connected."""
        return bool(self._peers)

    async def is_advertising(self) -> bool:
        """Whether our advert is registered."""
        return self._advert_name is not None

    async def set_name(self, name: str) -> None:
        """Change the local name in the scan response, now or as soon as the radio is back."""
        self.name = _checked(name)
        self._changed.set()

    async def disconnect_peer(self, peer: str) -> None:
        """End a peer's connection; does nothing when it has gone already.

        `Peers.disconnected` follows when BlueZ has done it, which takes it some two seconds.
        """
        path = self._peers.path_of(peer)
        if path is not None:
            self._disconnect(path)

    def update_value(self, service_uuid: str, char_uuid: str) -> bool:
        """Notify every subscriber of a characteristic's value; returns whether BlueZ was told to."""
        if not self._app_is_registered or self.bus is None or not self.bus.connected:
            return False
        return bool(super().update_value(service_uuid, char_uuid))

    # Registering -----------------------------------------------------------------------------------------------------

    async def _stay_registered(self) -> None:
        """Bring BlueZ in line with what is wanted, whenever something has changed."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._forgive()
            if self._failures > _MOST_FAILURES:
                raise RadioUnavailableError("BlueZ does not let this program advertise any more")
            if self._failures:
                # An advert that BlueZ refuses, or takes and drops again, must not keep us busy.
                await asyncio.sleep(_FIRST_PAUSE_S * 2 ** (self._failures - 1))
            was_on_air = self._is_on_air
            try:
                if not self._adapters.usable:
                    await self._look()
                if not self._adapters.usable:
                    # Its return is a signal.
                    continue
                await self._register()
            except (RefusedError, RadioUnavailableError) as e:
                _log.debug("not registered with BlueZ: %s", e)
                self._failed()
            else:
                if not was_on_air:
                    self.on_radio_back()

    def _failed(self) -> None:
        """Have it tried again; too many failures in a row end that."""
        self._forgive()
        self._registered_at = None
        self._failures += 1
        self._changed.set()

    def _forgive(self) -> None:
        lasted = self._registered_at is not None and self.loop.time() - self._registered_at > _STABLE_S
        if lasted:
            self._failures = 0

    async def _register(self) -> None:
        """Register the service and the advert where they are not.

        HACK: bless registers once and never again: after a restart of bluetoothd nobody finds the device. It also sets
        the adapter's alias, which is the whole machine's, to the name, and clears it at the end. Its advert is not
        general-discoverable, and asks for 20 dBm. Seen with bless 0.3.0 on BlueZ 5.66; goes when bless lets the
        application decide all that.

        Raises:
            RadioUnavailableError: There is no adapter at the moment.
        """
        epoch = self._epoch
        adapter = self._adapters.usable
        if adapter is None:
            raise RadioUnavailableError(self._adapters.what_is_missing)
        if self._claim is None or self._claim.address != adapter.address:
            # It is another one than before: somebody has changed the dongle.
            self._release()
            self._claim = _Claim(adapter)
            self._adapters.prefer(adapter)
        if not self._app_is_registered:
            try:
                await self._ask(adapter.path, GATT_MANAGER, "RegisterApplication", self.app.path, {}, takes="oa{sv}")
            except RefusedError as e:
                # It survives the adapter's being switched off.
                if e.name != f"{_BLUEZ}.Error.AlreadyExists":
                    raise
            self._check(epoch)
            self._app_is_registered = True
        while self._advert_name != self.name:
            await self._stop_advertising(adapter)
            name, path = self.name, f"{self.app.base_path}/advert{next(self._advert_numbers)}"
            self._advert_path = path
            await self._ask(adapter.path, ADVERT_MANAGER, "RegisterAdvertisement", path, {}, takes="oa{sv}")
            self._check(epoch)
            if self._advert_path != path:
                raise RefusedError("", "BlueZ has dropped the advert")
            self._advert_name = name
            self._registered_at = self.loop.time()
        self._is_on_air = True

    def _release(self) -> None:
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    def _check(self, epoch: int) -> None:
        if epoch != self._epoch:
            # What BlueZ has just confirmed went away with it.
            raise RefusedError("", "BlueZ, the adapter or its power went away meanwhile")

    async def _stop_advertising(self, adapter: Adapter) -> None:
        path, self._advert_path, self._advert_name = self._advert_path, "", None
        if path:
            with contextlib.suppress(RefusedError):
                await self._ask(adapter.path, ADVERT_MANAGER, "UnregisterAdvertisement", path, takes="o")

    async def _unregister(self) -> None:
        adapter = self._adapters.usable
        if adapter is None or self.bus is None or not self.bus.connected:
            return
        for path in self._peers.ours:
            self._disconnect(path)
        await self._stop_advertising(adapter)
        if self._app_is_registered:
            self._app_is_registered = False
            with contextlib.suppress(RefusedError):
                await self._ask(adapter.path, GATT_MANAGER, "UnregisterApplication", self.app.path, takes="o")

    def _went_away(self, why: str) -> None:
        """What was registered is gone, or is not on the air; `_stay_registered` takes it from here."""
        self._epoch += 1
        self._peers.all_left()
        self._app_is_registered = False
        self._advert_name = None
        self._changed.set()
        if self._is_on_air:
            self._is_on_air = False
            self.on_radio_away(why)

    @staticmethod
    async def _watch_bus(bus: Bus) -> None:
        try:
            await bus.wait_for_disconnect()
        except Exception as e:
            # dbus-next raises here whatever ended the connection.
            raise RadioUnavailableError("the system bus (D-Bus) ended") from e

    def _ended(self, task: asyncio.Task[None]) -> None:
        """One of our two tasks has ended, which it does only when it is stopped, or the radio is gone for good."""
        if task.cancelled():
            return
        error = task.exception()
        _log.warning("the radio is lost: %s: %s", type(error).__name__, error)
        _log.debug("what ended it", exc_info=error)
        for other in self._tasks:
            other.cancel()
        self._went_away(str(error))
        self.on_radio_lost()

    # Asking BlueZ ----------------------------------------------------------------------------------------------------

    async def _listen(self, bus: Bus) -> None:
        signals = [f"sender='{DBUS}',interface='{DBUS}',member='NameOwnerChanged',arg0='{_BLUEZ}'"]
        signals += [f"sender='{_BLUEZ}',interface='{_OBJECTS}',member='{m}'" for m in _OBJECT_SIGNALS]
        signals += [
            f"sender='{_BLUEZ}',interface='{_PROPERTIES}',member='PropertiesChanged',arg0='{interface}'"
            for interface in (ADAPTER, DEVICE)
        ]
        for rule in signals:
            await bus.ask_bus("AddMatch", f"type='signal',{rule}", takes="s")
        with contextlib.suppress(RefusedError):
            # It may be there to be started by whoever asks first; that it is not is told later.
            await bus.ask_bus("StartServiceByName", _BLUEZ, 0, takes="su", returns="u")
        with contextlib.suppress(RefusedError):
            (self._owner,) = await bus.ask_bus("GetNameOwner", _BLUEZ, takes="s", returns="s")

    async def _look(self) -> None:
        """Learn what BlueZ has; from here on it tells what changes."""
        if self._owner:
            (objects,) = await self._ask("/", _OBJECTS, "GetManagedObjects", returns="a{oa{sa{sv}}}")
            for path, interfaces in objects.items():
                self._adapters.appeared(path, interfaces)

    async def _ask(
        self, path: str, interface: str, member: str, *body: object, takes: str = "", returns: str = ""
    ) -> list[Any]:
        """Call a method of BlueZ; see `Bus.ask`."""
        if not self._owner or self.bus is None:
            raise RefusedError("", "bluetoothd has ended")
        try:
            return await self.bus.ask(self._owner, path, interface, member, *body, takes=takes, returns=returns)
        except RefusedError as e:
            if e.name == f"{DBUS}.Error.AccessDenied":
                raise RefusedError("", f"this user may not use Bluetooth; add it to the group bluetooth ({e})") from e
            raise

    def _disconnect(self, path: str) -> None:
        """Have BlueZ end a connection. That it did is told by a signal, and nothing else waits for it."""
        if self._owner and self.bus is not None and self.bus.connected:
            self.bus.send(
                Message(
                    destination=self._owner,
                    path=path,
                    interface=DEVICE,
                    member="Disconnect",
                    flags=MessageFlag.NO_REPLY_EXPECTED,
                )
            )

    # What BlueZ tells ------------------------------------------------------------------------------------------------

    def _on_message(self, message: Message) -> Message | bool | None:
        if message.message_type is MessageType.METHOD_CALL:
            answer = self._on_call(message)
            # Who wants no answer must get none: the bus logs each as an attack.
            return True if answer is not None and message.flags & MessageFlag.NO_REPLY_EXPECTED else answer
        if message.message_type is MessageType.SIGNAL:
            if message.sender == DBUS and message.member == "NameOwnerChanged":
                self._on_owner(message.body)
            elif message.sender == self._owner and self._owner:
                # Any program may send us signals; only bluetoothd's mean anything.
                self._on_signal(message)
        return None

    def _on_owner(self, body: list[Any]) -> None:
        name, _, owner = body
        if name != _BLUEZ:
            return
        # HACK: bless does not notice that bluetoothd ended: it never registers again, and its `stop` raises. Seen with
        # bless 0.3.0 and BlueZ 5.66; goes when bless registers again by itself.
        self._owner = owner
        self._adapters.all_vanished()
        self._peers.all_vanished()
        self._went_away("bluetoothd ended; waiting for it")

    def _on_signal(self, message: Message) -> None:
        body = message.body
        match message.interface, message.member, message.signature:
            case (_, "PropertiesChanged", "sa{sv}as") if body[0] == DEVICE:
                connected = value_of(body[1], "Connected", bool)
                if connected is not None and self._is_of_ours(message.path):
                    self._peers.changed(message.path, connected=connected)
            case (_, "PropertiesChanged", "sa{sv}as") if body[0] == ADAPTER:
                self._adapters.changed(message.path, body[1])
                self._adapters_changed()
            case (_, "InterfacesAdded", "oa{sa{sv}}"):
                path, interfaces = body
                self._adapters.appeared(path, interfaces)
                if DEVICE in interfaces and self._is_of_ours(path):
                    self._peers.appeared(path, connected=value_of(interfaces[DEVICE], "Connected", bool) is True)
                self._adapters_changed()
            case (_, "InterfacesRemoved", "oas"):
                path, names = body
                self._adapters.vanished(path, names)
                if DEVICE in names:
                    self._peers.vanished(path)
                self._adapters_changed()

    def _is_of_ours(self, path: str) -> bool:
        adapter = self._adapters.usable
        return adapter is not None and path.startswith(f"{adapter.path}/dev_")

    def _adapters_changed(self) -> None:
        if self._adapters.usable is None and (self._is_on_air or self._app_is_registered):
            self._went_away(self._adapters.what_is_missing)
        elif self._adapters.usable is not None and not self._is_on_air:
            self._changed.set()

    def _on_call(self, message: Message) -> Message | None:
        if message.sender != self._owner:
            return Message.new_error(message, f"{DBUS}.Error.AccessDenied", "only BlueZ may ask")
        uuid = self._paths.get(message.path)
        if message.path == self._advert_path and message.path:
            return self._on_advert_call(message)
        match message.interface, message.member, message.signature:
            case (_, "ReadValue" | "WriteValue" | "StartNotify" | "StopNotify", _) if uuid is None:
                return Message.new_error(message, f"{DBUS}.Error.UnknownObject", "no such characteristic")
            case (_, "ReadValue", "a{sv}") if uuid is not None:
                return self._answered(message, "ay", lambda: [self._read(uuid, message.body[0])])
            case (_, "WriteValue", "aya{sv}") if uuid is not None:
                return self._answered(message, "", lambda: self._write(uuid, bytes(message.body[0]), message.body[1]))
            case (_, "StartNotify" | "StopNotify", _):
                # BlueZ notifies who has subscribed, and does not say who that is.
                return Message.new_method_return(message)
        # The rest (which objects there are, and their properties) is dbus-next's and bless's.
        return None

    def _on_advert_call(self, message: Message) -> Message | None:
        match message.interface, message.member:
            case (_, "GetAll"):
                properties = self._advert if message.body == [_ADVERT] else {}
                return Message.new_method_return(message, "a{sv}", [properties])
            case (_, "Release"):
                # BlueZ has dropped the advert by itself: while it stays, that counts as a failure.
                self._advert_path, self._advert_name = "", None
                self._failed()
                return Message.new_method_return(message)
        return None

    @property
    def _advert(self) -> dict[str, Any]:
        return {
            "Type": Variant("s", "peripheral"),
            "ServiceUUIDs": Variant("as", [SERVICE_UUID]),
            "LocalName": Variant("s", self.name),
            "Discoverable": Variant("b", True),
            "MinInterval": Variant("u", _ADVERTISING_INTERVAL_MS),
            "MaxInterval": Variant("u", _ADVERTISING_INTERVAL_MS),
        }

    # What peers ask --------------------------------------------------------------------------------------------------

    def _answered(self, message: Message, signature: str, answer: Callable[[], list[Any]]) -> Message:
        """Answer a peer's request.

        HACK: bless calls back without the peer, its MTU and the offset, and every error becomes ATT 0x0E with a
        traceback on the root logger. Seen with bless 0.3.0 and dbus-next 0.2.3; goes when bless's callbacks get
        BlueZ's options and its errors have codes.
        """
        try:
            return Message.new_method_return(message, signature, answer())
        except _AttError as e:
            return Message.new_error(message, e.name, str(e))
        except RemoteProtocolError as e:
            code = e.att_error_hint if e.att_error_hint in _APPLICATION_ERRORS else 0x80
            return Message.new_error(message, f"{_BLUEZ}.Error.Failed", f"0x{code:02x}")
        except Exception as e:  # noqa: BLE001 a peer must not be able to end the connection to BlueZ
            _log.warning("a GATT request failed in the application: %s", type(e).__name__)
            return Message.new_error(message, f"{_BLUEZ}.Error.Failed", "failed")

    def _read(self, uuid: str, options: Mapping[str, Any]) -> bytes:
        """Serve a read, or a part of a long one.

        HACK: bless answers every part of a long read with the whole value, so that it never ends. Seen with bless
        0.3.0 and BlueZ 5.66; goes when bless honours the offset.
        """
        peer = self._peer(options)
        offset = value_of(options, "offset", int) or 0
        if offset == 0 or uuid not in peer.values:
            assert self.peers is not None, "checked with the peer"
            value = bytes(self.peers.read(peer.name, uuid, 0))
            if len(value) > _LONGEST_VALUE:
                raise _AttError("InvalidValueLength", "longer than an attribute may be")
            # The parts of one read are of one value, whatever happens meanwhile.
            peer.values[uuid] = value
        value = peer.values[uuid]
        if not 0 <= offset <= len(value):
            raise _AttError("InvalidOffset", "beyond the end")
        return value[offset:]

    def _write(self, uuid: str, value: bytes, options: Mapping[str, Any]) -> list[Any]:
        """Take a write. BlueZ delivers commands like requests, and long writes in one piece."""
        peer = self._peer(options)
        if value_of(options, "prepare-authorize", bool):
            raise _AttError("NotAuthorized", "no write needs to be authorized")
        if value_of(options, "offset", int):
            # A long write with a gap, or one that begins in the middle.
            raise _AttError("InvalidOffset", "a frame is written whole")
        if len(value) > _LONGEST_VALUE:
            raise _AttError("InvalidValueLength", "longer than an attribute may be")
        assert self.peers is not None, "checked with the peer"
        self.peers.write(peer.name, uuid, value)
        return []

    def _peer(self, options: Mapping[str, Any]) -> Peer:
        path = value_of(options, "device", str) or ""
        if self.peers is None or not self._is_of_ours(path):
            raise _AttError("Failed", "no peer")
        mtu = value_of(options, "mtu", int) or 0
        return self._peers.using(path, mtu if 23 <= mtu <= 0xFFFF else 0)


def _checked(name: str) -> str:
    if len(name.encode("utf-8")) > _LONGEST_NAME:
        raise RadioUnavailableError(f"a name in a scan response has at most {_LONGEST_NAME} octets")
    return name
