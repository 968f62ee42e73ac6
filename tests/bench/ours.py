"""bletoken itself: both sides as libraries, and the local MODE."""

import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from bench.bound import DEVICE_CLASS
from bench.stage import HAS_TOKEN, RESULT, Stage

from bletoken.protocol.setup_code import Label
from bletoken.sim.cloud.server import serve
from bletoken.sim.cloud.settings import Settings
from bletoken_central.handoff import Progress, Step, Token
from bletoken_central.onboarding import Companion
from bletoken_peripheral import config
from bletoken_peripheral.onboarding import Onboarding
from bletoken_peripheral.progress import Progress as DeviceProgress
from bletoken_peripheral.store import StateFolder

_MARKS = {Step.ACCEPTED: HAS_TOKEN, Step.PROVISIONED: RESULT}


@dataclass(frozen=True)
class _Prepared:
    token: str
    label: Label
    config: Path
    state: StateFolder


class Bletoken:
    """A token sealed to the one device, redeemed with MODE, and an authenticated result."""

    name = "bletoken"
    is_replay = False

    @contextlib.asynccontextmanager
    async def prepare(self, stage: Stage) -> AsyncIterator[_Prepared]:
        label = Label.generate(secrets.token_bytes, with_pin=True)
        state = StateFolder(stage.folder / "state")
        state.create()
        with state.lock() as folder:
            folder.write_failures(0)
            folder.write_label(label)
        async with (
            serve(Settings(token_length=stage.cell.token_size)) as mode,
            httpx.AsyncClient(base_url=mode.url, trust_env=False) as client,
        ):
            seed = (await client.post("/_sim/seed", json={"deviceClass": DEVICE_CLASS})).raise_for_status().json()
            answer = await client.post(
                f"/homes/{seed['homeId']}/deviceProvisioning",
                json={"deviceClass": seed["deviceClass"]},
                headers={"Authorization": f"ModeCloud {seed['userKey']}"},
            )
            token = answer.raise_for_status().json()["token"]
            assert len(token) == stage.cell.token_size
            path = stage.folder / "peripheral.toml"
            path.write_text(
                f'device_class = "{seed["deviceClass"]}"\nstate = "state"\n'
                f'mode_url = "{mode.url}"\nradio = "{stage.device_radio}"\n'
            )
            yield _Prepared(token, label, path, state)

    async def device(self, stage: Stage, prepared: _Prepared) -> None:
        def report(progress: DeviceProgress) -> None:
            if progress.step == "advertising":
                stage.on_air.set()

        with prepared.state.lock() as folder:
            await Onboarding(config.load(prepared.config), folder, report=report).run()

    async def companion(self, stage: Stage, prepared: _Prepared) -> None:
        def report(progress: Progress) -> None:
            if progress.step in _MARKS:
                stage.mark(_MARKS[progress.step])

        async with Companion(stage.companion_radio, report=report) as companion:
            await companion.push(prepared.label.qr, Token(prepared.token))
