"""What a user's app asks of MODE. It repeats only what had no effect: never reached MODE, or told to come later."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from bletoken.errors import NotSignedInError
from bletoken.mode.http import LARGEST_LIST, LARGEST_OBJECT, TIMEOUT_S, Answer, HTTPClient, Method
from bletoken.mode.models import (
    Device,
    DeviceEvent,
    Home,
    Identity,
    ProvisioningToken,
    UserSession,
    list_from_json,
)
from bletoken.mode.retry import RetryPolicy, retrying


class UserApi:
    """MODE's API for a user's app; an async context manager.

    Each method raises `CloudError` as `HTTPClient.request` does, once the retry policy ends. A call that may have taken
    effect is never repeated.

    Args:
        base_url: MODE's base URL, https or http.
        session_key: The user's session key; None until `sign_in`. A secret.
        ca_file: A file of CA certificates to trust instead of the system's.
        timeout_s: Seconds that each request may take in all.
        retry: How long and how often to repeat.

    Raises:
        UsageError: The URL, or when entered the file, is not usable.
    """

    def __init__(
        self,
        base_url: str,
        session_key: str | None = None,
        *,
        ca_file: Path | None = None,
        timeout_s: float = TIMEOUT_S,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._http: Final = HTTPClient(base_url, ca_file=ca_file, timeout_s=timeout_s)
        self._session_key = session_key
        self._retry: Final = retry or RetryPolicy()

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def sign_in(self, project_id: int, app_id: str, email: str, password: str) -> UserSession:
        """Sign a user in (`POST /auth/user`); later calls use the new session.

        Args:
            project_id: The MODE project.
            app_id: The app's id in that project.
            email: The user's email address.
            password: The user's password. A secret.

        Raises:
            CloudRefusedError: MODE does not accept them.
        """
        form: dict[str, str | int] = {"projectId": project_id, "appId": app_id, "email": email, "password": password}
        answer = await retrying(self._retry, lambda: self._http.request("POST", "auth/user", form=form))
        session = UserSession.from_json(answer.json())
        self._session_key = session.key
        return session

    async def identity(self) -> Identity:
        """Whom MODE takes the user for (`GET /auth`); its type is "nobody" for a bad or ended session."""
        return Identity.from_json((await self._call("GET", "auth")).json())

    async def homes(self, user_id: int) -> list[Home]:
        """The user's homes (`GET /homes`).

        Args:
            user_id: The user.
        """
        answer = await self._call("GET", "homes", query={"userId": user_id}, largest=LARGEST_LIST)
        return list_from_json(answer.json(), Home.from_json)

    async def start_provisioning(self, home_id: int, device_class: str, tag: str | None = None) -> ProvisioningToken:
        """Get a token for one new device (`POST /homes/{id}/deviceProvisioning`).

        MODE makes no device yet, so a token that is not used needs no cleaning up.

        Args:
            home_id: The home that the device is to be in.
            device_class: Its device class.
            tag: A tag for it.
        """
        content = {"deviceClass": device_class}
        if tag is not None:
            content["deviceTag"] = tag
        answer = await self._call("POST", f"homes/{home_id}/deviceProvisioning", content=content)
        return ProvisioningToken.from_json(answer.json())

    async def claim_device(self, home_id: int, claim_code: str) -> Device:
        """Add a device whose claim window is open to a home (`POST /devices`).

        `CloudNoAnswerError` leaves open whether the device is in the home now: look there before claiming again.

        Args:
            home_id: The home that the device is to be in.
            claim_code: The device's claim code. A secret.

        Raises:
            CloudRefusedError: MODE knows no such code, the window is closed, or the device is in a home already.
        """
        answer = await self._call("POST", "devices", content={"homeId": home_id, "claimCode": claim_code})
        return Device.from_json(answer.json())

    async def devices(self, home_id: int) -> list[Device]:
        """The devices in a home (`GET /devices`).

        Args:
            home_id: The home.
        """
        answer = await self._call("GET", "devices", query={"homeId": home_id}, largest=LARGEST_LIST)
        return list_from_json(answer.json(), Device.from_json)

    async def device(self, device_id: int) -> Device:
        """One device (`GET /devices/{id}`).

        Args:
            device_id: The device.
        """
        return Device.from_json((await self._call("GET", f"devices/{device_id}")).json())

    async def update_device(self, device_id: int, *, name: str | None = None, tag: str | None = None) -> None:
        """Change what a device is called (`PATCH /devices/{id}`).

        Args:
            device_id: The device.
            name: Its new name; None keeps the old one.
            tag: Its new tag; None keeps the old one.
        """
        content = {field: value for field, value in (("name", name), ("tag", tag)) if value is not None}
        await self._call("PATCH", f"devices/{device_id}", content=content)

    async def delete_device(self, device_id: int) -> None:
        """Remove a device from MODE (`DELETE /devices/{id}`).

        Args:
            device_id: The device.
        """
        await self._call("DELETE", f"devices/{device_id}")

    def events(self) -> AbstractAsyncContextManager[AsyncIterator[DeviceEvent]]:
        """The events of the devices in the user's homes, from now on (`/userSession/websocket`).

        As `web_socket.listen`. MODE does not keep events: what happens before this is entered is not told.

        Raises:
            NotSignedInError: There is no session.
        """
        # Only this needs the web socket library.
        from bletoken.mode.web_socket import listen

        return listen(self._http, "userSession/websocket", self._key(), DeviceEvent.from_json)

    def _key(self) -> str:
        if self._session_key is None:
            raise NotSignedInError("nobody is signed in to MODE", status=401)
        return self._session_key

    async def _call(
        self,
        method: Method,
        path: str,
        *,
        query: Mapping[str, int] | None = None,
        content: Mapping[str, Any] | None = None,
        largest: int = LARGEST_OBJECT,
    ) -> Answer:
        key = self._key()
        return await retrying(
            self._retry,
            lambda: self._http.request(method, path, key=key, query=query, content=content, largest=largest),
        )
