"""A BlueZ without Bluetooth: `org.bluez` on a private bus, in the hands of a test."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dbus_fast import Message, MessageFlag, MessageType, Variant
from dbus_fast.aio import MessageBus

ADAPTER = "org.bluez.Adapter1"
DEVICE = "org.bluez.Device1"
GATT_MANAGER = "org.bluez.GattManager1"
ADVERT_MANAGER = "org.bluez.LEAdvertisingManager1"
CHARACTERISTIC = "org.bluez.GattCharacteristic1"
PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECTS = "org.freedesktop.DBus.ObjectManager"


class CallError(Exception):
    """What the peripheral answered instead of a value."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(name, text)
        self.name, self.text = name, text


@dataclass
class Registered:
    """What a program has registered with an adapter."""

    sender: str
    characteristics: dict[str, str] = field(default_factory=dict)
    services: dict[str, bool] = field(default_factory=dict)
    adverts: dict[str, dict[str, Any]] = field(default_factory=dict)


class FakeBlueZ:
    """BlueZ with one adapter, or as many as `plug` is called for.

    Attributes:
        apps: Who has registered services, by adapter path.
        adverts: The adverts on the air: object path to properties.
        calls: Every call of a method, by its name.
        refused: Methods that are answered with this error.
        notified: The values of characteristics that were announced as changed.
        on_call: Is told of every call before it is answered.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self.objects: dict[str, dict[str, dict[str, Any]]] = {}
        self.apps: dict[str, Registered] = {}
        self.adverts: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.refused: dict[str, tuple[str, str]] = {}
        self.notified: list[bytes] = []
        self.on_call: Callable[[str], None] = lambda _: None
        self.hangs: set[str] = set()
        self._bus: MessageBus | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._anything = asyncio.Event()

    # Life ------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._bus = await MessageBus(bus_address=self._address).connect()
        self._bus.add_message_handler(self._on_message)
        rule = f"type='signal',interface='{PROPERTIES}',arg0='{CHARACTERISTIC}'"
        await self._bus.call(
            Message(
                destination="org.freedesktop.DBus",
                path="/org/freedesktop/DBus",
                interface="org.freedesktop.DBus",
                member="AddMatch",
                signature="s",
                body=[rule],
            )
        )
        await self._bus.request_name("org.bluez")

    async def kill(self) -> None:
        """End as with SIGKILL: nothing is released, everything is forgotten."""
        assert self._bus is not None
        self._bus.disconnect()
        await self._bus.wait_for_disconnect()
        self._bus = None
        self.objects, self.apps, self.adverts = {}, {}, {}
        for task in self._tasks:
            task.cancel()

    async def stop(self) -> None:
        if self._bus is not None:
            await self.kill()

    # The hardware ----------------------------------------------------------------------------------------------------

    def plug(
        self, name: str = "hci0", address: str = "00:11:22:33:44:55", *, powered: bool = True, **more: Any
    ) -> None:
        """Add an adapter, at once or while it runs."""
        interfaces: dict[str, dict[str, Any]] = {
            ADAPTER: {
                "Address": Variant("s", address),
                "Powered": Variant("b", powered),
                "Alias": Variant("s", "machine"),
            },
            GATT_MANAGER: {},
            ADVERT_MANAGER: {},
        }
        for interface in more.get("without", ()):
            del interfaces[interface]
        self.objects[f"/org/bluez/{name}"] = interfaces
        self._signal("/", OBJECTS, "InterfacesAdded", "oa{sa{sv}}", [f"/org/bluez/{name}", interfaces])

    def unplug(self, name: str = "hci0") -> None:
        path = f"/org/bluez/{name}"
        for gone in [p for p in self.objects if p == path or p.startswith(f"{path}/")]:
            names = list(self.objects.pop(gone))
            self._signal("/", OBJECTS, "InterfacesRemoved", "oas", [gone, names])
        self.apps.pop(path, None)
        self.adverts.clear()

    def power(self, *, on: bool, name: str = "hci0") -> None:
        self.change(f"/org/bluez/{name}", ADAPTER, Powered=Variant("b", on))
        if not on:
            self.adverts.clear()

    def appears(self, address: str, *, connected: bool = True, name: str = "hci0") -> str:
        """A device that was not known is there; returns its path."""
        path = f"/org/bluez/{name}/dev_{address.replace(':', '_')}"
        self.objects[path] = {DEVICE: {"Connected": Variant("b", connected)}}
        self._signal("/", OBJECTS, "InterfacesAdded", "oa{sa{sv}}", [path, self.objects[path]])
        return path

    def connects(self, path: str, *, connected: bool = True) -> None:
        self.change(path, DEVICE, Connected=Variant("b", connected))

    def change(self, path: str, interface: str, **properties: Variant) -> None:
        if interface in self.objects.get(path, {}):
            self.objects[path][interface].update(properties)
        self._signal(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", [interface, properties, []])

    # The companion ---------------------------------------------------------------------------------------------------

    @property
    def app(self) -> Registered:
        (app,) = self.apps.values()
        return app

    async def read(self, uuid: str, device: str, **options: Variant) -> bytes:
        options = {"device": Variant("o", device), **options}
        return bytes((await self._ask_app(uuid, "ReadValue", "a{sv}", [options]))[0])

    async def write(self, uuid: str, value: bytes, device: str, **options: Variant) -> None:
        options = {"device": Variant("o", device), **options}
        await self._ask_app(uuid, "WriteValue", "aya{sv}", [value, options])

    async def subscribe(self, uuid: str, *, on: bool = True) -> None:
        await self._ask_app(uuid, "StartNotify" if on else "StopNotify", "", [])

    async def release(self, path: str) -> None:
        """Drop an advert, as BlueZ does by itself."""
        del self.adverts[path]
        await self.call(self.app.sender, path, "org.bluez.LEAdvertisement1", "Release", "", [])

    async def _ask_app(self, uuid: str, member: str, signature: str, body: list[Any]) -> list[Any]:
        path = self.app.characteristics[uuid]
        return await self.call(self.app.sender, path, CHARACTERISTIC, member, signature, body)

    async def call(
        self, destination: str, path: str, interface: str, member: str, signature: str, body: list[Any]
    ) -> list[Any]:
        assert self._bus is not None
        reply = await self._bus.call(
            Message(
                destination=destination, path=path, interface=interface, member=member, signature=signature, body=body
            )
        )
        assert reply is not None
        if reply.message_type is MessageType.ERROR:
            raise CallError(str(reply.error_name), str(reply.body[0]) if reply.body else "")
        return list(reply.body)

    # What is asked ---------------------------------------------------------------------------------------------------

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for something that follows from what comes over the bus."""
        async with asyncio.timeout(10):
            while not condition():
                self._anything.clear()
                await self._anything.wait()

    def _signal(self, path: str, interface: str, member: str, signature: str, body: list[Any]) -> None:
        if self._bus is not None:
            self._bus.send(
                Message(
                    message_type=MessageType.SIGNAL,
                    path=path,
                    interface=interface,
                    member=member,
                    signature=signature,
                    body=body,
                )
            )

    def _on_message(self, message: Message) -> bool:
        if message.message_type is MessageType.SIGNAL and message.member == "PropertiesChanged":
            self.notified.append(bytes(message.body[1]["Value"].value))
            self._anything.set()
        if message.message_type is not MessageType.METHOD_CALL or message.interface == "org.freedesktop.DBus.Peer":
            return False
        task = asyncio.create_task(self._answer(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _answer(self, message: Message) -> None:
        member = str(message.member)
        self.calls.append(member)
        self.on_call(member)
        try:
            if member in self.hangs:
                return
            if member in self.refused:
                raise CallError(*self.refused[member])
            signature, body = await getattr(self, f"_{member}")(message)
            reply = Message.new_method_return(message, signature, body)
        except CallError as e:
            reply = Message.new_error(message, e.name, e.text)
        finally:
            self._anything.set()
        if self._bus is not None and not message.flags & MessageFlag.NO_REPLY_EXPECTED:
            self._bus.send(reply)

    async def _GetManagedObjects(self, _: Message) -> tuple[str, list[Any]]:  # noqa: N802 BlueZ's own names
        return "a{oa{sa{sv}}}", [self.objects]

    async def _RegisterApplication(self, message: Message) -> tuple[str, list[Any]]:  # noqa: N802
        if str(message.path) in self.apps:
            raise CallError("org.bluez.Error.AlreadyExists", "Already Exists")
        app = Registered(str(message.sender))
        (objects,) = await self.call(app.sender, message.body[0], OBJECTS, "GetManagedObjects", "", [])
        for path, interfaces in objects.items():
            if CHARACTERISTIC in interfaces:
                app.characteristics[interfaces[CHARACTERISTIC]["UUID"].value] = path
            if service := interfaces.get("org.bluez.GattService1"):
                app.services[service["UUID"].value] = service["Primary"].value
        self.apps[str(message.path)] = app
        return "", []

    async def _UnregisterApplication(self, message: Message) -> tuple[str, list[Any]]:  # noqa: N802
        del self.apps[str(message.path)]
        return "", []

    async def _RegisterAdvertisement(self, message: Message) -> tuple[str, list[Any]]:  # noqa: N802
        path = message.body[0]
        (properties,) = await self.call(
            str(message.sender), path, PROPERTIES, "GetAll", "s", ["org.bluez.LEAdvertisement1"]
        )
        self.adverts[path] = {name: variant.value for name, variant in properties.items()}
        return "", []

    async def _UnregisterAdvertisement(self, message: Message) -> tuple[str, list[Any]]:  # noqa: N802
        if message.body[0] not in self.adverts:
            raise CallError("org.bluez.Error.DoesNotExist", "Does Not Exist")
        del self.adverts[message.body[0]]
        return "", []

    async def _Disconnect(self, message: Message) -> tuple[str, list[Any]]:  # noqa: N802
        self.connects(str(message.path), connected=False)
        return "", []

    async def _Set(self, message: Message) -> tuple[str, list[Any]]:  # noqa: N802
        return "", []
