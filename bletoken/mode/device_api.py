"""What a device asks of MODE, each request exactly once. It never repeats one: the device's journal decides that."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from bletoken.errors import CloudNoAnswerError, CloudRefusedError, NotSignedInError
from bletoken.mode.http import PING_S, TIMEOUT_S, HTTPClient
from bletoken.mode.models import Command, Device, DeviceCredentials, Identity, claim_expiration


class DeviceApi:
    """MODE's API for devices; an async context manager.

    Args:
        base_url: MODE's base URL, https or http.
        ca_file: A file of CA certificates to trust instead of the system's.
        timeout_s: Seconds that each request may take in all.

    Raises:
        UsageError: The URL, or when entered the file, is not usable.
    """

    def __init__(self, base_url: str, *, ca_file: Path | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._http: Final = HTTPClient(base_url, ca_file=ca_file, timeout_s=timeout_s)

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def redeem(self, token: str) -> DeviceCredentials:
        """Turn a provisioning token into a device id and an API key: `POST /devices`, in MODE's provisioning document.

        One request, on a connection of its own, without an Authorization header. MODE shows no way to ask again for
        the answer, so what the errors say about the request having had an effect is a promise.

        Args:
            token: The provisioning token.

        Returns:
            The credentials, from any 2xx answer with an id and a key that can be read.

        Raises:
            CloudUnreachableError: The request provably never left.
            CloudRetryLaterError: MODE answered 429 or 503; the request had no effect.
            CloudRefusedError: MODE answered another 4xx, except 408. Never the subclass `NotSignedInError`.
            CloudNoAnswerError: Everything else: the token may have been used.
        """
        try:
            answer = await self._http.request("POST", "devices", content={"token": token})
        except NotSignedInError as e:
            # Nobody was to be signed in: here a 401 is about the token.
            raise CloudRefusedError(str(e), status=e.status, reason=e.reason) from e
        return DeviceCredentials.from_json(answer.json())

    async def identity(self, api_key: str) -> Identity:
        """Whom MODE takes the holder of this key for: `GET /auth`, in MODE's API reference.

        Args:
            api_key: The device's key.

        Returns:
            The identity; its type is "nobody" for a bad key.

        Raises:
            CloudError: As `HTTPClient.request`.
        """
        return Identity.from_json((await self._http.request("GET", "auth", key=api_key)).json())

    async def accepts(self, device_id: int, api_key: str) -> bool:
        """Whether MODE takes the holder of this key for this device.

        Args:
            device_id: The device.
            api_key: The device's key.

        Raises:
            CloudError: As `HTTPClient.request`, but never `NotSignedInError`.
        """
        try:
            identity = await self.identity(api_key)
        except NotSignedInError:
            return False
        return identity.type == "device" and identity.device_id == device_id

    async def device(self, device_id: int, api_key: str) -> Device:
        """The device as MODE knows it: `GET /devices/{id}`, in MODE's API reference.

        Args:
            device_id: The device.
            api_key: The device's key.

        Raises:
            CloudError: As `HTTPClient.request`; `CloudNoAnswerError` also when it is about another device, or its home
                cannot be read: what a device does about that must not rest on a guess.
        """
        content = (await self._http.request("GET", f"devices/{device_id}", key=api_key)).json()
        device = Device.from_json(content)
        home = content.get("homeId") if isinstance(content, dict) else None
        if device.id != device_id or (device.home_id is None and home not in (None, 0)):
            raise CloudNoAnswerError("MODE's answer about the device cannot be read")
        return device

    async def open_claim_window(self, device_id: int, api_key: str, duration_s: int) -> datetime:
        """Let the holder of the claim code add this device to a home: `POST /deviceRegistration`, as MODE shows it.

        To ask again does no harm: it asks for the same.

        Args:
            device_id: The device.
            api_key: The device's key.
            duration_s: Seconds for which it can be claimed.

        Returns:
            When the window ends by MODE's clock, in UTC.

        Raises:
            CloudError: As `HTTPClient.request`; `CloudNoAnswerError` also when the time cannot be read.
        """
        form: dict[str, str | int] = {"deviceId": device_id, "claimable": 1, "duration": duration_s}
        answer = await self._http.request("POST", "deviceRegistration", key=api_key, form=form)
        return claim_expiration(answer.json())

    async def close_claim_window(self, device_id: int, api_key: str) -> None:
        """Let nobody claim this device any more: `POST /deviceRegistration`, as MODE's own clients do it.

        Args:
            device_id: The device.
            api_key: The device's key.

        Raises:
            CloudError: As `HTTPClient.request`.
        """
        content = {"deviceId": device_id, "claimable": False}
        await self._http.request("POST", "deviceRegistration", key=api_key, content=content)

    async def trigger_event(
        self, device_id: int, api_key: str, event_type: str, event_data: Mapping[str, Any] | None = None
    ) -> None:
        """Tell the home that something happened: `PUT /devices/{id}/event`, in MODE's API reference.

        Args:
            device_id: The device.
            api_key: The device's key.
            event_type: What happened.
            event_data: More about it; anything that JSON can say.

        Raises:
            CloudError: As `HTTPClient.request`.
        """
        content: dict[str, Any] = {"eventType": event_type}
        if event_data is not None:
            content["eventData"] = event_data
        await self._http.request("PUT", f"devices/{device_id}/event", key=api_key, content=content)

    def commands(
        self, device_id: int, api_key: str, *, ping_s: float = PING_S
    ) -> AbstractAsyncContextManager[AsyncIterator[Command]]:
        """What the home tells this device to do, on one connection: `/devices/{id}/command`; as `web_socket.listen`.

        MODE keeps no commands for a device that is not connected. `DeviceConnection` reconnects.

        Args:
            device_id: The device.
            api_key: The device's key.
            ping_s: Seconds after which MODE is asked for a sign of life, and again that it has to give one.
        """
        # Only this needs the web socket library.
        from bletoken.mode.web_socket import listen

        return listen(self._http, f"devices/{device_id}/command", api_key, Command.from_json, ping_s=ping_s)
