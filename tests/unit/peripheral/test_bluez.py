"""The device's GATT server on a BlueZ that is a fake, with bless as it is."""

import asyncio
import gc
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from dbus_fast import Variant
from unit.peripheral.fake_bluez import ADVERT_MANAGER, CallError, FakeBlueZ

from bletoken.errors import RadioUnavailableError, RemoteProtocolError
from bletoken.protocol.wire import HELLO_UUID, SERVICE_UUID, STATUS_UUID, TOKEN_UUID
from bletoken_peripheral import bluez as bluez_module
from bletoken_peripheral import bluez_bus
from bletoken_peripheral.gatt_server import GattServer

A, B = "AA:AA:AA:AA:AA:AA", "BB:BB:BB:BB:BB:BB"
NAME = "BT1rABCDEFGHIJ"


class Companions:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.peers: list[str] = []
        self.written: list[tuple[str, bytes]] = []
        self.value = b"hello"
        self.hellos = 0
        self.refusal: Exception | None = None
        self._told = asyncio.Event()

    def _tell(self, what: str) -> None:
        self.told.append(what)
        self._told.set()

    def connected(self, peer: str) -> None:
        self.peers.append(peer)
        self._tell(f"connected {len(self.peers) - 1}")

    def disconnected(self, peer: str) -> None:
        self._tell(f"disconnected {self.peers.index(peer)}")

    def hello(self, peer: str) -> bytes:
        self.hellos += 1
        return self.value

    def token_written(self, peer: str, frame: bytes) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.written.append((peer, frame))

    def radio_lost(self) -> None:
        self._tell("lost")

    def radio_away(self, why: str) -> None:
        self._tell(f"away: {why}")

    def radio_back(self) -> None:
        self._tell("back")

    async def hear(self, what: str, times: int = 1) -> None:
        """Wait until this was told."""
        try:
            async with asyncio.timeout(10):
                while sum(told.startswith(what) for told in self.told) < times:
                    self._told.clear()
                    await self._told.wait()
        except TimeoutError:
            raise AssertionError(f"{what!r} is not in {self.told}") from None


@pytest.fixture
def companions() -> Companions:
    return Companions()


@pytest.fixture
async def server(bluez: FakeBlueZ, companions: Companions) -> AsyncIterator[GattServer]:
    async with GattServer("system", NAME, companions) as opened:
        yield opened


def mtu(size: int) -> dict[str, Variant]:
    return {"mtu": Variant("q", size)}


def at(offset: int) -> dict[str, Variant]:
    return {"offset": Variant("q", offset)}


# The service and the advert -----------------------------------------------------------------------------------------


async def test_the_advert_is_general_discoverable_with_the_uuid_and_the_name_and_nothing_else(
    bluez: FakeBlueZ, server: GattServer
) -> None:
    assert list(bluez.adverts.values()) == [
        {
            "Type": "peripheral",
            "ServiceUUIDs": [SERVICE_UUID],
            "LocalName": NAME,
            "Discoverable": True,
            "MinInterval": 100,
            "MaxInterval": 100,
        }
    ]


async def test_the_service_is_a_primary_one_with_three_characteristics(bluez: FakeBlueZ, server: GattServer) -> None:
    assert bluez.app.services == {SERVICE_UUID: True}
    assert set(bluez.app.characteristics) == {HELLO_UUID, TOKEN_UUID, STATUS_UUID}


async def test_nothing_is_left_when_the_window_ends(
    bluez: FakeBlueZ, companions: Companions, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with GattServer("system", NAME, companions):
        pass
    assert bluez.apps == bluez.adverts == {}


async def test_the_adapters_alias_and_everything_else_of_it_is_left_alone(
    bluez: FakeBlueZ, companions: Companions
) -> None:
    async with GattServer("system", NAME, companions) as server:
        await server.rename("other")
        await bluez.until(lambda: [a["LocalName"] for a in bluez.adverts.values()] == ["other"])
    assert "Set" not in bluez.calls


async def test_another_name_is_another_advert_and_the_old_one_goes(bluez: FakeBlueZ, server: GattServer) -> None:
    await server.rename("one")
    await server.rename("two")
    await bluez.until(lambda: [a["LocalName"] for a in bluez.adverts.values()] == ["two"])


@pytest.mark.parametrize("name", ["", "...", "日本語", "a b/c", "x" * 29])
async def test_any_name_will_do(bluez: FakeBlueZ, companions: Companions, name: str) -> None:
    async with GattServer("system", name, companions):
        assert [advert["LocalName"] for advert in bluez.adverts.values()] == [name]


async def test_an_advert_that_bluez_drops_is_registered_again(
    bluez: FakeBlueZ, server: GattServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bluez_module, "_FIRST_PAUSE_S", 0.001)
    (path,) = bluez.adverts
    await bluez.release(path)
    await bluez.until(lambda: bluez.adverts)


async def test_an_advert_that_bluez_drops_again_and_again_ends_the_radio(
    bluez: FakeBlueZ, server: GattServer, companions: Companions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bluez_module, "_FIRST_PAUSE_S", 0.001)
    lost = asyncio.create_task(companions.hear("lost"))
    while not lost.done():
        again = asyncio.create_task(bluez.until(lambda: bluez.adverts))
        await asyncio.wait({lost, again}, return_when=asyncio.FIRST_COMPLETED)
        if not again.done():
            again.cancel()
        elif bluez.adverts:
            await bluez.release(next(iter(bluez.adverts)))
    await lost
    assert bluez.calls.count("RegisterAdvertisement") < 10


# Peers --------------------------------------------------------------------------------------------------------------


async def test_a_device_that_comes_in_is_told_at_once_and_so_is_its_leaving(
    bluez: FakeBlueZ, server: GattServer, companions: Companions
) -> None:
    device = bluez.appears(A)
    await companions.hear("connected 0")
    bluez.connects(device, connected=False)
    await companions.hear("disconnected 0")
    bluez.connects(device)
    await companions.hear("connected 1")
    bluez.unplug()
    await companions.hear("disconnected 1")
    assert len(set(companions.peers)) == 2


async def test_what_other_programs_connect_to_is_no_companion_until_it_uses_the_service(
    bluez: FakeBlueZ, server: GattServer, companions: Companions
) -> None:
    headphones = bluez.appears(A, connected=False)
    bluez.connects(headphones)
    bluez.connects(headphones, connected=False)
    bluez.connects(headphones)
    device = bluez.appears(B)
    await companions.hear("connected 0")
    assert companions.told == ["connected 0"]
    await bluez.read(HELLO_UUID, headphones)
    assert companions.told == ["connected 0", "connected 1"]
    bluez.connects(device, connected=False)
    bluez.connects(headphones, connected=False)
    await companions.hear("disconnected 1")


async def test_whoever_reads_before_its_connection_is_told_is_one_companion(
    bluez: FakeBlueZ, server: GattServer, companions: Companions
) -> None:
    await bluez.read(HELLO_UUID, "/org/bluez/hci0/dev_AA")
    bluez.appears("AA")
    bluez.appears("BB")
    await companions.hear("connected 1")
    assert len(companions.peers) == 2


async def test_each_companion_is_told_from_the_others(
    bluez: FakeBlueZ, server: GattServer, companions: Companions
) -> None:
    devices = [bluez.appears(A), bluez.appears(B)]
    for number, device in enumerate(devices):
        await bluez.write(TOKEN_UUID, bytes([number]), device)
    assert companions.written == [(companions.peers[0], b"\0"), (companions.peers[1], b"\1")]


async def test_a_companion_can_be_dropped(bluez: FakeBlueZ, server: GattServer, companions: Companions) -> None:
    bluez.appears(A)
    bluez.appears(B)
    await companions.hear("connected 1")
    await server.disconnect(companions.peers[0])
    await companions.hear("disconnected 0")
    await server.disconnect(companions.peers[0])
    assert bluez.calls.count("Disconnect") == 1
    assert "disconnected 1" not in companions.told


async def test_a_device_of_another_adapter_is_none_of_ours(
    bluez: FakeBlueZ, server: GattServer, companions: Companions
) -> None:
    bluez.plug("hci1")
    elsewhere = bluez.appears(A, name="hci1")
    with pytest.raises(CallError):
        await bluez.read(HELLO_UUID, elsewhere)
    with pytest.raises(CallError):
        await bluez.read(HELLO_UUID, "/org/bluez/hci01/dev_AA")
    assert companions.told == []


async def test_what_another_program_says_on_the_bus_counts_for_nothing(
    bluez: FakeBlueZ, private_bus: str, server: GattServer, companions: Companions
) -> None:
    device = bluez.appears(A)
    await companions.hear("connected 0")
    impostor = FakeBlueZ(private_bus)
    await impostor.start()
    impostor.connects(device, connected=False)
    impostor.apps = bluez.apps
    with pytest.raises(CallError) as refused:
        await impostor.write(TOKEN_UUID, b"x", device)
    assert refused.value.name == "org.freedesktop.DBus.Error.AccessDenied"
    await impostor.stop()
    # In order: what the impostor sent has been looked at by now.
    await bluez.read(HELLO_UUID, device)
    assert companions.told == ["connected 0"]
    assert companions.written == []


# What they ask ------------------------------------------------------------------------------------------------------


async def test_a_long_read_is_of_one_value_and_ends(
    bluez: FakeBlueZ, server: GattServer, companions: Companions
) -> None:
    device = bluez.appears(A)
    companions.value = bytes(range(50))
    parts = [await bluez.read(HELLO_UUID, device, **at(0))]
    companions.value = b"another"
    parts += [await bluez.read(HELLO_UUID, device, **at(offset)) for offset in range(1, 51)]
    assert b"".join(part[:1] for part in parts) == bytes(range(50))
    assert parts[-1] == b""
    assert companions.hellos == 1
    assert await bluez.read(HELLO_UUID, device) == b"another"


async def test_long_reads_of_two_companions_do_not_mix(
    bluez: FakeBlueZ, server: GattServer, companions: Companions
) -> None:
    one, other = bluez.appears(A), bluez.appears(B)
    companions.value = b"first"
    await bluez.read(HELLO_UUID, one)
    companions.value = b"other"
    await bluez.read(HELLO_UUID, other)
    assert await bluez.read(HELLO_UUID, one, **at(1)) == b"irst"
    assert await bluez.read(HELLO_UUID, other, **at(1)) == b"ther"


async def test_a_read_beyond_the_end_is_an_invalid_offset(
    bluez: FakeBlueZ, server: GattServer, companions: Companions
) -> None:
    device = bluez.appears(A)
    with pytest.raises(CallError) as refused:
        await bluez.read(HELLO_UUID, device, **at(6))
    assert refused.value.name == "org.bluez.Error.InvalidOffset"


async def test_status_is_read_as_this_connections_last_message(
    bluez: FakeBlueZ, server: GattServer, companions: Companions
) -> None:
    one, other = bluez.appears(A), bluez.appears(B)
    await companions.hear("connected 1")
    assert await bluez.read(STATUS_UUID, one) == b""
    server.send(companions.peers[0], b"to the first")
    server.send(companions.peers[1], b"to the other")
    assert await bluez.read(STATUS_UUID, one) == b"to the first"
    assert await bluez.read(STATUS_UUID, other) == b"to the other"
    bluez.connects(one, connected=False)
    bluez.connects(one)
    await companions.hear("connected 2")
    assert await bluez.read(STATUS_UUID, one) == b""


@pytest.mark.parametrize(
    ("size", "frame_size"), [(23, 20), (48, 45), (247, 244), (517, 508), (65535, 508), (22, 20), (0, 20)]
)
async def test_a_notified_frame_fits_the_companions_mtu(
    bluez: FakeBlueZ, server: GattServer, companions: Companions, size: int, frame_size: int
) -> None:
    device = bluez.appears(A)
    await bluez.subscribe(STATUS_UUID)
    await bluez.write(TOKEN_UUID, b"x", device, **mtu(size))
    server.send(companions.peers[0], bytes(600))
    await bluez.until(lambda: sum(len(frame) - 1 for frame in bluez.notified) == 600)
    assert max(len(frame) for frame in bluez.notified) == frame_size
    await bluez.subscribe(STATUS_UUID, on=False)


async def test_a_frame_is_20_octets_while_the_mtu_is_not_known(
    bluez: FakeBlueZ, server: GattServer, companions: Companions
) -> None:
    bluez.appears(A)
    await companions.hear("connected 0")
    server.send(companions.peers[0], bytes(100))
    await bluez.until(lambda: len(bluez.notified) == 6)
    assert {len(frame) for frame in bluez.notified[:-1]} == {20}


@pytest.mark.parametrize(
    ("options", "value", "error", "text"),
    [
        (at(1), b"x", "org.bluez.Error.InvalidOffset", None),
        ({}, bytes(513), "org.bluez.Error.InvalidValueLength", None),
        ({"prepare-authorize": Variant("b", True)}, b"x", "org.bluez.Error.NotAuthorized", None),
    ],
)
async def test_a_write_that_cannot_be_is_refused_with_its_reason(
    bluez: FakeBlueZ,
    server: GattServer,
    companions: Companions,
    options: dict[str, Variant],
    value: bytes,
    error: str,
    text: str | None,
) -> None:
    with pytest.raises(CallError) as refused:
        await bluez.write(TOKEN_UUID, value, bluez.appears(A), **options)
    assert refused.value.name == error
    assert companions.written == []


@pytest.mark.parametrize(
    ("refusal", "text"),
    [
        (RemoteProtocolError("no", att_error_hint=0x82), "0x82"),
        (RemoteProtocolError("no", att_error_hint=0x01), "0x80"),
        (ValueError("secret"), "failed"),
    ],
)
async def test_a_refused_frame_has_its_att_error_and_leaves_no_traceback(
    bluez: FakeBlueZ,
    server: GattServer,
    companions: Companions,
    caplog: pytest.LogCaptureFixture,
    refusal: Exception,
    text: str,
) -> None:
    companions.refusal = refusal
    with caplog.at_level(logging.INFO), pytest.raises(CallError) as refused:
        await bluez.write(TOKEN_UUID, b"x", bluez.appears(A))
    assert (refused.value.name, refused.value.text) == ("org.bluez.Error.Failed", text)
    assert "Traceback" not in caplog.text
    assert "secret" not in caplog.text


async def test_token_is_not_read_and_hello_not_written(
    bluez: FakeBlueZ, server: GattServer, companions: Companions
) -> None:
    device = bluez.appears(A)
    for refused in (bluez.read(TOKEN_UUID, device), bluez.write(HELLO_UUID, b"x", device)):
        with pytest.raises(CallError):
            await refused
    assert companions.written == []


@pytest.mark.parametrize(
    ("interface", "member", "signature", "body"),
    [
        ("org.bluez.GattCharacteristic1", "ReadValue", "", []),
        ("org.bluez.GattCharacteristic1", "ReadValue", "a{sv}", [{}]),
        ("org.bluez.GattCharacteristic1", "ReadValue", "a{sv}", [{"device": Variant("s", "hci0")}]),
        ("org.bluez.GattCharacteristic1", "ReadValue", "s", ["x"]),
        ("org.bluez.GattCharacteristic1", "WriteValue", "aya{sv}", [b"x", {"device": Variant("i", 5)}]),
        ("org.bluez.GattCharacteristic1", "Unheard", "", []),
        ("org.freedesktop.DBus.Properties", "Get", "ss", ["org.bluez.GattCharacteristic1", "Unheard"]),
        ("org.freedesktop.DBus.Properties", "GetAll", "s", ["org.bluez.Unheard"]),
        ("org.freedesktop.DBus.Properties", "Set", "ssv", ["", "", Variant("s", "")]),
    ],
)
async def test_a_call_that_makes_no_sense_is_refused_without_a_traceback(
    bluez: FakeBlueZ,
    server: GattServer,
    companions: Companions,
    caplog: pytest.LogCaptureFixture,
    interface: str,
    member: str,
    signature: str,
    body: list[object],
) -> None:
    app = bluez.app
    with caplog.at_level(logging.INFO), pytest.raises(CallError):
        await bluez.call(app.sender, app.characteristics[TOKEN_UUID], interface, member, signature, body)
    assert caplog.records == []
    await bluez.write(TOKEN_UUID, b"x", bluez.appears(A))


async def test_signals_that_make_no_sense_change_nothing(
    bluez: FakeBlueZ, server: GattServer, companions: Companions, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = "org.bluez.Adapter1"
    bluez.change("/org/bluez/hci0", adapter, Powered=Variant("s", "no"), Address=Variant("b", False))
    bluez.change("/org/bluez/hci9", adapter, Powered=Variant("b", False))
    bluez.change("/org/bluez/hci0/dev_AA", "org.bluez.Device1", Connected=Variant("s", "yes"))
    bluez._signal("/", "org.freedesktop.DBus.ObjectManager", "InterfacesAdded", "s", ["x"])
    bluez._signal("/", "org.freedesktop.DBus.ObjectManager", "InterfacesRemoved", "as", [["x"]])
    bluez.appears(A)
    await companions.hear("connected 0")
    assert companions.told == ["connected 0"]
    assert caplog.records == []


# Going and coming back ----------------------------------------------------------------------------------------------


async def test_bluetoothd_killed_and_started_again_carries_on_under_the_latest_name(
    bluez: FakeBlueZ, server: GattServer, companions: Companions
) -> None:
    bluez.appears(A)
    await companions.hear("connected 0")
    await bluez.kill()
    await companions.hear("away: bluetoothd ended")
    assert "disconnected 0" in companions.told
    await server.rename("later")
    bluez.plug(address=address_of(server))
    await bluez.start()
    await companions.hear("back")
    assert [advert["LocalName"] for advert in bluez.adverts.values()] == ["later"]
    await bluez.write(TOKEN_UUID, b"x", bluez.appears(A))
    assert len(companions.peers) == 2


async def test_bluetoothd_that_finds_its_adapter_late_is_waited_for(
    bluez: FakeBlueZ, server: GattServer, companions: Companions
) -> None:
    for _ in range(3):
        await bluez.kill()
        await bluez.start()
    bluez.plug("hci1", "11:11:11:11:11:11", powered=False)
    bluez.plug(address=address_of(server), without=[ADVERT_MANAGER])
    path = "/org/bluez/hci0"
    bluez.objects[path][ADVERT_MANAGER] = {}
    bluez._signal(
        "/", "org.freedesktop.DBus.ObjectManager", "InterfacesAdded", "oa{sa{sv}}", [path, {ADVERT_MANAGER: {}}]
    )
    await companions.hear("back")
    assert list(bluez.apps) == [path]


async def test_an_adapter_that_comes_back_under_another_name_is_the_same(
    bluez: FakeBlueZ, server: GattServer, companions: Companions
) -> None:
    bluez.unplug()
    await companions.hear("away: there is no Bluetooth adapter")
    bluez.plug("hci7", address_of(server))
    await companions.hear("back")
    assert list(bluez.apps) == ["/org/bluez/hci7"]


@pytest.mark.parametrize("radio", ["system", "system:hci0"])
async def test_another_adapter_in_its_place_will_do(bluez: FakeBlueZ, companions: Companions, radio: str) -> None:
    async with GattServer(radio, NAME, companions):
        bluez.unplug()
        await companions.hear("away")
        bluez.plug("hci0", fresh_address())
        await companions.hear("back")
        assert len(bluez.adverts) == 1
        # And it is claimed: nobody else gets it.
        with pytest.raises(RadioUnavailableError, match="another bletoken-peripheral"):
            async with GattServer(radio, NAME, Companions()):
                pass


async def test_a_named_adapter_is_not_replaced_by_another(bluez: FakeBlueZ, companions: Companions) -> None:
    async with GattServer("system:hci0", NAME, companions) as server:
        address = address_of(server)
        bluez.unplug()
        await companions.hear("away")
        bluez.plug("hci1", fresh_address())
        bluez.plug("hci0", address)
        await companions.hear("back")
        assert list(bluez.apps) == ["/org/bluez/hci0"]


async def test_an_adapter_switched_off_and_on_carries_on(
    bluez: FakeBlueZ, server: GattServer, companions: Companions
) -> None:
    bluez.appears(A)
    await companions.hear("connected 0")
    bluez.power(on=False)
    await companions.hear("away: the Bluetooth adapter hci0 is switched off; switch it on: bluetoothctl power on")
    assert "disconnected 0" in companions.told
    bluez.power(on=True)
    await companions.hear("back")
    assert len(bluez.adverts) == 1


async def test_a_message_to_nobody_while_the_radio_is_away_is_no_error(
    bluez: FakeBlueZ, server: GattServer, companions: Companions
) -> None:
    bluez.appears(A)
    await companions.hear("connected 0")
    await bluez.kill()
    await companions.hear("away")
    server.send(companions.peers[0], b"anybody?")
    await server.disconnect(companions.peers[0])


async def test_a_registration_that_fails_on_the_way_back_is_tried_again(
    bluez: FakeBlueZ, server: GattServer, companions: Companions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bluez_module, "_FIRST_PAUSE_S", 0.001)
    bluez.power(on=False)
    await companions.hear("away")
    bluez.refused["RegisterAdvertisement"] = ("org.bluez.Error.Failed", "not yet")
    before = bluez.calls.count("RegisterAdvertisement")
    bluez.power(on=True)
    await bluez.until(lambda: bluez.calls.count("RegisterAdvertisement") > before + 2)
    del bluez.refused["RegisterAdvertisement"]
    await companions.hear("back")


async def test_a_registration_that_fails_too_often_is_the_end(
    bluez: FakeBlueZ, server: GattServer, companions: Companions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bluez_module, "_FIRST_PAUSE_S", 0.001)
    bluez.refused["RegisterAdvertisement"] = ("org.bluez.Error.NotPermitted", "Maximum advertisements reached")
    await server.rename("other")
    await companions.hear("lost")
    assert bluez.calls.count("RegisterAdvertisement") < 10


async def test_a_power_cut_in_the_middle_of_a_registration_is_seen(
    bluez: FakeBlueZ, server: GattServer, companions: Companions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bluez_module, "_FIRST_PAUSE_S", 0.001)

    def cut(member: str) -> None:
        if member == "RegisterAdvertisement":
            bluez.on_call = lambda _: None
            bluez.power(on=False)
            bluez.power(on=True)

    bluez.on_call = cut
    await server.rename("other")
    await companions.hear("back")
    await bluez.until(lambda: [a["LocalName"] for a in bluez.adverts.values()] == ["other"])


@pytest.mark.parametrize("moment", ["UnregisterAdvertisement", "RegisterAdvertisement"])
async def test_a_bluetoothd_killed_in_the_middle_of_a_registration_is_waited_for(
    bluez: FakeBlueZ, server: GattServer, companions: Companions, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setattr(bluez_module, "_FIRST_PAUSE_S", 0.001)
    reached = asyncio.Event()
    bluez.hangs = {moment}
    bluez.on_call = lambda member: reached.set() if member == moment else None
    await server.rename("other")
    await asyncio.wait_for(reached.wait(), 10)
    await bluez.kill()
    await companions.hear("away")
    bluez.hangs = set()
    bluez.plug(address=address_of(server))
    await bluez.start()
    await companions.hear("back")
    assert [advert["LocalName"] for advert in bluez.adverts.values()] == ["other"]


async def test_a_bus_that_ends_is_the_end_of_the_radio_and_told_once(
    bluez: FakeBlueZ, server: GattServer, companions: Companions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bluez_module, "_FIRST_PAUSE_S", 0.001)
    bluez.appears(A)
    await companions.hear("connected 0")
    tasks = server._server._tasks
    server._server.bus._sock.shutdown(2)
    await companions.hear("disconnected 0")
    await companions.hear("lost")
    # Nothing is tried any more.
    await asyncio.wait(tasks, timeout=10)
    assert all(task.done() for task in tasks)
    assert companions.told.count("lost") == 1
    server._mtus[companions.peers[0]] = 0
    server.send(companions.peers[0], b"anybody?")


# What cannot be -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("radio", "prepare", "message"),
    [
        ("system", lambda b: b.power(on=False), "hci0 is switched off; switch it on: bluetoothctl power on"),
        ("system", lambda b: b.unplug(), "there is no Bluetooth adapter"),
        ("system:hci1", lambda _: None, "there is no Bluetooth adapter 'hci1'; there is: hci0"),
        ("system:hci", lambda _: None, "there is no Bluetooth adapter 'hci'; there is: hci0"),
        ("system:hci1", lambda b: b.plug("hci1", without=[ADVERT_MANAGER]), "cannot advertise"),
        (
            "system",
            lambda b: b.refused.update(RegisterAdvertisement=("org.bluez.Error.NotPermitted", "Maximum reached")),
            "BlueZ does not let this program advertise: org.bluez.Error.NotPermitted: Maximum reached",
        ),
        (
            "system",
            lambda b: b.refused.update(RegisterApplication=("org.freedesktop.DBus.Error.AccessDenied", "policy")),
            "add it to the group bluetooth",
        ),
    ],
)
async def test_a_radio_that_cannot_be_used_says_what_to_do(
    bluez: FakeBlueZ, companions: Companions, radio: str, prepare: Callable[[FakeBlueZ], None], message: str
) -> None:
    prepare(bluez)
    with pytest.raises(RadioUnavailableError, match=message):
        async with GattServer(radio, NAME, companions):
            pass
    assert bluez.adverts == {}


async def test_without_bluetoothd_it_says_so(bluez: FakeBlueZ, companions: Companions) -> None:
    await bluez.kill()
    with pytest.raises(RadioUnavailableError, match="systemctl start bluetooth"):
        async with GattServer("system", NAME, companions):
            pass


async def test_without_a_bus_it_says_so(
    companions: Companions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/nobody")
    with pytest.raises(RadioUnavailableError, match="D-Bus"):
        async with GattServer("system", NAME, companions):
            pass
    gc.collect()


async def test_a_bus_that_hangs_up_at_once_does_not_hang_us_up(
    companions: Companions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/bus")
    async with await asyncio.start_unix_server(hang_up, tmp_path / "bus"):
        with pytest.raises(RadioUnavailableError):
            async with GattServer("system", NAME, companions):
                pass


@pytest.mark.parametrize("by", ["name", "address"])
async def test_an_adapter_can_be_named(bluez: FakeBlueZ, companions: Companions, by: str) -> None:
    bluez.plug("hci10", fresh_address())
    bluez.plug("hci1", address := fresh_address())
    async with GattServer("system:hci1" if by == "name" else f"system:{address.lower()}", NAME, companions):
        assert list(bluez.apps) == ["/org/bluez/hci1"]


async def test_an_adapter_that_is_switched_on_is_preferred(bluez: FakeBlueZ, companions: Companions) -> None:
    bluez.power(on=False)
    bluez.plug("hci1", fresh_address())
    async with GattServer("system", NAME, companions):
        assert list(bluez.apps) == ["/org/bluez/hci1"]


async def test_a_second_peripheral_on_an_adapter_is_refused_until_the_first_ends(
    bluez: FakeBlueZ, companions: Companions
) -> None:
    second = GattServer("system", NAME, Companions())
    async with GattServer("system", NAME, companions):
        with pytest.raises(RadioUnavailableError, match="another bletoken-peripheral is on the air with the adapter"):
            await second.__aenter__()
        assert len(bluez.adverts) == 1
    async with second:
        pass


async def test_a_bluetoothd_that_hangs_is_given_up(
    bluez: FakeBlueZ, companions: Companions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bluez_bus, "CALL_TIMEOUT_S", 0.05)
    bluez.hangs = {"RegisterApplication", "UnregisterApplication"}
    with pytest.raises(RadioUnavailableError, match="was not answered"):
        async with GattServer("system", NAME, companions):
            pass


async def test_no_connection_is_left_behind(bluez: FakeBlueZ, companions: Companions) -> None:
    async with GattServer("system", NAME, companions):
        pass
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        async with GattServer("system", NAME, companions):
            pass
    await bluez.kill()
    await bluez.start()
    for _ in range(5):
        with pytest.raises(RadioUnavailableError):
            async with GattServer("system", NAME, companions):
                pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_a_start_that_is_cancelled_leaves_nothing_behind(bluez: FakeBlueZ, companions: Companions) -> None:
    bluez.hangs = {"RegisterAdvertisement"}

    async def run() -> None:
        async with GattServer("system", NAME, companions):
            pass

    task = asyncio.create_task(run())
    await bluez.until(lambda: "RegisterAdvertisement" in bluez.calls)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bluez.apps == {}


def fresh_address() -> str:
    return ":".join(f"{octet:02X}" for octet in secrets.token_bytes(6))


def address_of(server: GattServer) -> str:
    return str(server._server._adapters._address)
