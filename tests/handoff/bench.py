"""A bench with a local MODE, an air, devices and companions, in one process or in several.

The tests of the hand-off are written once against it.
"""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
from bluez import stack
from hil.rig import REBOOT_S, Rig

from bletoken.errors import BletokenError
from bletoken.mode.credentials import Credentials
from bletoken.protocol.setup_code import Label, SetupCode
from bletoken.sim.air.hub import Hub
from bletoken.sim.air.link import LinkModel
from bletoken.sim.cloud.server import CloudServer, serve
from bletoken.sim.cloud.settings import Settings
from bletoken_central.handoff import Limits, Progress, Token
from bletoken_central.onboarding import Companion
from bletoken_peripheral import config
from bletoken_peripheral.claiming import ClaimRecord
from bletoken_peripheral.onboarding import Onboarding
from bletoken_peripheral.progress import Progress as DeviceProgress
from bletoken_peripheral.redemption import Journal
from bletoken_peripheral.store import StateFolder

WAIT_S = 120 if stack.missing() is None else 30
"""How long anything may take before a test gives up; never a measure of anything."""


@dataclass
class Outcome:
    """What a companion came to."""

    exit_code: int
    message: str = ""
    shown: str = ""
    device_id: int | None = None
    result: dict[str, Any] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)


class RunningDevice(Protocol):
    """A device that is switched on."""

    steps: list[str]

    async def stop(self) -> None: ...
    async def kill(self) -> None: ...


@dataclass
class Device:
    """A device: its state folder and configuration, on or off."""

    bench: "Bench"
    path: Path
    label: Label
    running: RunningDevice | None = None
    device_id: int = 0
    claim_code: str = ""

    @property
    def folder(self) -> StateFolder:
        self.bench.programs.look(self)
        return StateFolder(self.path / "state")

    @property
    def journal(self) -> Journal | None:
        return self.folder.read_journal()

    @property
    def credentials(self) -> Credentials | None:
        return self.folder.read_credentials()

    @property
    def config(self) -> Path:
        return self.path / "peripheral.toml"

    @property
    def steps(self) -> list[str]:
        assert self.running is not None
        return self.running.steps

    async def start(self) -> None:
        self.running = await self.bench.programs.start_device(self)
        await self.saw("advertising")

    async def stop(self) -> None:
        if self.running is not None:
            await self.running.stop()
            self.running = None

    async def kill(self) -> None:
        assert self.running is not None
        await self.running.kill()
        self.running = None

    async def saw(self, step: str, times: int = 1) -> None:
        await until(lambda: self.steps.count(step) >= times, lambda: f"{step} in {self.steps}")


@dataclass
class Bench:
    """MODE, the air, and who runs the programs."""

    programs: "Programs"
    path: Path
    mode: CloudServer
    client: httpx.AsyncClient
    seed: dict[str, Any]
    air: Hub | None
    radio_of_device: str
    companion_radio: str
    devices: list[Device] = field(default_factory=list)

    @property
    def hub(self) -> Hub:
        """The virtual air, for a test that does something to it or is on it itself."""
        if self.air is None:
            pytest.skip("it takes the virtual air, and here are real adapters")
        return self.air

    @property
    def device_radio(self) -> str:
        """The device's radio, for a test that uses it itself."""
        if not self.programs.has_device_here:
            pytest.skip("it takes the device's radio in the test's own process, and here it is another machine's")
        return self.radio_of_device

    def device(
        self, name: str = "device", *, with_pin: bool = True, label: Label | None = None, **settings: object
    ) -> Device:
        """A new device, switched off."""
        path = self.path / name
        path.mkdir()
        content = {
            "device_class": self.seed["deviceClass"],
            "state": "state",
            "mode_url": self.mode.url,
            "radio": self.radio_of_device,
            **settings,
        }
        toml = "".join(f"{key} = {json.dumps(value)}\n" for key, value in content.items())
        (path / "peripheral.toml").write_text(toml)
        device = Device(self, path, label or Label.generate(secrets.token_bytes, with_pin=with_pin))
        self.devices.append(device)
        device.folder.create()
        with device.folder.lock() as folder:
            folder.write_failures(0)
            folder.write_label(device.label)
        return device

    async def pre_provisioned(self, name: str = "device", **settings: object) -> Device:
        """A device that was made ahead of time, switched off; the project has no on-demand provisioning."""
        await self.sim("/_sim/seed", {"onDemand": False})
        made = await self.sim("/_sim/devices", {"deviceClass": self.seed["deviceClass"]})
        device = self.device(name, **settings)
        device.device_id, device.claim_code = made["id"], made["claimCode"]
        with device.folder.lock() as folder:
            folder.write_claim(ClaimRecord(made["claimCode"]))
            folder.write_credentials(Credentials(made["id"], made["apiKey"], self.mode.url))
        return device

    async def sim(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        """Do what a person does in MODE's Developer Console."""
        answer: dict[str, Any] = (await self.client.post(path, json=content)).raise_for_status().json()
        return answer

    async def ask_mode(self, method: str, path: str, key: str, content: dict[str, Any] | None = None) -> httpx.Response:
        """One request to MODE, with somebody's key."""
        return await self.client.request(method, path, json=content, headers={"Authorization": f"ModeCloud {key}"})

    async def token(self) -> str:
        """A provisioning token for the home."""
        answer = await self.client.post(
            f"/homes/{self.seed['homeId']}/deviceProvisioning",
            json={"deviceClass": self.seed["deviceClass"]},
            headers={"Authorization": f"ModeCloud {self.seed['userKey']}"},
        )
        return str(answer.raise_for_status().json()["token"])

    async def accepts(self, credentials: Credentials) -> bool:
        """Whether MODE knows the device by this key."""
        answer = await self.client.get("/auth", headers={"Authorization": f"ModeCloud {credentials.api_key}"})
        said = answer.raise_for_status().json()
        return said["type"] == "device" and said["deviceId"] == credentials.device_id

    async def devices_in_home(self) -> list[int]:
        """What MODE lists in the home."""
        answer = await self.client.get(
            f"/devices?homeId={self.seed['homeId']}", headers={"Authorization": f"ModeCloud {self.seed['userKey']}"}
        )
        return [device["id"] for device in answer.raise_for_status().json()]

    @property
    def redemptions(self) -> list[int | None]:
        """What MODE decided about each `POST /devices`."""
        return [request.decided for request in self.mode.log.requests("POST /devices")]

    async def push(self, code: SetupCode, token: str, *, mtu: int | None = None, **limits: float) -> Outcome:
        """Hand a token over."""
        return await self.programs.push(self, self._companion_radio(mtu), code, token, limits)

    async def provision(self, code: SetupCode, *, mtu: int | None = None, **limits: float) -> Outcome:
        """Ask MODE for a token and hand it over."""
        return await self.programs.provision(self, self._companion_radio(mtu), code, limits)

    def _companion_radio(self, mtu: int | None) -> str:
        if self.companion_radio.startswith("air:"):
            return f"{self.companion_radio}?mtu={mtu or 247}"
        if mtu not in (None, 517):
            pytest.skip("BlueZ as the companion's host always asks for an MTU of 517")
        return self.companion_radio

    async def claim(
        self, code: SetupCode, *, mtu: int | None = None, duration_s: int = 300, **limits: float
    ) -> Outcome:
        """Have a device tell its claim code, and claim it."""
        return await self.programs.claim(self, self._companion_radio(mtu), code, duration_s, limits)

    async def claim_typed(self, claim_code: str) -> Outcome:
        """Claim a device by its typed claim code."""
        return await self.programs.claim_typed(self, claim_code)


class Programs(Protocol):
    """Who runs the two sides.

    Attributes:
        has_device_here: The device is this machine.
    """

    has_device_here: bool

    def look(self, device: Device) -> None:
        """See to it that the device's folder shows the device's state."""

    def device_command(self, *words: str) -> list[str]:
        """The command that runs the device's program."""

    async def start_device(self, device: Device) -> RunningDevice: ...
    async def push(
        self, bench: Bench, radio: str, code: SetupCode, token: str, limits: dict[str, float]
    ) -> Outcome: ...
    async def provision(self, bench: Bench, radio: str, code: SetupCode, limits: dict[str, float]) -> Outcome: ...
    async def claim(
        self, bench: Bench, radio: str, code: SetupCode, duration_s: int, limits: dict[str, float]
    ) -> Outcome: ...
    async def claim_typed(self, bench: Bench, claim_code: str) -> Outcome: ...


@dataclass(frozen=True)
class Ends:
    """What the two ends of the air are: real BlueZ, or the virtual radio.

    Attributes:
        device: The device is on an adapter of BlueZ.
        companion: The companion is.
    """

    device: bool = False
    companion: bool = False


@contextlib.asynccontextmanager
async def open_bench(
    programs: Programs,
    path: Path,
    *,
    ends: Ends = Ends(),
    daemon: stack.Daemon | None = None,
    rig: Rig | None = None,
    link: LinkModel | None = None,
    btsnoop: Path | None = None,
    db: Path | None = None,
    air: str | None = None,
    **settings: Any,
) -> AsyncIterator[Bench]:
    """A bench that ends with the context, and every device on it.

    `daemon` is needed where an end is BlueZ's, and `rig` where both are hardware. `air` is where the hub listens, if
    not on a socket in the folder.
    """
    async with contextlib.AsyncExitStack() as closing:
        mode = await closing.enter_async_context(serve(Settings(**settings), db=db))
        hub = None
        if rig:
            if link:
                pytest.skip("it takes a virtual air that behaves in a certain way, and here are real adapters")
            radios = await rig.radios()
        else:
            if daemon:
                link = _over(stack.BLUEZ_AIR, link)
            hub = await closing.enter_async_context(Hub.open(air or f"unix:{path}/air", model=link, btsnoop=btsnoop))
            radios = {"device": hub.radio, "companion": hub.radio}
        if daemon and hub:
            from bluez import bus  # its library is there on Linux only

            daemon.start()
            bluez = await closing.enter_async_context(bus.BlueZ.open(daemon))
            on_bluez = [end for end in radios if getattr(ends, end)]
            adapters = await closing.enter_async_context(bus.adapters(bluez, hub, len(on_bluez)))
            radios |= {end: f"system:{adapter}" for end, adapter in zip(on_bluez, adapters, strict=True)}
        client = await closing.enter_async_context(httpx.AsyncClient(base_url=mode.url, trust_env=False, verify=False))
        seed = (await client.post("/_sim/seed")).raise_for_status().json()
        bench = Bench(programs, path, mode, client, seed, hub, radios["device"], radios["companion"])
        try:
            yield bench
        finally:
            for device in bench.devices:
                await device.stop()


def _over(base: LinkModel, changed: LinkModel | None) -> LinkModel:
    """The base, with what somebody changed from the defaults."""
    if changed is None:
        return base
    default = LinkModel()
    values = {f.name: getattr(changed, f.name) for f in fields(LinkModel)}
    return replace(base, **{name: value for name, value in values.items() if value != getattr(default, name)})


async def until(condition: Callable[[], object], what: Callable[[], str] = lambda: "something") -> None:
    """Wait for something."""
    try:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited in vain for {what()}") from None


# In one process -----------------------------------------------------------------------------------------------------


class _DeviceTask:
    def __init__(self, device: Device) -> None:
        self.steps: list[str] = []
        self._folder = device.folder.lock()
        onboarding = Onboarding(config.load(device.config), self._folder, report=self._report)
        self._task = asyncio.create_task(onboarding.run())

    def _report(self, progress: DeviceProgress) -> None:
        self.steps.append(progress.step)

    async def stop(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._folder.__exit__()

    async def kill(self) -> None:
        raise NotImplementedError("only a process of its own can be killed")


class InProcess:
    """Both sides as libraries in the test's own event loop."""

    has_device_here = True

    def look(self, device: Device) -> None: ...

    def device_command(self, *words: str) -> list[str]:
        return [*command_of("bletoken_peripheral"), *words]

    async def start_device(self, device: Device) -> RunningDevice:
        return _DeviceTask(device)

    async def push(self, bench: Bench, radio: str, code: SetupCode, token: str, limits: dict[str, float]) -> Outcome:
        async def work(companion: Companion) -> dict[str, Any]:
            pushed = await companion.push(code, Token(token))
            return {"device_id": pushed.device_id, "elapsed_s": pushed.elapsed_s}

        return await self._outcome(radio, limits, work)

    async def provision(self, bench: Bench, radio: str, code: SetupCode, limits: dict[str, float]) -> Outcome:
        async def work(companion: Companion) -> dict[str, Any]:
            done = await companion.provision(code, home_id=bench.seed["homeId"], device_class=bench.seed["deviceClass"])
            return {"device_id": done.device_id, "event": done.event, "elapsed_s": done.elapsed_s}

        return await self._outcome(radio, limits, work, **self._user(bench))

    async def claim(
        self, bench: Bench, radio: str, code: SetupCode, duration_s: int, limits: dict[str, float]
    ) -> Outcome:
        async def work(companion: Companion) -> dict[str, Any]:
            done = await companion.claim(code, home_id=bench.seed["homeId"], duration_s=duration_s)
            return {"device_id": done.device_id, "event": done.event, "elapsed_s": done.elapsed_s}

        return await self._outcome(radio, limits, work, **self._user(bench))

    async def claim_typed(self, bench: Bench, claim_code: str) -> Outcome:
        async def work(companion: Companion) -> dict[str, Any]:
            done = await companion.claim_typed(claim_code, home_id=bench.seed["homeId"])
            return {"device_id": done.device_id, "event": done.event, "elapsed_s": done.elapsed_s}

        return await self._outcome("system", {}, work, **self._user(bench))

    @staticmethod
    def _user(bench: Bench) -> dict[str, Any]:
        return {"mode_url": bench.mode.url, "session_key": bench.seed["userKey"], "notes": bench.path / "notes"}

    @staticmethod
    async def _outcome(radio: str, limits: dict[str, float], work: Any, **options: Any) -> Outcome:
        steps: list[str] = []

        def report(progress: Progress) -> None:
            steps.append(progress.step.name.lower())

        try:
            async with Companion(radio, report=report, limits=Limits(**limits), **options) as companion:
                result = await work(companion)
        except BletokenError as error:
            return Outcome(error.exit_code, str(error), steps=steps)
        return Outcome(0, device_id=result["device_id"], result=result, steps=steps)


# In processes of their own ------------------------------------------------------------------------------------------


class _DeviceProcess:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.steps: list[str] = []
        self.process = process
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            said = json.loads(line)
            self.steps.append(said.get("step") or said.get("message", ""))

    async def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        await self._ended()
        assert self.process.returncode == 0, self.steps

    async def kill(self) -> None:
        self.process.kill()
        await self._ended()
        assert self.process.returncode == -signal.SIGKILL

    async def _ended(self) -> None:
        async with asyncio.timeout(WAIT_S):
            await self.process.wait()
            await self._reading


def command_of(name: str) -> list[str]:
    return [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning:dbus_next.service", "-m", f"{name}.cli"]


async def _start(
    command: list[str], stdin: int = asyncio.subprocess.DEVNULL, **variables: str
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "NO_PROXY": "127.0.0.1", **variables},
    )


class Processes:
    """Both sides as the programs that people run; others may take the place of the device's and the companion's."""

    has_device_here = True
    companion_s = 3 * WAIT_S
    """How long a companion's program may run."""

    def __init__(self, device_program: list[str] | None = None, companion_program: list[str] | None = None) -> None:
        self._device_program = device_program or command_of("bletoken_peripheral")
        self._companion_program = companion_program or command_of("bletoken_central")

    def look(self, device: Device) -> None: ...

    def device_command(self, *words: str) -> list[str]:
        return [*self._device_program, *words]

    async def start_device(self, device: Device) -> RunningDevice:
        return _DeviceProcess(await _start(self.device_command("run", "--json", "--config", str(device.config))))

    async def push(self, bench: Bench, radio: str, code: SetupCode, token: str, limits: dict[str, float]) -> Outcome:
        path = bench.path / f"token-{secrets.token_hex(4)}"
        path.write_text(token)
        return await self._outcome(["push", "--token-file", str(path)], radio, code, limits)

    async def provision(self, bench: Bench, radio: str, code: SetupCode, limits: dict[str, float]) -> Outcome:
        words = ["provision", *self._home(bench), "--class", bench.seed["deviceClass"]]
        return await self._outcome(words, radio, code, limits, **self._user(bench))

    async def claim(
        self, bench: Bench, radio: str, code: SetupCode, duration_s: int, limits: dict[str, float]
    ) -> Outcome:
        words = ["claim", *self._home(bench), "--duration-s", str(duration_s)]
        return await self._outcome(words, radio, code, limits, **self._user(bench))

    async def claim_typed(self, bench: Bench, claim_code: str) -> Outcome:
        path = bench.path / f"claim-code-{secrets.token_hex(4)}"
        path.write_text(claim_code)
        words = ["claim", *self._home(bench), "--claim-code-file", str(path)]
        return await self._outcome(words, "system", None, {}, **self._user(bench))

    @staticmethod
    def _home(bench: Bench) -> list[str]:
        return ["--home", str(bench.seed["homeId"]), "--mode-url", bench.mode.url]

    @staticmethod
    def _user(bench: Bench) -> dict[str, str]:
        return {"BLETOKEN_SESSION_KEY": bench.seed["userKey"], "XDG_STATE_HOME": str(bench.path)}

    async def _outcome(
        self, words: list[str], radio: str, code: SetupCode | None, limits: dict[str, float], **variables: str
    ) -> Outcome:
        options = {"find_s": "--find-s", "total_s": "--timeout-s"}
        given = [part for name, value in limits.items() for part in (options[name], str(value))]
        command = [*self._companion_program, *words, "--json", "--radio", radio, *given]
        if code is not None:
            variables["BLETOKEN_SETUP_CODE"] = code.text
        process = await _start(command, **variables)
        try:
            async with asyncio.timeout(self.companion_s):
                out, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        said = [json.loads(line) for line in out.splitlines()]
        # One that was killed may have said nothing.
        last, steps = said[-1] if said else {}, [line["step"] for line in said if "step" in line]
        assert process.returncode is not None
        return Outcome(
            process.returncode, message := last.get("message", ""), message, last.get("device_id"), last, steps
        )


# On hardware ----------------------------------------------------------------------------------------------------------


class _DeviceOnRig(_DeviceProcess):
    """The device's program with a real adapter; `on_end` is told when it has ended."""

    def __init__(self, process: asyncio.subprocess.Process, rig: Rig, on_end: Callable[[], None]) -> None:
        super().__init__(process)
        self._rig = rig
        self._on_end = on_end

    async def stop(self) -> None:
        if not self.process.stdin:
            await super().stop()
            return
        self._signal("TERM")
        await self._ended()
        assert self.process.returncode == 0, self.steps

    async def kill(self) -> None:
        if self._rig.power_cycle:
            await self._rig.cut_power()
            if not self.process.stdin:
                # With a dongle's power goes its device's, so to speak.
                with contextlib.suppress(ProcessLookupError):
                    self.process.kill()
            await self._ended()
        elif self.process.stdin:
            self._signal("KILL")
            await self._ended()
            assert self.process.returncode == 128 + signal.SIGKILL
        else:
            await super().kill()

    def _signal(self, name: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name}\n".encode())

    async def _ended(self) -> None:
        await super()._ended()
        if self.process.stdin:
            await self._rig.answers()
        self._on_end()


class OnRig(Processes):
    """The programs with real adapters, the device's on another machine where the rig says so."""

    companion_s = 2 * REBOOT_S

    def __init__(self, rig: Rig) -> None:
        super().__init__()
        self._rig = rig
        self.has_device_here = not rig.device_host
        self._elsewhere: set[Path] = set()
        """The folders of devices that are on there, whose state is there and not here."""

    def look(self, device: Device) -> None:
        if device.path in self._elsewhere:
            self._rig.fetch(device.path)

    def device_command(self, *words: str) -> list[str]:
        if self.has_device_here:
            return super().device_command(*words)
        return self._rig.on_device(self._rig.device_program, *words)

    async def start_device(self, device: Device) -> RunningDevice:
        words = ("run", "--json", "--config", str(device.config))
        if self.has_device_here:
            return _DeviceOnRig(await _start(self.device_command(*words)), self._rig, lambda: None)
        # One that is on there already has its state there.
        is_first = device.path not in self._elsewhere
        if is_first:
            await asyncio.to_thread(self._rig.give, device.path)
            self._elsewhere.add(device.path)
        port = httpx.URL(device.bench.mode.url).port
        assert port is not None
        process = await _start(self._rig.program(port, *words), stdin=asyncio.subprocess.PIPE)
        return _DeviceOnRig(process, self._rig, (lambda: self._came_back(device)) if is_first else (lambda: None))

    async def _outcome(
        self, words: list[str], radio: str, code: SetupCode | None, limits: dict[str, float], **variables: str
    ) -> Outcome:
        if code and self._rig.power_cycle:
            # A device whose power was cut takes its time to come back.
            limits = {"find_s": REBOOT_S, "total_s": 1.5 * REBOOT_S, **limits}
        return await super()._outcome(words, radio, code, limits, **variables)

    def _came_back(self, device: Device) -> None:
        self.look(device)
        self._elsewhere.discard(device.path)


async def command(device: Device, *words: str) -> tuple[int, dict[str, Any]]:
    """A local command: its exit code and what it says."""
    programs = device.bench.programs
    if device.running is None and not programs.has_device_here:
        pytest.skip("the state of a device that is off is on this machine, and its program on another")
    process = await asyncio.create_subprocess_exec(
        *programs.device_command(*words, "--json", "--config", str(device.config)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(3 * WAIT_S):
        out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(out.splitlines()[-1])
