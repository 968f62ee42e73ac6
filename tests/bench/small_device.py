"""What the device's side costs a small device, each figure beside the least there can be, in the same run.

The program is the one that devices run, on bless and D-Bus as on a device; only BlueZ is a fake, which does nothing and
so costs nothing. The least there can be is `bare_server.py` on the same fake, and `bare_argparse.py`.
"""

import argparse
import asyncio
import importlib
import itertools
import json
import os
import random
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import bare_server, mode_with_tls
from bench.on_bluez import Companion, Program, missing, running
from package.environments import Environment, build, clean_environment, make_environment

from bletoken.protocol import frames
from bletoken.protocol.companion import CompanionMachine
from bletoken.protocol.setup_code import Label
from bletoken.protocol.wire import HELLO_UUID, STATUS_UUID, TOKEN_UUID, Provision, Provisioned
from bletoken_peripheral.store import StateFolder

NAME = "small device"

START_GOAL, BEFORE_GOAL, AFTER_GOAL, HELP_GOAL = 1.25, 1.6, 2.2, 1.3
PING_S = 30

_HERE = Path(__file__).parent
_TOKEN_OCTETS = 200
_PROGRAMS = {
    "bletoken-peripheral": "bletoken_peripheral.cli",
    "bletoken-central": "bletoken_central.cli",
    "bletoken-sim": "bletoken.sim.cli",
}


@dataclass(frozen=True)
class _Plan:
    """How much is measured: repetitions, and seconds of idleness."""

    starts: int
    handoffs: int
    helps: int
    idle_s: int
    every_command: bool


_QUICK = _Plan(starts=3, handoffs=1, helps=3, idle_s=6, every_command=False)
_FULL = _Plan(starts=15, handoffs=5, helps=15, idle_s=65, every_command=True)


def measure(quick: bool, seed: int) -> dict[str, Any]:
    """Measure everything.

    Args:
        quick: A sample only.
        seed: Of the order in which the contenders take turns.
    """
    plan, order = _QUICK if quick else _FULL, random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="bletoken-bench-") as name:
        folder = Path(name)
        wheel, _ = build(folder / "dist")
        # As on a device: installed, and without what only other parts or the developers need.
        environment = make_environment(folder / "environment", wheel, "peripheral")
        results: dict[str, Any] = {"plan": asdict(plan), "help": _help(environment, plan, order)}
        if (why := missing()) is not None:
            return {**results, "skipped": why}
        return {**results, **asyncio.run(_measure(environment, plan, order, folder))}


# On the air ---------------------------------------------------------------------------------------------------------


async def _measure(environment: Environment, plan: _Plan, order: random.Random, folder: Path) -> dict[str, Any]:
    async with mode_with_tls.running(folder, token_length=_TOKEN_OCTETS) as mode:
        bench = _Bench(environment, folder, mode)
        return {
            "start": await _starts(bench, plan, order),
            "handoff": await _handoffs(bench, plan, order),
            "idle": await _idle(bench, plan),
        }


@dataclass(frozen=True)
class _Device:
    """A device: its configuration, and its label."""

    config: Path
    label: Label


class _Bench:
    """Makes devices, and runs them."""

    def __init__(self, environment: Environment, folder: Path, mode: mode_with_tls.Mode) -> None:
        self.mode = mode
        self._environment = environment
        self._folder = folder
        self._numbers = itertools.count(1)

    def device(self, **settings: object) -> _Device:
        """A new device."""
        path = self._folder / f"device-{next(self._numbers)}"
        path.mkdir()
        content = {"device_class": self.mode.device_class, "state": "state", "mode_url": self.mode.url, **settings}
        config = path / "peripheral.toml"
        config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in content.items()))
        label, state = Label.generate(secrets.token_bytes, with_pin=True), StateFolder(path / "state")
        state.create()
        with state.lock():
            state.write_failures(0)
            state.write_label(label)
        return _Device(config, label)

    @asynccontextmanager
    async def run(self, device: _Device | None, *, advertises: bool = True) -> AsyncIterator[Program]:
        """Run a device while inside; None is the bare server."""
        if device is None:
            command = self._environment.command("python", str(_HERE / "bare_server.py"))
        else:
            words = ("bletoken-peripheral", "run", "--json", "--config", str(device.config))
            command = self._environment.command(*words)
        trust = {"SSL_CERT_FILE": str(self.mode.trust)}
        as_json = device is not None
        async with running(command, self._folder, trust, as_json=as_json, advertises=advertises) as program:
            yield program


async def _starts(bench: _Bench, plan: _Plan, order: random.Random) -> dict[str, Any]:
    """From the start of the process to the first advert; and what is in memory when that is done."""
    samples: dict[str, list[dict[str, float]]] = {"ours": [], "bare": []}
    device = bench.device()
    # The first run of each is not counted: its files are still on the disk.
    for each in range(plan.starts + 1):
        for name in order.sample(list(samples), 2):
            async with bench.run(device if name == "ours" else None) as program:
                if each:
                    samples[name].append({"wall_s": program.start_s, "cpu_s": program.start_cpu_s})
    return {name: _medians(taken) for name, taken in samples.items()}


async def _handoffs(bench: _Bench, plan: _Plan, order: random.Random) -> dict[str, Any]:
    """What one hand-off costs, and what is in memory before and after it."""
    samples: dict[str, list[dict[str, float]]] = {"ours": [], "bare": []}
    for _ in range(plan.handoffs):
        for name in order.sample(list(samples), 2):
            device = bench.device() if name == "ours" else None
            async with bench.run(device) as program:
                await program.settled()
                before, used_s = program.memory, program.cpu_s
                if device is not None:
                    await _hand_off(program, device.label, await bench.mode.token())
                else:
                    await _exchange(program)
                await program.settled()
                after = program.memory
                samples[name].append(
                    {
                        "cpu_s": program.cpu_s - used_s,
                        "resident_before": before.resident,
                        "resident_after": after.resident,
                        "unshared_before": before.unshared,
                        "unshared_after": after.unshared,
                    }
                )
    return {name: _medians(taken) for name, taken in samples.items()}


async def _hand_off(program: Program, label: Label, token: str) -> None:
    """Hand a token over, as a companion does."""
    companion, machine = Companion(program.bluez), CompanionMachine(label.qr, secrets.token_bytes)
    machine.offer_read(await companion.read(HELLO_UUID))
    await companion.subscribe(STATUS_UUID)
    for frame in frames.split(machine.first_message(Provision(token)), frames.frame_size(247)):
        await companion.write(TOKEN_UUID, frame)
    status = None
    while not isinstance(status, Provisioned):
        status = machine.frame_received(await companion.notified(), time.monotonic())
    await program.says("provisioned")
    companion.leave()


async def _exchange(program: Program) -> None:
    """Have the bare server carry a message of the same size."""
    companion = Companion(program.bluez)
    await companion.read(bare_server.READ)
    await companion.subscribe(bare_server.NOTIFIED)
    for frame in frames.split(bytes(_TOKEN_OCTETS + 100), frames.frame_size(247)):
        await companion.write(bare_server.WRITTEN, frame)
    await companion.notified()
    companion.leave()


async def _idle(bench: _Bench, plan: _Plan) -> dict[str, Any]:
    """How often a process wakes up while nothing happens; all at the same time, as they do nothing."""
    waiting, closed = bench.device(), bench.device(announced_window_s=0)
    async with bench.run(closed) as program:
        await _hand_off(program, closed.label, await bench.mode.token())
    async with AsyncExitStack() as stack:
        programs = {
            "bare": await stack.enter_async_context(bench.run(None)),
            "waiting": await stack.enter_async_context(bench.run(waiting)),
            "closed": await stack.enter_async_context(bench.run(closed, advertises=False)),
        }
        await programs["closed"].says("already provisioned")
        for program in programs.values():
            await program.settled()
        began = {name: (program.wakeups, program.pings) for name, program in programs.items()}
        await asyncio.sleep(plan.idle_s)
        return {
            name: {"wakeups": program.wakeups - began[name][0], "pings": program.pings - began[name][1]}
            for name, program in programs.items()
        }


# On the command line ------------------------------------------------------------------------------------------------


def _help(environment: Environment, plan: _Plan, order: random.Random) -> dict[str, Any]:
    """What `--help` takes, of every command."""
    bare = "bare"
    commands = {bare: environment.command("python", str(_HERE / "bare_argparse.py"), "--help")}
    for program, module in _PROGRAMS.items():
        for path in _paths(importlib.import_module(module), []) if plan.every_command else [[]]:
            commands[" ".join([program, *path])] = environment.command(program, *path, "--help")
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for each in range(plan.helps + 1):
        for name in order.sample(list(commands), len(commands)):
            # Others may be running on this machine, so what all are measured against is measured most often.
            for contender in (bare, name) if name != bare else ():
                taken = _run(commands[contender])
                if each:
                    samples[contender].append(taken)
    return {name: _medians(taken) for name, taken in samples.items()}


def _paths(module: Any, path: list[str]) -> Iterator[list[str]]:
    """Every command of a program, as the words that name it."""
    parser = module.parser(path)
    for name in path:
        parser = _subparsers(parser)[name]
    yield path
    for name in _subparsers(parser):
        yield from _paths(module, [*path, name])


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return actions[0].choices if actions else {}


def _run(command: list[str]) -> dict[str, float]:
    began_at = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=clean_environment())
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return {"wall_s": time.monotonic() - began_at, "cpu_s": used.ru_utime + used.ru_stime}


def _medians(samples: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(sample[key] for sample in samples) for key in samples[0]}


# What is told -------------------------------------------------------------------------------------------------------


def section(results: dict[str, Any]) -> str:
    """The report's section on it, as Markdown."""
    raise NotImplementedError


if __name__ == "__main__":
    print(json.dumps(measure("--quick" in sys.argv, 1), indent=1))
