"""The local MODE on a port of this machine, inside the running event loop; it never leaves a task or socket behind."""

import asyncio
import contextlib
import ipaddress
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from bletoken.errors import UsageError
from bletoken.sim.cloud.app import create_app
from bletoken.sim.cloud.faults import FaultTable
from bletoken.sim.cloud.request_log import RequestLog
from bletoken.sim.cloud.settings import Settings
from bletoken.sim.cloud.store import Store

STOP_TIMEOUT_S: Final = 2.0
"""How long a stopping server lets its requests end by themselves."""

KEEP_ALIVE_S: Final = 75
"""How long an idle connection stays open: longer than HTTP clients keep one, so that theirs is the end that closes it.

A server that closes first may do so just as the next request leaves, whose client then sees a reset and no answer.
"""


@dataclass(frozen=True)
class CloudServer:
    """A running local MODE.

    Attributes:
        url: Its base URL, without a slash at the end.
        settings: How it behaves.
        store: What it remembers.
        faults: What goes wrong.
        log: What was asked.
    """

    url: str
    settings: Settings
    store: Store
    faults: FaultTable
    log: RequestLog


@contextlib.asynccontextmanager
async def serve(
    settings: Settings | None = None,
    *,
    db: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    clock: Callable[[], int] = time.time_ns,
) -> AsyncIterator[CloudServer]:
    """Run the local MODE while the context lasts.

    Args:
        settings: How it behaves; as documented if None.
        db: The database file; in memory if None.
        host: A loopback address.
        port: The port; 0 takes a free one.
        clock: Nanoseconds since the epoch, for everything that expires.

    Raises:
        UsageError: The host is no loopback address, or cannot be listened on.
        StorageError: The database cannot be used.
    """
    settings = settings or Settings()
    with (
        contextlib.closing(_listen(host, port)) as listener,
        Store(db, first_device_id=settings.first_device_id) as store,
    ):
        app, faults, log = create_app(settings, store, clock)
        config = uvicorn.Config(
            app,
            http=_Connection,
            ws="websockets-sansio",
            ws_max_size=settings.max_body_size,
            timeout_keep_alive=KEEP_ALIVE_S,
            lifespan="off",
            # Its own messages contain request lines with queries, and a query may contain a key.
            log_config=None,
            log_level="warning",
            access_log=False,
            # A client could claim to be on this machine.
            proxy_headers=False,
            server_header=False,
            # The answers have their own, because this server's main loop does not tick.
            date_header=False,
        )
        server = _Server(config, faults)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        serving.add_done_callback(lambda _: server.ready.set())
        try:
            await server.ready.wait()
            address, bound_port = listener.getsockname()[:2]
            netloc = f"[{address}]" if ":" in address else address
            yield CloudServer(f"http://{netloc}:{bound_port}", settings, store, faults, log)
        finally:
            server.stop.set()
            await serving


class _Connection(H11Protocol):
    """Hands each request the transport it came on, which is what it takes to cut a connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio does this only for sockets that name their protocol, which accepted ones may not; without it, each
        # answer with a body waits for a delayed acknowledgement. A client that is gone already may make it fail.
        with contextlib.suppress(OSError):
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The websocket protocol inherits this state from the connection that it is upgraded from.
        self.app_state = {**self.app_state, "transport": transport}


class _Server(uvicorn.Server):
    """A server that leaves signals to its owner, and starts and stops without polling."""

    def __init__(self, config: uvicorn.Config, faults: FaultTable) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self.stop = asyncio.Event()
        self._faults = faults

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        await self.stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        self._faults.close()
        # Idle connections and websockets close politely; whatever is in the middle of something is cut.
        for connection in list(self.server_state.connections):
            if not connection.transport.is_closing():
                connection.shutdown()
            if not connection.transport.is_closing():
                connection.transport.abort()
        tasks = set(self.server_state.tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_TIMEOUT_S)
        for task in self.server_state.tasks:
            task.cancel()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        # Closed transports are gone only after the loop has turned once more.
        await asyncio.sleep(0)


def _listen(host: str, port: int) -> socket.socket:
    address = "127.0.0.1" if host == "localhost" else host
    try:
        loopback = ipaddress.ip_address(address)
    except ValueError:
        loopback = None
    if loopback is None or not loopback.is_loopback:
        raise UsageError(f"the local MODE listens on this machine only, not on {host}")
    if not 0 <= port <= 65535:
        raise UsageError(f"there is no port {port}")
    family = socket.AF_INET if loopback.version == 4 else socket.AF_INET6
    try:
        return socket.create_server((address, port), family=family)
    except OSError as e:
        raise UsageError(f"cannot listen on {host} port {port}: {e}") from e
