"""Where processes meet: one socket, a virtual controller for each host that joins, one link between them."""

import asyncio
import dataclasses
import itertools
import json
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing, nullcontext, suppress
from pathlib import Path
from typing import Any, Final, Self

from bumble.snoop import BtSnooper, Snooper
from bumble.transport.common import StreamPacketSink, StreamPacketSource, TransportSink, TransportSource

from bletoken.errors import BletokenError, UsageError
from bletoken.sim.air.att_log import Direction
from bletoken.sim.air.controller import AirController
from bletoken.sim.air.link import AirLink, Corruption, LinkModel
from bletoken.sim.air.spec import Endpoint, RadioSpec
from bletoken.sim.air.vhci import VirtualAdapter

_LOGGER: Final = logging.getLogger(__name__)
_MAX_COMMAND_LENGTH: Final = 65536


class Hub:
    """A virtual radio that any number of processes may join.

    A connection whose first octet is `{` is not a host (HCI packets begin with a small number) but speaks the control
    protocol: one JSON object a line each way, `{"command": "stats"}` and so on; see `control`.

    Attributes:
        link: The air between the hosts.
        endpoint: Where the hub listens.
        ports: The connections to it.
        adapters: The controllers of this machine's adapters that are on the air, by the adapters' names (`hci0`).
    """

    def __init__(self, endpoint: Endpoint, link: AirLink, snooper: Snooper | None = None) -> None:
        self.endpoint = endpoint
        self.link = link
        self._snooper = snooper
        self._numbers = itertools.count(1)
        self.ports: set[_Port] = set()
        self.adapters: dict[str, AirController] = {}
        self._plugs: dict[str, VirtualAdapter] = {}

    @classmethod
    @asynccontextmanager
    async def open(
        cls, listen: str, *, model: LinkModel | None = None, btsnoop: Path | None = None
    ) -> AsyncIterator[Self]:
        """Run a hub for the length of the block.

        Args:
            listen: `unix:/path/to/air.sock` or `tcp:127.0.0.1:port`; port 0 lets the system choose.
            model: How the air behaves at first.
            btsnoop: Record the HCI packets of all hosts in this file (Wireshark reads it).

        Raises:
            UsageError: Nothing can listen there, or the file cannot be written.
        """
        endpoint = Endpoint.parse(listen)
        if endpoint.family == "unix" and _is_answered(endpoint.path):
            raise UsageError(f"another hub already listens at {endpoint}")
        try:
            # Unbuffered: what is recorded survives whatever ends the process.
            record = btsnoop.open("wb", buffering=0) if btsnoop else None
        except OSError as error:
            raise UsageError(f"cannot write the packet log {btsnoop}: {error.strerror}") from error
        with closing(record) if record else nullcontext():
            hub = cls(endpoint, AirLink(model), BtSnooper(record) if record else None)
            try:
                server = await endpoint.listen(lambda: _Port(hub))
            except OSError as error:
                raise UsageError(f"cannot listen at {endpoint}: {error.strerror or error}") from error
            if endpoint.family == "tcp":
                hub.endpoint = dataclasses.replace(endpoint, port=server.sockets[0].getsockname()[1])
            try:
                yield hub
            finally:
                for adapter in tuple(hub.adapters):
                    hub.pull_out(adapter)
                server.close()
                await hub._close_ports()
                hub.link.close()
                await server.wait_closed()
                endpoint.remove_socket_file()

    @property
    def radio(self) -> str:
        """The radio spec by which programs join."""
        return str(RadioSpec(self.endpoint))

    def join(self, source: TransportSource, sink: TransportSink) -> AirController:
        """Put a new controller on the air for a host reached by any Bumble transport."""
        number = next(self._numbers)
        address = f"00:B1:E7:00:{number >> 8 & 0xFF:02X}:{number & 0xFF:02X}"
        # The name's digits make the order of names the order of joining.
        return AirController(f"host-{number:06}", self.link, address, source, sink, self._snooper)

    async def plug_in(self) -> str:
        """Give this machine a new adapter that is on the air, for BlueZ.

        Returns:
            What the kernel calls it, such as `hci0`.

        Raises:
            RadioUnavailableError: This machine takes no virtual controllers, or none from this user.
        """
        adapter = VirtualAdapter()
        controller = self.join(adapter, adapter)
        try:
            await adapter.plug_in()
        except BaseException:
            controller.power_off()
            adapter.pull_out()
            raise
        self.adapters[adapter.name] = controller
        self._plugs[adapter.name] = adapter
        return adapter.name

    def pull_out(self, adapter: str) -> None:
        """Take an adapter away again, as if it had been unplugged."""
        self.adapters.pop(adapter).power_off()
        self._plugs.pop(adapter).pull_out()

    # Control ------------------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Return the model, the number of hosts and every connection's ATT traffic, as JSON types."""
        return {
            "model": dataclasses.asdict(self.link.model),
            "hosts": len(self.link.controllers),
            "connections": [
                {
                    "number": connection.number,
                    "central": connection.central.self_address.to_string(False),
                    "peripheral": connection.peripheral.self_address.to_string(False),
                    "l2cap_pdus": connection.pdus,
                    "end_reason": connection.end_reason,
                    "att": connection.log.to_json(),
                }
                for connection in self.link.connections
            ],
        }

    def set_link(self, **changes: Any) -> None:  # noqa: ANN401 - LinkModel's fields, which it checks
        """Change some values of the link model, for connections that are up too.

        Raises:
            UsageError: There is no such value, or it is out of its range.
        """
        try:
            self.link.model = dataclasses.replace(self.link.model, **changes)
        except TypeError as error:
            raise UsageError(f"the link model does not take {changes}") from error

    def drop_all(self) -> None:
        """End every connection now, with a supervision time-out at both ends."""
        self.link.drop_all()

    def corrupt(self, direction: Direction, opcode: int, bit: int, *, nth: int = 1) -> None:
        """Flip one bit in the n-th ATT PDU of an opcode from now on; see `Corruption`."""
        self.link.corrupt(Corruption(direction, opcode, nth, bit))

    def control(self, line: bytes) -> dict[str, Any]:
        """Carry out one line of the control protocol.

        Commands: `stats`; `set_link` with fields of `LinkModel`; `drop_all`; `corrupt` with `direction`, `opcode`,
        `bit` and `nth`. The answer is an object, with `error` where the command was not carried out.
        """
        try:
            arguments = json.loads(line)
            if not isinstance(arguments, Mapping):
                raise UsageError("a command is an object")
            arguments = dict(arguments)
            match arguments.pop("command", None):
                case "stats":
                    return self.stats()
                case "set_link":
                    self.set_link(**arguments)
                case "drop_all":
                    self.drop_all()
                case "corrupt":
                    self.corrupt(Direction(arguments.pop("direction")), **arguments)
                case unknown:
                    raise UsageError(f"there is no command {unknown!r}")
        except (BletokenError, ValueError, TypeError, KeyError) as error:
            return {"error": f"{type(error).__name__}: {error}"}
        return {}

    async def _close_ports(self) -> None:
        ports = tuple(self.ports)
        for port in ports:
            port.close()
        await asyncio.gather(*(port.closed for port in ports))


class _Port(StreamPacketSource):
    """One connection to the hub: a host, or a control client; its first octet decides."""

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self._hub = hub
        self._controller: AirController | None = None
        self._commands: bytearray | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._hub.ports.add(self)

    def data_received(self, data: bytes) -> None:
        if self._controller is None and self._commands is None:
            if data.startswith(b"{"):
                self._commands = bytearray()
            else:
                self._controller = self._hub.join(self, StreamPacketSink(self._transport))
        if self._commands is None:
            super().data_received(data)
            return
        self._commands += data
        while b"\n" in self._commands:
            line, _, rest = bytes(self._commands).partition(b"\n")
            self._commands = bytearray(rest)
            self._transport.write(json.dumps(self._hub.control(line)).encode() + b"\n")
        if len(self._commands) > _MAX_COMMAND_LENGTH:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        _LOGGER.debug("a connection to the hub ended: %s", exc)
        if self._controller:
            self._controller.power_off()
        self._hub.ports.discard(self)
        self.closed.set_result(None)

    def close(self) -> None:
        self._transport.abort()


def _is_answered(path: str) -> bool:
    """Tell whether somebody listens on this socket file; asyncio would silently take a living hub's place."""
    with closing(socket.socket(socket.AF_UNIX)) as probe, suppress(OSError):
        probe.connect(path)
        return True
    return False
