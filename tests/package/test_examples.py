"""The examples of the documentation, as programs of their own, on the virtual radio and the local MODE."""

import ast
import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from handoff.bench import Bench, Processes, command_of, open_bench
from package.environments import ROOT
from unit.mode.loopback import free_port

from bletoken import records
from bletoken.errors import DeviceRemovedError
from bletoken.mode.credentials import Credentials, NotOnboardedError
from bletoken.mode.device_api import DeviceApi
from bletoken.mode.models import DeviceEvent
from bletoken.mode.user_api import UserApi
from bletoken.sim.cloud.faults import ErrorAnswer, Fault
from bletoken_peripheral import label as pictures

LAMP = ROOT / "peripheral/examples/lamp.py"
CONSUMER = ROOT / "peripheral/examples/consumer.py"
ONBOARD = ROOT / "central/examples/onboard.py"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(Processes(), tmp_path) as opened:
        yield opened


async def start(example: Path, *words: str, **variables: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, str(example), *words),
        env={**os.environ, "NO_PROXY": "127.0.0.1", **variables},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def next_line(process: asyncio.subprocess.Process, begin: str) -> str:
    assert process.stdout is not None
    said = ""
    async with asyncio.timeout(30):
        while line := (await process.stdout.readline()).decode():
            if line.startswith(begin):
                return line.strip()
            said += line
    raise AssertionError(f"no {begin!r} in {said!r}")


async def end(process: asyncio.subprocess.Process) -> None:
    process.terminate()
    try:
        async with asyncio.timeout(30):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def onboard(bench: Bench, device_class: str, png: Path, **variables: str) -> tuple[int | None, list[str]]:
    key = {"BLETOKEN_SESSION_KEY": bench.seed["userKey"], **variables}
    process = await start(ONBOARD, device_class, str(png), bench.hub.radio, bench.mode.url, **key)
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    return process.returncode, said.decode().splitlines()


async def test_the_two_examples_onboard_a_lamp_that_shines_all_the_while(bench: Bench, tmp_path: Path) -> None:
    device = bench.device()
    png = tmp_path / "label.png"
    pictures.write(png, pictures.png(device.label))
    lamp = await start(LAMP, str(device.config))
    try:
        await next_line(lamp, "shining")
        exit_code, said = await onboard(bench, bench.seed["deviceClass"], png)
        assert exit_code == 0, said
        [device_id] = await bench.devices_in_home()
        assert said[-1] == f"device {device_id} is in home {bench.seed['homeId']}"
        assert "  in the home" in said
        assert await next_line(lamp, "device") == f"device {device_id} at {bench.mode.url}"
        # On its next start it has them at once.
        await end(lamp)
        lamp = await start(LAMP, str(device.config))
        assert await next_line(lamp, "device") == f"device {device_id} at {bench.mode.url}"
    finally:
        await end(lamp)


async def test_the_companion_example_tells_errors_apart(bench: Bench, tmp_path: Path) -> None:
    device = bench.device()
    await device.start()
    png = tmp_path / "label.png"
    pictures.write(png, pictures.png(device.label))
    bench.mode.faults.arm("POST /devices", Fault(error=ErrorAnswer(status=403, reason="NO_MORE_DEVICES"), count=1))
    exit_code, said = await onboard(bench, bench.seed["deviceClass"], png)
    assert (exit_code, said[-1]) == (1, "MODE did not take it: NO_MORE_DEVICES")


async def test_a_lamp_without_a_radio_is_still_a_lamp(bench: Bench, tmp_path: Path) -> None:
    device = bench.device(radio=f"air:unix:{tmp_path}/nowhere")
    lamp = await start(LAMP, str(device.config))
    try:
        assert "cannot be used" in await next_line(lamp, "no owner")
        assert lamp.returncode is None
    finally:
        await end(lamp)


# The device's own program -------------------------------------------------------------------------------------------


class LocalMode:
    """A local MODE as a program, which keeps everything in a file and can be killed."""

    def __init__(self, folder: Path) -> None:
        self._db = folder / "mode.db"
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.seed: dict[str, Any] = {}
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        words = [*command_of("bletoken.sim"), "cloud", "--json", "--db", str(self._db), "--port", str(self._port)]
        said = ""
        async with asyncio.timeout(30):
            while "listening" not in said:  # While it is away another program may have its port.
                self._process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
                said = await next_line(self._process, "{")

    async def kill(self) -> None:
        if self._process is not None:
            await kill(self._process)
            self._process = None

    async def _post(self, path: str, **content: object) -> dict[str, Any]:
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as client:
            return dict((await client.post(path, json=content)).raise_for_status().json())

    async def on_demand(self) -> Credentials:
        """The credentials of a device that redeemed a token."""
        self.seed = await self._post("/_sim/seed", onDemand=True)
        async with UserApi(self.url, self.seed["userKey"]) as user, DeviceApi(self.url) as device:
            token = await user.start_provisioning(self.seed["homeId"], self.seed["deviceClass"])
            redeemed = await device.redeem(token.token)
        return Credentials(redeemed.device_id, redeemed.api_key, self.url)

    async def ahead_of_time(self) -> Credentials:
        """The credentials of a device that had them from the factory, and was claimed."""
        self.seed = await self._post("/_sim/seed", onDemand=False)
        made = await self._post("/_sim/devices")
        async with UserApi(self.url, self.seed["userKey"]) as user, DeviceApi(self.url) as device:
            assert await device.open_claim_window(made["id"], made["apiKey"], 300) > datetime.now(UTC)
            claimed = await user.claim_device(self.seed["homeId"], made["claimCode"])
            await device.close_claim_window(made["id"], made["apiKey"])
        assert (claimed.id, claimed.home_id) == (made["id"], self.seed["homeId"])
        return Credentials(made["id"], made["apiKey"], self.url)


@pytest.fixture
async def local_mode(tmp_path: Path) -> AsyncIterator[LocalMode]:
    mode = LocalMode(tmp_path)
    await mode.start()
    yield mode
    await mode.kill()


async def kill(process: asyncio.subprocess.Process) -> None:
    process.kill()
    assert await process.wait() == -signal.SIGKILL


async def heard(events: AsyncIterator[DeviceEvent], event_type: str) -> DeviceEvent:
    """The next event of this type; MODE's own, that a device is connected, come in between."""
    async with asyncio.timeout(30):
        async for event in events:
            if event.event_type == event_type:
                return event
    raise AssertionError


async def command_and_answer(
    url: str, key: str, device_id: int, consumer: asyncio.subprocess.Process, action: str
) -> None:
    """A command arrives at the device, and its event in the home."""
    async with UserApi(url, key) as user, user.events() as events:
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            answer = await client.put(
                f"/devices/{device_id}/command",
                json={"action": action, "parameters": {"level": 3}},
                headers={"Authorization": f"ModeCloud {key}"},
            )
        assert answer.status_code == 204
        assert await next_line(consumer, "command") == f"command {action} with 1 parameters"
        event = await heard(events, "commanded")
        assert (event.origin_device_id, event.event_data) == (device_id, {"action": action})


@pytest.mark.parametrize("onboard", [LocalMode.on_demand, LocalMode.ahead_of_time], ids=lambda each: each.__name__)
async def test_the_key_serves_events_and_commands_across_restarts_of_device_and_mode(
    local_mode: LocalMode, tmp_path: Path, onboard: Callable[[LocalMode], Awaitable[Credentials]]
) -> None:
    credentials = await onboard(local_mode)
    key, device_id = local_mode.seed["userKey"], credentials.device_id
    (tmp_path / "bletoken").write_bytes(records.encode(credentials.content()))
    (tmp_path / "bletoken").chmod(0o400)

    async def start_consumer() -> asyncio.subprocess.Process:
        # As systemd starts it, with the file handed over.
        async with UserApi(local_mode.url, key) as user, user.events() as events:
            consumer = await start(CONSUMER, CREDENTIALS_DIRECTORY=str(tmp_path))
            assert (await heard(events, "started")).origin_device_id == device_id
            await next_line(consumer, "connected")
        return consumer

    consumer = await start_consumer()
    try:
        await command_and_answer(local_mode.url, key, device_id, consumer, "first")
        await kill(consumer)
        consumer = await start_consumer()
        await command_and_answer(local_mode.url, key, device_id, consumer, "second")
        for action in ("third", "fourth"):
            await local_mode.kill()
            await next_line(consumer, "not connected")
            await local_mode.start()
            await next_line(consumer, "connected")
            await command_and_answer(local_mode.url, key, device_id, consumer, action)
    finally:
        await end(consumer)


async def test_a_consumer_waits_for_the_hand_off_and_ends_when_the_device_is_removed(
    bench: Bench, tmp_path: Path
) -> None:
    device, key = bench.device(), bench.seed["userKey"]
    png = tmp_path / "label.png"
    pictures.write(png, pictures.png(device.label))
    await device.start()
    consumer = await start(CONSUMER, "--wait", str(device.path / "state/credentials.json"))
    try:
        assert "not onboarded yet" in await next_line(consumer, "waiting")
        exit_code, said = await onboard(bench, bench.seed["deviceClass"], png)
        assert exit_code == 0, said
        [device_id] = await bench.devices_in_home()
        await next_line(consumer, "connected")
        await command_and_answer(bench.mode.url, key, device_id, consumer, "on")
        # The device begins anew, and what it has been given stays.
        await device.kill()
        await kill(consumer)
        await device.start()
        consumer = await start(CONSUMER, str(device.path / "state/credentials.json"))
        await next_line(consumer, "connected")
        await command_and_answer(bench.mode.url, key, device_id, consumer, "off")
        async with UserApi(bench.mode.url, key) as user:
            await user.delete_device(device_id)
        assert "does not accept the key" in await next_line(consumer, "Error")
        assert "bletoken-peripheral reset" in await next_line(consumer, "Run")
        async with asyncio.timeout(30):
            assert await consumer.wait() == DeviceRemovedError.exit_code
    finally:
        if consumer.returncode is None:
            await kill(consumer)


async def test_a_consumer_before_the_hand_off_says_so_and_ends(tmp_path: Path) -> None:
    consumer = await start(CONSUMER, str(tmp_path / "credentials.json"))
    assert "not onboarded yet" in await next_line(consumer, "Error")
    assert await consumer.wait() == NotOnboardedError.exit_code


async def test_a_consumer_that_waits_ends_on_a_signal(tmp_path: Path) -> None:
    consumer = await start(CONSUMER, "--wait", str(tmp_path / "credentials.json"))
    await next_line(consumer, "waiting")
    await end(consumer)


# All of them --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("example", "longest"), [(LAMP, 40), (CONSUMER, 75), (ONBOARD, 40)])
def test_an_example_is_short(example: Path, longest: int) -> None:
    assert len(example.read_text(encoding="utf-8").splitlines()) <= longest


def test_the_python_in_the_readme_compiles() -> None:
    for block in (ROOT / "README.md").read_text(encoding="utf-8").split("```python\n")[1:]:
        compile(block.partition("```")[0], "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("mechanism", ["on demand", "made ahead"])
async def test_a_device_onboarded_over_the_air_uses_its_key_also_after_its_restart(
    bench: Bench, mechanism: str
) -> None:
    device = bench.device() if mechanism == "on demand" else await bench.pre_provisioned()
    key, file = bench.seed["userKey"], str(device.folder.path / "credentials.json")
    consumer = await start(CONSUMER, "--wait", file)
    try:
        await device.start()
        code = device.label.qr
        outcome = await (bench.provision(code) if mechanism == "on demand" else bench.claim(code))
        assert outcome.exit_code == 0, outcome
        assert outcome.device_id is not None
        await next_line(consumer, "connected")
        await command_and_answer(bench.mode.url, key, outcome.device_id, consumer, "shine")
        await device.kill()
        await kill(consumer)
        await device.start()
        consumer = await start(CONSUMER, file)
        await next_line(consumer, "connected")
        await command_and_answer(bench.mode.url, key, outcome.device_id, consumer, "shine-again")
    finally:
        await end(consumer)
