"""Asks a running hub what went over the air, and tells it to misbehave."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from bletoken.errors import RadioUnavailableError, UsageError
from bletoken.sim.air.att_log import AttLog, AttOpcode, Direction
from bletoken.sim.air.spec import Endpoint


@dataclass(frozen=True)
class ConnectionStats:
    """One connection, as the hub saw it.

    Attributes:
        number: Counts the connections of the hub, from 1.
        central: The initiator's address.
        peripheral: The advertiser's address.
        l2cap_pdus: How many L2CAP PDUs it carried.
        end_reason: The HCI reason it ended with (0x08: supervision time-out), or None while it is up.
        log: Its ATT traffic.
    """

    number: int
    central: str
    peripheral: str
    l2cap_pdus: int
    end_reason: int | None
    log: AttLog


@dataclass(frozen=True)
class HubStats:
    """What a hub knows.

    Attributes:
        hosts: How many hosts have joined.
        model: The link model's values by name.
        connections: The latest connections, oldest first, ended ones too.
    """

    hosts: int
    model: dict[str, Any]
    connections: tuple[ConnectionStats, ...]


class AirControl:
    """The control side of a running hub.

    Args:
        address: The hub's radio spec (`air:unix:/path`) or endpoint (`unix:/path`).

    Raises:
        UsageError: The address cannot be read.
    """

    def __init__(self, address: str) -> None:
        self._endpoint = Endpoint.parse(address.removeprefix("air:").partition("?")[0])

    async def stats(self) -> HubStats:
        """Return what went over the air."""
        answer = await self._command("stats")
        connections = tuple(
            ConnectionStats(
                **{key: value for key, value in connection.items() if key != "att"},
                log=AttLog.from_json(connection["att"]),
            )
            for connection in answer["connections"]
        )
        return HubStats(answer["hosts"], answer["model"], connections)

    async def set_link(self, **changes: float | None) -> None:
        """Change some values of the hub's `LinkModel`, by their names there."""
        await self._command("set_link", **changes)

    async def drop_all(self) -> None:
        """End every connection now, with a supervision time-out at both ends."""
        await self._command("drop_all")

    async def corrupt(self, direction: Direction, opcode: AttOpcode, bit: int, *, nth: int = 1) -> None:
        """Flip one bit in the n-th ATT PDU of an opcode from now on; bits count from the opcode octet's lowest."""
        await self._command("corrupt", direction=direction, opcode=opcode, bit=bit, nth=nth)

    async def _command(self, command: str, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
        try:
            transport, client = await self._endpoint.connect(_Client)
        except OSError as error:
            raise RadioUnavailableError(f"no virtual radio at {self._endpoint}: {error}") from error
        try:
            transport.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
            answer: dict[str, Any] = json.loads(await client.line)
        finally:
            transport.abort()
            await client.closed
        if problem := answer.get("error"):
            raise UsageError(f"the virtual radio does not {command}: {problem}")
        return answer


class _Client(asyncio.Protocol):
    """Receives one line."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.line: asyncio.Future[bytes] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self._received = bytearray()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if data.endswith(b"\n") and not self.line.done():
            self.line.set_result(bytes(self._received))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.line.done():
            self.line.set_exception(RadioUnavailableError(f"the virtual radio went away: {exc or 'closed'}"))
        self.closed.set_result(None)
