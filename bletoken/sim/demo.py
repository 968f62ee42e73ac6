"""`bletoken-sim demo`: one whole hand-off between separate programs, and checks of what came of it.

It starts the two sides by their command names, as a person would, and imports neither.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

from bletoken import console
from bletoken.errors import BletokenError, UsageError

_START_TIMEOUT_S: Final = 60
_HANDOFF_TIMEOUT_S: Final = 120
_STOP_TIMEOUT_S: Final = 20


class DemoFailedError(BletokenError):
    """The demo did not come out as it should.

    Please report it, with the output above.
    """


def run(args: argparse.Namespace) -> int:
    """Run the demo.

    Returns:
        The exit code: 0 when everything was seen to happen.

    Raises:
        DemoFailedError: Something did not happen.
    """
    return console.run(_run(args))


async def _run(args: argparse.Namespace) -> int:
    began_at = time.monotonic()
    tell = _Teller(as_json=args.json)
    if args.folder is None:
        folder = Path(tempfile.mkdtemp(prefix="bletoken-demo-"))
    else:
        folder = args.folder.absolute()
        try:
            folder.mkdir(mode=0o700, parents=True)
        except OSError as e:
            raise UsageError(f"cannot make the folder {folder}: {e.strerror}") from e
    async with contextlib.AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(_program(tell, "MODE", _cloud(args, folder)))
        air = await stack.enter_async_context(_program(tell, "air", _air(folder)))
        mode = await cloud.expect("listening")
        radio = await air.expect("listening")
        seed = mode["seed"]
        _prepare(folder, mode_url=mode["url"], radio=radio["radio"], seed=seed)
        maker = await _made_ahead(tell, folder, seed) if args.claim else []
        await _finish(tell, "device", "bletoken-peripheral", "init", "--json", *_config(folder), *maker)
        await _finish(tell, "device", "bletoken-peripheral", "label", "--png", f"{folder}/label.png", *_config(folder))
        peripheral = await stack.enter_async_context(
            _program(tell, "device", ["bletoken-peripheral", "run", "--json", *_config(folder)])
        )
        await peripheral.expect("advertising")
        set_up_s = time.monotonic() - began_at
        companion = await stack.enter_async_context(
            _program(tell, "companion", _onboard(args, folder, mode["url"], radio["radio"], seed))
        )
        result = await companion.result()
        if not result.get("ok"):
            raise DemoFailedError(f"the companion failed: {result.get('message', 'no message')}")
        await peripheral.expect("provisioned")
        checked = await _check(folder, mode["url"], seed, result)
        att_requests = await _att_requests(radio["control"])
    phases = {"set_up": round(set_up_s, 4), **result["elapsed_s"]}
    summary = {
        "ok": True,
        "device_id": result["device_id"],
        "home_id": result["home_id"],
        "event": result["event"],
        "credentials": str(checked),
        "att_requests": att_requests,
        "elapsed_s": phases,
    }
    if args.json:
        console.say_json(summary)
    else:
        what = "claim code" if args.claim else "token"
        console.say(
            f"\nDevice {result['device_id']} is in home {result['home_id']}, its event {result['event']!r} came,"
            f" and MODE accepts its key.\nThe {what} took {att_requests} ATT requests (subscribe, read, write) and"
            f" {phases['total']:.2f} s from the first advert sought to the device in the home.\n"
            f"Its credentials are in {checked}"
        )
    return 0


def _cloud(args: argparse.Namespace, folder: Path) -> list[str]:
    settings = ["--set", f"token_length={args.token_octets}"]
    return ["bletoken-sim", "cloud", "--json", "--seed", "--db", f"{folder}/mode.sqlite", *settings]


def _air(folder: Path) -> list[str]:
    return ["bletoken-sim", "air", "--json", "--btsnoop", f"{folder}/air.btsnoop"]


def _config(folder: Path) -> list[str]:
    return ["--config", f"{folder}/peripheral.toml"]


async def _made_ahead(tell: "_Teller", folder: Path, seed: Mapping[str, Any]) -> list[str]:
    """Do in the Developer Console what the device's maker does; what `init` is to be told of it."""
    project = ["--project", str(seed["projectId"]), "--db", f"{folder}/mode.sqlite", "--json"]
    cloud = ["bletoken-sim", "cloud"]
    await _finish(tell, "MODE", *cloud, "project", "on-demand", "off", *project)
    files = ["--key-file", f"{folder}/api-key", "--claim-code-file", f"{folder}/claim-code"]
    made = await _finish(tell, "MODE", *cloud, "device", "add", "--class", str(seed["deviceClass"]), *files, *project)
    return ["--device-id", str(made["id"]), "--api-key-file", f"{folder}/api-key", *files[2:]]


def _onboard(args: argparse.Namespace, folder: Path, mode_url: str, radio: str, seed: Mapping[str, Any]) -> list[str]:
    command = ["claim"] if args.claim else ["provision", "--class", str(seed["deviceClass"])]
    return [
        *("bletoken-central", *command, "--json"),
        *("--radio", f"{radio}?mtu={args.mtu}"),
        *("--mode-url", mode_url),
        *("--session-key-file", f"{folder}/session-key"),
        *("--home", str(seed["homeId"])),
        *("--qr", f"{folder}/label.png"),
    ]


def _prepare(folder: Path, *, mode_url: str, radio: str, seed: Mapping[str, Any]) -> None:
    # JSON strings are TOML strings, whatever is in the path.
    (folder / "peripheral.toml").write_text(
        f'device_class = {json.dumps(seed["deviceClass"])}\nstate = "state"\n'
        f"mode_url = {json.dumps(mode_url)}\nradio = {json.dumps(radio)}\n",
        encoding="utf-8",
    )
    secret = os.open(folder / "session-key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(secret, "w", encoding="utf-8") as file:
        file.write(seed["userKey"])


async def _check(folder: Path, mode_url: str, seed: Mapping[str, Any], result: Mapping[str, Any]) -> Path:
    """See for ourselves what the two programs say."""
    from bletoken.mode.device_api import DeviceApi
    from bletoken.mode.user_api import UserApi

    path = folder / "state" / "credentials.json"
    mode = stat.S_IMODE(path.stat().st_mode)
    credentials = json.loads(path.read_text(encoding="utf-8"))
    async with DeviceApi(mode_url) as api:
        identity = await api.identity(credentials["api_key"])
    async with UserApi(mode_url, seed["userKey"]) as user:
        listed = [device.id for device in await user.devices(seed["homeId"])]
    for holds, what in (
        (mode == 0o600, f"{path} has mode {mode:o}"),
        (credentials["device_id"] == result["device_id"], "the device and the companion tell different ids"),
        (identity.type == "device" and identity.device_id == result["device_id"], "MODE does not accept the key"),
        (listed == [result["device_id"]], f"the home has the devices {listed}"),
        (result["event"], "the device's event did not arrive"),
    ):
        if not holds:
            raise DemoFailedError(what)
    return path


async def _att_requests(control: str) -> int:
    from bletoken.protocol.wire import TOKEN_UUID
    from bletoken.sim.air.att_log import handoff_requests
    from bletoken.sim.air.control import AirControl

    stats = await AirControl(control).stats()
    return handoff_requests(stats.connections[-1].log, TOKEN_UUID)


# Programs -----------------------------------------------------------------------------------------------------------


class _Teller:
    """Shows what the programs say, as it comes."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def tell(self, who: str, said: Mapping[str, Any]) -> None:
        if self._as_json:
            console.say_json({"who": who, **{k: v for k, v in said.items() if k != "seed"}})
            return
        if "ok" in said:
            words = "done" if said["ok"] else said.get("message", "failed")
        else:
            words = said.get("step") or said.get("event") or ""
        detail = said.get("detail") or said.get("url") or said.get("radio") or ""
        device = f"device {said['device_id']}" if said.get("device_id") else ""
        rest = ", ".join(part for part in (device, str(detail)) if part)
        console.say(f"{who:>10} | {str(words).replace('_', ' ')}{': ' if rest else ''}{rest}")


class _Program:
    """A program that prints JSON objects; each is shown as it comes and kept for whoever waits for it."""

    def __init__(self, who: str, process: asyncio.subprocess.Process, tell: _Teller) -> None:
        self.who = who
        self.process = process
        self._tell = tell
        self._said: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    async def listen(self) -> None:
        """Read what the program says until it ends."""
        assert self.process.stdout is not None, "started with a pipe"
        async for line in self.process.stdout:
            said: dict[str, Any] = json.loads(line)
            self._tell.tell(self.who, said)
            self._said.put_nowait(said)
        self._said.put_nowait(None)

    async def expect(self, word: str) -> dict[str, Any]:
        """Wait until the program says so."""
        async with asyncio.timeout(_START_TIMEOUT_S):
            while (said := await self._said.get()) is not None:
                if word in (said.get("event"), said.get("step")):
                    return said
        raise DemoFailedError(f"the {self.who} ended before it was {word}")

    async def result(self) -> dict[str, Any]:
        """Wait for the program's end; its last word is the result."""
        last: dict[str, Any] = {}
        async with asyncio.timeout(_HANDOFF_TIMEOUT_S):
            while (said := await self._said.get()) is not None:
                last = said
            await self.process.wait()
        return last


@contextlib.asynccontextmanager
async def _program(tell: _Teller, who: str, command: list[str]) -> AsyncIterator[_Program]:
    """Run a program while inside; it is asked to stop in the end, and made to where it does not."""
    process = await asyncio.create_subprocess_exec(
        _path_of(command[0]), *command[1:], stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    program = _Program(who, process, tell)
    listening = asyncio.create_task(program.listen())
    try:
        yield program
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        await listening


async def _finish(tell: _Teller, who: str, *command: str) -> dict[str, Any]:
    """Run a program to its end; what it said last."""
    async with _program(tell, who, list(command)) as program:
        result = await program.result()
        if program.process.returncode != 0:
            raise DemoFailedError(f"{command[0]} {command[1]} failed: {result.get('message', 'no message')}")
        return result


def _path_of(name: str) -> str:
    """The program beside this Python, else on the path."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise DemoFailedError(f"{name} is not installed; run: pip install 'bletoken[peripheral,central,sim]'")
    return found
