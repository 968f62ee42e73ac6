"""A running local MODE with a seeded home, as the tests use it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
from websockets.asyncio.client import connect

from bletoken.sim.cloud.server import CloudServer


@dataclass
class World:
    server: CloudServer
    client: httpx.AsyncClient
    """Sends no key by itself."""
    seed: dict[str, Any]

    @property
    def user(self) -> dict[str, str]:
        return key_header(self.seed["userKey"])

    @property
    def project(self) -> dict[str, str]:
        """A key of the seeded project."""
        return key_header(self.server.store.make_project_key(self.seed["projectId"]).key)

    @property
    def home_path(self) -> str:
        return f"/homes/{self.seed['homeId']}"

    @property
    def provisioning_path(self) -> str:
        return f"/homes/{self.seed['homeId']}/deviceProvisioning"

    @property
    def socket_url(self) -> str:
        return f"{self.server.url.replace('http', 'ws')}/userSession/websocket"

    def command_url(self, device: dict[str, Any]) -> str:
        return f"{self.server.url.replace('http', 'ws')}/devices/{device['id']}/command"

    def events(self) -> connect:
        """The seeded user's web socket of events."""
        return connect(self.socket_url, additional_headers=self.user, proxy=None)

    def commands(self, device: dict[str, Any]) -> connect:
        """A command socket of the device."""
        return connect(self.command_url(device), additional_headers=key_header(device["apiKey"]), proxy=None)

    async def token(self, **parameters: str) -> str:
        body = {"deviceClass": self.seed["deviceClass"], **parameters}
        answer = await self.client.post(self.provisioning_path, json=body, headers=self.user)
        token = answer.raise_for_status().json()["token"]
        assert isinstance(token, str)
        return token

    async def device(self, **parameters: str) -> dict[str, Any]:
        answer = await self.client.post("/devices", json={"token": await self.token(**parameters)})
        device = answer.raise_for_status().json()
        assert isinstance(device, dict)
        return device

    async def seed_again(self, **wish: object) -> dict[str, Any]:
        """Seed once more, for instance with `onDemand=False`."""
        seed = (await self.client.post("/_sim/seed", json=wish)).raise_for_status().json()
        assert isinstance(seed, dict)
        return seed

    async def made_device(self, **parameters: str) -> dict[str, Any]:
        """A device that was made ahead of time."""
        device = (await self.client.post("/_sim/devices", json=parameters)).raise_for_status().json()
        assert isinstance(device, dict)
        return device

    async def register(self, device: dict[str, Any], **parameters: object) -> httpx.Response:
        """The device's answer to its claim mode being switched."""
        body = {"deviceId": device["id"], **parameters}
        return await self.client.post("/deviceRegistration", json=body, headers=key_header(device["apiKey"]))

    async def claim(self, device: dict[str, Any]) -> httpx.Response:
        """The user's answer to claiming the device for the seeded home."""
        body = {"homeId": self.seed["homeId"], "claimCode": device["claimCode"]}
        return await self.client.post("/devices", json=body, headers=self.user)

    async def housemate(self, email: str = "housemate@example.com") -> "World":
        """The same MODE as another user of the seeded project sees it, with a home of its own."""
        answer = await self.client.post("/_sim/seed", json={"email": email, "homeName": email})
        return World(self.server, self.client, answer.raise_for_status().json())

    async def stranger(self) -> "World":
        """The same MODE as a user sees it who shares no home with the first."""
        wish = {"email": "stranger@example.com", "homeName": "Elsewhere"}
        answer = await self.client.post("/_sim/seed", json=wish)
        return World(self.server, self.client, answer.raise_for_status().json())


class StartWorld(Protocol):
    async def __call__(self, **options: object) -> World: ...


def key_header(key: str) -> dict[str, str]:
    return {"Authorization": f"ModeCloud {key}"}


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.001)
