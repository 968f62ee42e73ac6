import asyncio
import gc
import secrets
from pathlib import Path
from typing import Any

import pytest

from bletoken.errors import RadioUnavailableError, StorageError, UsageError
from bletoken.mode.credentials import Credentials
from bletoken.protocol.setup_code import Label
from bletoken_peripheral import device as module
from bletoken_peripheral.config import Config
from bletoken_peripheral.device import Device
from bletoken_peripheral.progress import Progress
from bletoken_peripheral.store import StateFolder

CREDENTIALS = Credentials(1001, "key", "https://mode.example")


class FakeOnboarding:
    """Does what the test says, when it says so."""

    latest: "FakeOnboarding"

    def __init__(self, _: Config, folder: StateFolder, *, report: Any) -> None:
        FakeOnboarding.latest = self
        self.folder = folder
        self.report = report
        self.error: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.cleaned_up = False

    async def run(self) -> None:
        try:
            await self.error
        finally:
            await asyncio.sleep(0)
            self.cleaned_up = True

    def store(self) -> None:
        self.folder.write_credentials(CREDENTIALS)
        self.report(Progress("stored", device_id=CREDENTIALS.device_id))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    folder = StateFolder(tmp_path / "state")
    folder.create()
    folder.write_label(Label.generate(secrets.token_bytes, with_pin=False))
    return Config(device_class="lamp", state=folder.path)


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Onboarding", FakeOnboarding)


async def test_credentials_come_when_they_are_stored_and_to_all_who_wait(config: Config) -> None:
    heard: list[str] = []
    async with Device(config, report=lambda progress: heard.append(progress.step)) as device:
        with pytest.raises(TimeoutError):
            # Who gives up waiting leaves the others waiting.
            await asyncio.wait_for(device.credentials(), 0.01)
        waiting = [asyncio.create_task(device.credentials()) for _ in range(2)]
        FakeOnboarding.latest.report(Progress("advertising"))
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        FakeOnboarding.latest.store()
        assert await asyncio.gather(*waiting) == [CREDENTIALS, CREDENTIALS]
    assert heard == ["advertising", "stored"]
    assert FakeOnboarding.latest.cleaned_up


async def test_credentials_that_were_there_before_come_at_once(config: Config) -> None:
    StateFolder(config.state).write_credentials(CREDENTIALS)
    async with Device(config) as device:
        assert await device.credentials() == CREDENTIALS


async def test_who_waits_is_told_why_the_onboarding_ended_and_that_is_enough(config: Config) -> None:
    async with Device(config) as device:
        FakeOnboarding.latest.error.set_exception(RadioUnavailableError("gone"))
        with pytest.raises(RadioUnavailableError):
            await device.credentials()


@pytest.mark.parametrize("provisioned", [False, True])
async def test_when_nobody_waits_the_end_of_the_context_tells_it(config: Config, provisioned: bool) -> None:
    async def work() -> None:
        async with Device(config):
            if provisioned:
                FakeOnboarding.latest.store()
            FakeOnboarding.latest.error.set_exception(RadioUnavailableError("gone"))
            await asyncio.sleep(0.01)

    with pytest.raises(RadioUnavailableError):
        await work()


async def test_the_programs_own_error_comes_first(config: Config) -> None:
    async def work() -> None:
        async with Device(config):
            FakeOnboarding.latest.error.set_exception(RadioUnavailableError("gone"))
            await asyncio.sleep(0.01)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()


async def test_the_folder_is_held_inside_and_let_go_outside(config: Config) -> None:
    async with Device(config):
        with pytest.raises(StorageError):
            async with Device(config):
                pass
    async with Device(config):
        pass


async def cancelled_twice(config: Config, ending: asyncio.Event) -> "asyncio.Task[None]":
    """A program with a device in it that is told to end once more while its onboarding is ending."""

    async def work() -> None:
        async with Device(config):
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await asyncio.sleep(0.01)
    working.cancel()
    await ending.wait()
    working.cancel()
    await asyncio.sleep(0.01)
    return working


async def test_whoever_cancels_twice_still_waits_for_the_end_and_holds_the_folder_until_then(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answered = asyncio.Event(), asyncio.Event()

    async def finish_a_request(_: FakeOnboarding) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            asked.set()
            await answered.wait()

    monkeypatch.setattr(FakeOnboarding, "run", finish_a_request)
    working = await cancelled_twice(config, asked)
    with pytest.raises(StorageError), StateFolder(config.state).lock():
        pass
    answered.set()
    with pytest.raises(asyncio.CancelledError):
        await working
    with StateFolder(config.state).lock():
        pass


async def test_why_the_onboarding_ended_is_not_lost_on_whoever_cancels_twice(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answered = asyncio.Event(), asyncio.Event()
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))

    async def fail_to_write(onboarding: FakeOnboarding) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            onboarding.store()
            asked.set()
            await answered.wait()
            raise StorageError("the disk is full")

    monkeypatch.setattr(FakeOnboarding, "run", fail_to_write)
    working = await cancelled_twice(config, asked)
    answered.set()
    with pytest.raises(asyncio.CancelledError) as cancelled:
        await working
    assert isinstance(cancelled.value.__cause__, StorageError)
    del FakeOnboarding.latest, working, cancelled
    gc.collect()
    assert unheard == []


async def test_a_device_without_a_setup_code_is_told_to_make_one(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.undo()
    folder = StateFolder(tmp_path / "new")
    folder.create()
    with pytest.raises(UsageError, match="init"):
        async with Device(Config(device_class="lamp", state=folder.path)):
            pass
    with folder.lock():
        pass
