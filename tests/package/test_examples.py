"""The two examples of the documentation, as programs of their own, on the virtual radio and the local MODE."""

import ast
import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from handoff.bench import Bench, Processes, open_bench
from package.environments import ROOT

from bletoken.sim.cloud.faults import ErrorAnswer, Fault
from bletoken_peripheral import label as pictures

LAMP = ROOT / "peripheral/examples/lamp.py"
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


@pytest.mark.parametrize("example", [LAMP, ONBOARD], ids=lambda path: path.name)
def test_an_example_is_short(example: Path) -> None:
    assert len(example.read_text(encoding="utf-8").splitlines()) <= 40


def test_the_python_in_the_readme_compiles() -> None:
    for block in (ROOT / "README.md").read_text(encoding="utf-8").split("```python\n")[1:]:
        compile(block.partition("```")[0], "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
