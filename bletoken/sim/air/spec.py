"""Radio specs as people type them: `air:unix:/run/air.sock`, `air:tcp:127.0.0.1:4242`; parsed here, nowhere else."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, TypeVar

from bletoken.errors import UsageError

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_TCP = re.compile(r"\[?(?P<host>[^\[\]]+?)\]?:(?P<port>\d{1,5})")
_MTUS = range(23, 518)

_Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)


@dataclass(frozen=True)
class Endpoint:
    """Where a hub listens.

    Attributes:
        family: The kind of socket.
        path: The socket file of a unix endpoint.
        host: The loopback address of a TCP endpoint.
        port: The port of a TCP endpoint; 0 lets the system choose when listening.
    """

    family: Literal["unix", "tcp"]
    path: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `unix:/path` or `tcp:127.0.0.1:port`.

        Raises:
            UsageError: The text is neither, or the address is not this machine's own.
        """
        family, _, rest = text.partition(":")
        if family == "unix" and rest:
            return cls("unix", path=rest)
        if family == "tcp" and (match := _TCP.fullmatch(rest)) and int(match["port"]) < 1 << 16:
            if match["host"] not in _LOOPBACK:
                raise UsageError(f"the virtual radio stays on this machine: {match['host']} is not a loopback address")
            return cls("tcp", host=match["host"], port=int(match["port"]))
        raise UsageError(f"{text!r} is no endpoint: use unix:/path/to/air.sock or tcp:127.0.0.1:4242")

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.family == "unix" else f"tcp:{self.host}:{self.port}"

    async def connect(self, factory: Callable[[], _Protocol]) -> tuple[asyncio.Transport, _Protocol]:
        """Open a connection to the hub that listens here.

        Raises:
            OSError: Nobody listens.
        """
        loop = asyncio.get_running_loop()
        if self.family == "unix":
            return await loop.create_unix_connection(factory, self.path)
        return await loop.create_connection(factory, self.host, self.port)

    async def listen(self, factory: Callable[[], asyncio.BaseProtocol]) -> asyncio.Server:
        """Listen here.

        Raises:
            OSError: The address cannot be used.
        """
        loop = asyncio.get_running_loop()
        if self.family == "unix":
            return await loop.create_unix_server(factory, self.path)
        return await loop.create_server(factory, self.host, self.port)

    def remove_socket_file(self) -> None:
        """Remove what listening on a unix socket leaves behind."""
        if self.family == "unix":
            Path(self.path).unlink(missing_ok=True)


@dataclass(frozen=True)
class RadioSpec:
    """Which virtual radio a program uses, and how.

    Attributes:
        endpoint: The hub to join.
        att_mtu: The largest ATT MTU this end offers, or None for its own default.
    """

    endpoint: Endpoint
    att_mtu: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `air:ENDPOINT` or `air:ENDPOINT?mtu=N`.

        Raises:
            UsageError: The text is no such spec.
        """
        prefix, _, rest = text.partition(":")
        if prefix != "air":
            raise UsageError(f"{text!r} is no virtual radio: use air:unix:/path/to/air.sock or air:tcp:127.0.0.1:4242")
        where, _, query = rest.partition("?")
        if not query:
            return cls(Endpoint.parse(where))
        key, _, value = query.partition("=")
        if key != "mtu" or not value.isdecimal() or int(value) not in _MTUS:
            raise UsageError(f"{query!r} is no option of the virtual radio: use mtu=N with N from 23 to 517")
        return cls(Endpoint.parse(where), int(value))

    def __str__(self) -> str:
        return f"air:{self.endpoint}" + (f"?mtu={self.att_mtu}" if self.att_mtu else "")
