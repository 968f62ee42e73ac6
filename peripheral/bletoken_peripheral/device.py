"""The device as a library: its onboarding, in the background of a program with work of its own. It prints nothing.

async with Device(config) as device:
    credentials = await device.credentials()
"""

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Self

from bletoken.mode.credentials import Credentials
from bletoken_peripheral.config import Config
from bletoken_peripheral.onboarding import Onboarding
from bletoken_peripheral.progress import Progress
from bletoken_peripheral.store import StateFolder


class Device:
    """Waits for a companion and gets the device provisioned, while inside; an async context manager.

    Stay inside for as long as the program runs: a companion asks for the outcome after the credentials are there. On
    leaving, a request to MODE that is under way is finished first.

    Args:
        config: The configuration. Its state folder needs a setup code, which `bletoken-peripheral init` makes.
        report: Is told of progress, from the event loop. What it raises ends the onboarding.

    Raises:
        UsageError: On entering: the device has no setup code yet.
        StorageError: On entering: the state cannot be read, or another program holds it.
        BletokenError: On leaving: the onboarding ended early, and nobody waited in `credentials` to be told.
    """

    def __init__(self, config: Config, *, report: Callable[[Progress], None] = lambda _: None) -> None:
        self._config = config
        self._folder = StateFolder(config.state)
        self._report = report
        self._told = False

    async def __aenter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._folder.lock())
            onboarding = Onboarding(self._config, self._folder, report=self._on_progress)
            self._credentials: asyncio.Future[Credentials] = asyncio.get_running_loop().create_future()
            self._look()
            self._running = asyncio.create_task(onboarding.run())
            self._running.add_done_callback(self._on_end)
            self._held = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.cancel()
        cancelled: asyncio.CancelledError | None = None
        with self._held:
            # However often it is cancelled: a folder that is let go too early is another program's.
            while not self._running.done():
                try:
                    await asyncio.wait({self._running})
                except asyncio.CancelledError as again:
                    cancelled = again
        ended_by = None if self._running.cancelled() else self._running.exception()
        if cancelled is not None:
            raise cancelled from ended_by
        if ended_by is not None and error is None and not self._told:
            raise ended_by

    async def credentials(self) -> Credentials:
        """The device's id and key, as soon as they are on disk; at once when they were there before.

        Raises:
            RadioUnavailableError: The radio cannot be used.
            StorageError: The state cannot be read or written.
        """
        try:
            # Shielded: one who gives up waiting leaves the others waiting.
            return await asyncio.shield(self._credentials)
        except Exception:
            self._told = True
            raise

    def _on_progress(self, progress: Progress) -> None:
        if progress.device_id is not None:
            self._look()
        self._report(progress)

    def _look(self) -> None:
        if not self._credentials.done() and (credentials := self._folder.read_credentials()) is not None:
            self._credentials.set_result(credentials)

    def _on_end(self, running: asyncio.Task[None]) -> None:
        if self._credentials.done():
            return
        if running.cancelled():
            self._credentials.cancel()
        elif (error := running.exception()) is not None:
            self._credentials.set_exception(error)
            # Retrieved: whoever does not wait in `credentials` is told on leaving.
            self._credentials.exception()
