"""The companion's command line, as the program that people run."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from handoff.bench import WAIT_S, Bench, Processes, command_of, open_bench

from bletoken.protocol.setup_code import SetupCode


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(Processes(), tmp_path) as opened:
        yield opened


async def start(*words: str, code: SetupCode | None = None, **variables: str) -> asyncio.subprocess.Process:
    if code is not None:
        variables["BLETOKEN_SETUP_CODE"] = code.text
    return await asyncio.create_subprocess_exec(
        *command_of("bletoken_central"),
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **variables},
        # Whoever starts the tests in the background has Ctrl-C ignored, and every program would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


async def run(*words: str, code: SetupCode | None = None, **variables: str) -> tuple[int, str, str]:
    process = await start(*words, code=code, **variables)
    async with asyncio.timeout(WAIT_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_scan_lists_the_devices_with_their_state(bench: Bench) -> None:
    device = bench.device()
    await device.start()
    status, out, _ = await run("scan", "--seconds", "1", "--radio", bench.hub.radio)
    assert status == 0
    assert "bletoken-1r-" in out
    assert "ready" in out
    status, out, _ = await run("scan", "--seconds", "1", "--radio", bench.hub.radio, "--json")
    [found, done] = [json.loads(line) for line in out.splitlines()]
    assert (status, found["state"], done) == (0, "ready", {"ok": True, "devices": 1})


async def test_info_shows_what_a_device_says(bench: Bench) -> None:
    device = bench.device()
    await device.start()
    status, out, _ = await run("info", "--no-code", "--radio", bench.hub.radio)
    assert status == 0
    assert "authenticated      False" in out
    status, out, _ = await run("info", "--json", "--radio", bench.hub.radio, code=device.label.qr)
    told = json.loads(out.splitlines()[-1])
    assert (status, told["authenticated"], told["state"], told["status"]) == (0, True, "ready", "idle")


async def test_login_keeps_a_session_that_provision_uses(bench: Bench) -> None:
    device = bench.device()
    await device.start()
    session = bench.path / "session"
    mode = ["--mode-url", bench.mode.url, "--session-file", str(session)]
    who = ["--project", str(bench.seed["projectId"]), "--app", bench.seed["appId"], "--email", bench.seed["email"]]
    status, out, err = await run("login", *mode, *who, BLETOKEN_MODE_PASSWORD=bench.seed["password"])
    assert (status, err) == (0, "")
    assert f"user {bench.seed['userId']}" in out
    assert session.stat().st_mode & 0o777 == 0o600
    words = ["provision", *mode, "--class", bench.seed["deviceClass"], "--radio", bench.hub.radio]
    status, out, err = await run(*words, code=device.label.qr, XDG_STATE_HOME=str(bench.path))
    assert (status, err) == (0, "")
    assert f"in home {bench.seed['homeId']}" in out
    assert (await run("logout", *mode))[0] == 0
    assert not session.exists()
    status, _, err = await run(*words, code=device.label.qr, XDG_STATE_HOME=str(bench.path))
    assert status == 2
    assert "bletoken-central login" in err


async def test_a_wrong_password_is_told_and_keeps_nothing(bench: Bench) -> None:
    mode = ["--mode-url", bench.mode.url, "--session-file", str(bench.path / "session")]
    who = ["--project", str(bench.seed["projectId"]), "--app", bench.seed["appId"], "--email", bench.seed["email"]]
    status, _, err = await run("login", *mode, *who, BLETOKEN_MODE_PASSWORD="wrong")
    assert status in (16, 17)
    assert err
    assert not (bench.path / "session").exists()


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["push", "--json"], marks=pytest.mark.produces(exit_code=2), id="process: nothing given"),
        pytest.param(["scan", "--radio", "pigeon"], marks=pytest.mark.produces(exit_code=2), id="process: no radio"),
        pytest.param(["push", "--no-such-option"], marks=pytest.mark.produces(exit_code=2), id="process: no option"),
    ],
)
async def test_wrong_usage_is_told(words: list[str]) -> None:
    status, out, err = await run(*words)
    assert status == 2
    assert out or err


@pytest.mark.parametrize(
    "radio",
    [pytest.param("air:unix:/nowhere", marks=pytest.mark.produces(exit_code=9), id="process")],
)
async def test_a_missing_radio_is_told(radio: str) -> None:
    status, _, err = await run("scan", "--radio", radio)
    assert status == 9
    assert "cannot be used" in err


@pytest.mark.produces(exit_code=130)
@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, id="process")])
async def test_ctrl_c_ends_it_quietly(bench: Bench, number: signal.Signals) -> None:
    device = bench.device()
    (bench.path / "token").write_text("token")
    process = await start(
        "push", "--token-file", str(bench.path / "token"), "--radio", bench.hub.radio, code=device.label.qr
    )
    assert process.stdout is not None
    assert await process.stdout.readline()
    process.send_signal(number)
    async with asyncio.timeout(WAIT_S):
        _, err = await process.communicate()
    assert (process.returncode, err.decode()) == (130, "")


@pytest.mark.produces(exit_code=1)
@pytest.mark.parametrize("what", [pytest.param("pipe", id="process")])
async def test_a_reader_that_went_away_ends_it(bench: Bench, what: str) -> None:
    device = bench.device()
    await device.start()
    command = [*command_of("bletoken_central"), "scan", "--seconds", "1", "--radio", bench.hub.radio]
    read, write = os.pipe()
    os.close(read)
    process = await asyncio.create_subprocess_exec(*command, stdout=write, stderr=asyncio.subprocess.PIPE)
    os.close(write)
    async with asyncio.timeout(WAIT_S):
        _, err = await process.communicate()
    assert (process.returncode, err.decode()) == (1, ""), what


@pytest.mark.parametrize(
    ("words", "settings", "exit_code"),
    [
        pytest.param(["open"], {}, 24, marks=pytest.mark.produces(exit_code=24), id="process: nothing runs"),
        pytest.param(
            ["identify"],
            {"identify_command": ["/bin/false"]},
            25,
            marks=pytest.mark.produces(exit_code=25),
            id="process: the command fails",
        ),
    ],
)
async def test_what_is_wrong_on_the_device_is_told(
    bench: Bench, words: list[str], settings: dict[str, object], exit_code: int
) -> None:
    device = bench.device(**settings)  # type: ignore[arg-type] # settings of the configuration
    process = await asyncio.create_subprocess_exec(
        *command_of("bletoken_peripheral"),
        *words,
        "--config",
        str(device.config),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WAIT_S):
        _, err = await process.communicate()
    assert process.returncode == exit_code, err
    assert err


def test_the_commands_are_installed_by_name() -> None:
    here = Path(sys.executable).parent
    for name in ("bletoken-central", "bletoken-peripheral", "bletoken-sim"):
        assert (here / name).exists()
