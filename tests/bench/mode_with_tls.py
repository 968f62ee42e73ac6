"""The local MODE behind TLS, with a certificate of its own, so that a device does all that it does for the real one."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import certifi
import httpx
from unit.mode.conftest import CA

from bletoken.sim.cloud.server import serve
from bletoken.sim.cloud.settings import Settings


@dataclass(frozen=True)
class Mode:
    """MODE with a user and a home.

    Attributes:
        url: Where it is, for devices.
        trust: A file with the certificates that a system trusts, and MODE's.
        device_class: A class it knows.
    """

    url: str
    trust: Path
    device_class: str
    _client: httpx.AsyncClient
    _seed: dict[str, Any]

    async def token(self) -> str:
        """A provisioning token for the home."""
        answer = await self._client.post(
            f"/homes/{self._seed['homeId']}/deviceProvisioning",
            json={"deviceClass": self.device_class},
            headers={"Authorization": f"ModeCloud {self._seed['userKey']}"},
        )
        return str(answer.raise_for_status().json()["token"])


@contextlib.asynccontextmanager
async def running(folder: Path, **settings: Any) -> AsyncIterator[Mode]:
    """Run it while inside; `folder` takes its certificates."""
    authority, trust = CA(folder), folder / "trust.pem"
    # What a device loads is a system's whole list, not one certificate.
    trust.write_bytes(certifi.contents().encode() + authority.file.read_bytes())
    async with serve(Settings(**settings)) as cloud:
        plain = httpx.URL(cloud.url)
        assert plain.port is not None

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection(plain.host, plain.port)
            await asyncio.gather(_pump(reader, back), _pump(there, writer))

        front = await asyncio.start_server(carry, "127.0.0.1", 0, ssl=authority.server())
        async with front, httpx.AsyncClient(base_url=cloud.url, trust_env=False) as client:
            seed = (await client.post("/_sim/seed")).raise_for_status().json()
            port = front.sockets[0].getsockname()[1]
            yield Mode(f"https://127.0.0.1:{port}", trust, seed["deviceClass"], client, seed)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while octets := await reader.read(65536):
            writer.write(octets)
            await writer.drain()
    writer.close()
