"""The devices' own events, heard in the background. They are a convenience: their failure fails nothing."""

import asyncio
import contextlib
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from bletoken.errors import CloudError

if TYPE_CHECKING:
    from bletoken.mode.models import DeviceEvent
    from bletoken.mode.user_api import UserApi

_SUBSCRIBE_TIMEOUT_S: Final = 5
_EVENT_TIMEOUT_S: Final = 15
_MOST_WAITING: Final = 256


class Events:
    """Listens to the events of the user's devices while inside; an async context manager.

    Args:
        api: MODE, for a user who is signed in.
    """

    def __init__(self, api: "UserApi") -> None:
        self._api = api
        self._heard: asyncio.Queue[DeviceEvent | None] = asyncio.Queue()
        self._subscribed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)

    async def ready(self) -> None:
        """Wait until MODE sends events, or does not in time. What happens earlier is not told."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SUBSCRIBE_TIMEOUT_S):
                await self._subscribed.wait()

    async def event_of(self, device_id: int) -> str | None:
        """The type of the device's own event; None when none came in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EVENT_TIMEOUT_S):
                while (event := await self._heard.get()) is not None:
                    if event.origin_device_id == device_id:
                        return event.event_type
                # Whoever asks next is told as well.
                self._heard.put_nowait(None)
                # The end of the stream is no error, but a defect in following it is.
                await self._listening
        return None

    async def _listen(self) -> None:
        try:
            with contextlib.suppress(CloudError):
                async with self._api.events() as stream:
                    self._subscribed.set()
                    async for event in stream:
                        if event.event_type.startswith("_"):
                            # MODE's own: that a device is connected, say.
                            continue
                        if self._heard.qsize() >= _MOST_WAITING:
                            self._heard.get_nowait()
                        self._heard.put_nowait(event)
        finally:
            self._subscribed.set()
            self._heard.put_nowait(None)
