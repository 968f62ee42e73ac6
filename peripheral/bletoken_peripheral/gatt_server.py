"""The GATT service on bless, on hardware or on the virtual radio; only it and `bluez` touch a radio library.

It carries octets and says who wrote them; it knows neither codes nor tokens.
"""

import logging
import sys
from typing import Any, Final, Protocol, Self

from bletoken.errors import RadioUnavailableError, RemoteProtocolError, UsageError
from bletoken.protocol import frames
from bletoken.protocol.wire import HELLO_UUID, SERVICE_UUID, STATUS_UUID, TOKEN_UUID

_log = logging.getLogger(__name__)

_NOT_READABLE: Final = 0x80
"""The ATT application error for what must not happen; a hint, like every ATT code."""


class Companions(Protocol):
    """What the GATT server tells, always from the event loop."""

    def connected(self, peer: str) -> None:
        """A companion connected."""

    def disconnected(self, peer: str) -> None:
        """A companion left."""

    def hello(self, peer: str) -> bytes:
        """The value of HELLO for this companion."""

    def token_written(self, peer: str, frame: bytes) -> None:
        """A companion wrote a frame; `RemoteProtocolError` refuses it."""

    def radio_lost(self) -> None:
        """The radio is gone for good."""

    def radio_away(self, why: str) -> None:
        """The radio is gone, and all companions; it comes back by itself, or is lost."""

    def radio_back(self) -> None:
        """The radio is back, and the service on the air again."""


class GattServer:
    """The bletoken service, as an async context manager: on the air inside, off the air outside.

    Args:
        radio: As in the configuration.
        name: The local name in the scan response.
        companions: Who is told.
    """

    def __init__(self, radio: str, name: str, companions: Companions) -> None:
        self._radio = radio
        self._name = name
        self._companions = companions
        self._server: Any = None
        self._knows_peers = False
        self._mtus: dict[str, int] = {}
        self._last_message: dict[str, bytes] = {}

    async def __aenter__(self) -> Self:
        from bless.backends.attribute import GATTAttributePermissions as Permissions
        from bless.backends.characteristic import GATTCharacteristicProperties as Properties

        try:
            self._server = _bless_server(self._radio, self._name)
            if hasattr(self._server, "peers"):
                self._knows_peers = True
                self._server.peers = self
                self._server.on_radio_lost = self._companions.radio_lost
                # Only BlueZ's ever calls these two.
                self._server.on_radio_away = self._companions.radio_away
                self._server.on_radio_back = self._companions.radio_back
            else:
                from bletoken.protocol.device import SHARED_PEER

                self._server.read_request_func = lambda c, **_: bytearray(self.read(SHARED_PEER, c.uuid, 0))
                self._server.write_request_func = lambda c, value, **_: self.write(SHARED_PEER, c.uuid, bytes(value))
                self.connected(SHARED_PEER)
            await self._server.add_new_service(SERVICE_UUID)
            for uuid, properties, permissions in (
                (HELLO_UUID, Properties.read, Permissions.readable),
                # No write-without-response: BlueZ loses every error then.
                (TOKEN_UUID, Properties.write, Permissions.writeable),
                (STATUS_UUID, Properties.read | Properties.notify, Permissions.readable),
            ):
                await self._server.add_new_characteristic(SERVICE_UUID, uuid, properties, None, permissions)
            await self._server.start()
        except BaseException as e:
            # Half a start must not stay on the air.
            await self.__aexit__()
            if isinstance(e, UsageError | RadioUnavailableError) or not isinstance(e, Exception):
                raise
            # bless raises bare exceptions of several libraries.
            raise RadioUnavailableError(f"the radio {self._radio!r} cannot be used: {e}") from e
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            try:
                await self._server.stop()
            except Exception:  # noqa: BLE001 bless raises when the radio is gone; there is nothing left to stop then
                _log.debug("the radio did not stop cleanly", exc_info=True)
        for peer in list(self._mtus):
            self.disconnected(peer)

    def send(self, peer: str, message: bytes) -> None:
        """Notify a message as frames, and keep it for a read of STATUS."""
        self._last_message[peer] = message
        if peer not in self._mtus:
            return
        characteristic = self._server.get_characteristic(STATUS_UUID)
        for frame in frames.split(message, frames.frame_size(self._mtus[peer] or None)):
            characteristic.value = bytearray(frame)
            self._server.update_value(SERVICE_UUID, STATUS_UUID)

    async def disconnect(self, peer: str) -> None:
        """Drop a connection where the platform allows it."""
        if self._knows_peers:
            await self._server.disconnect_peer(peer)

    async def rename(self, name: str) -> None:
        """Change the advertised name where the platform allows it while advertising."""
        if self._knows_peers:
            await self._server.set_name(name)

    # What a server that knows its peers tells: this is what its attribute `peers` has to look like -------------------

    def connected(self, peer: str) -> None:
        """A companion connected."""
        self._mtus[peer] = 0
        self._companions.connected(peer)

    def disconnected(self, peer: str) -> None:
        """A companion left."""
        self._mtus.pop(peer, None)
        self._last_message.pop(peer, None)
        self._companions.disconnected(peer)

    def mtu_changed(self, peer: str, mtu: int) -> None:
        """The ATT MTU of a connection is known now."""
        if peer in self._mtus:
            self._mtus[peer] = mtu

    def read(self, peer: str, uuid: str, _offset: int) -> bytes:
        """A read: the whole value; the server below cuts it where a long read needs that."""
        if uuid == HELLO_UUID:
            return self._companions.hello(peer)
        if uuid == STATUS_UUID:
            return self._last_message.get(peer, b"")
        raise RemoteProtocolError("this characteristic is not read", att_error_hint=_NOT_READABLE)

    def write(self, peer: str, uuid: str, value: bytes) -> None:
        """A write to TOKEN; anything else is refused."""
        if uuid != TOKEN_UUID:
            raise RemoteProtocolError("this characteristic is not written", att_error_hint=_NOT_READABLE)
        self._companions.token_written(peer, value)


def _bless_server(radio: str, name: str) -> Any:  # noqa: ANN401 bless has no types
    if radio.startswith("air:"):
        try:
            from bletoken.sim.air.bless_server import AirServer
        except ImportError as e:
            raise UsageError("the virtual radio needs the simulator: pip install 'bletoken[sim]'") from e
        return AirServer(name, spec=radio)
    _, _, adapter = radio.partition(":")
    if sys.platform == "linux":
        from bletoken_peripheral.bluez import BlueZServer

        return BlueZServer(name, adapter or None)
    else:  # noqa: RET505 a type checker sees only one platform
        # bless as it is. It does not name its peers, tells neither their MTU nor when they come and go, and answers
        # every part of a long read with the value from its start.
        from bless import BlessServer

        return BlessServer(name, adapter=adapter) if adapter else BlessServer(name)
