"""What the device's side costs a small device, each figure beside the least there can be, in the same run.

The program is the one that devices run, installed as on a device, on bless and D-Bus; only BlueZ is a fake, which does
nothing and so costs nothing. The least there can be is `bare_server.py` on the same fake, and `bare_argparse.py`.
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
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import bare_server, mode_with_tls
from bench.on_bluez import MTU, Companion, Program, missing, running
from package.environments import Environment, build, clean_environment, make_environment

from bletoken.protocol import frames
from bletoken.protocol.companion import CompanionMachine
from bletoken.protocol.setup_code import Label
from bletoken.protocol.wire import HELLO_UUID, STATUS_UUID, TOKEN_UUID, Provision, Provisioned
from bletoken_peripheral.store import StateFolder

NAME = "small device"

_START_GOAL, _BEFORE_GOAL, _AFTER_GOAL, _HELP_GOAL = 1.25, 1.6, 2.2, 1.3
_PING_S = 30
"""Seconds between two signs of life that systemd is given, as the unit that we ship has it."""

_TOKEN_OCTETS = 200
_HERE = Path(__file__).parent
_PROGRAMS = {
    "bletoken-peripheral": "bletoken_peripheral.cli",
    "bletoken-central": "bletoken_central.cli",
    "bletoken-sim": "bletoken.sim.cli",
}

Sample = dict[str, float]


@dataclass(frozen=True)
class _Plan:
    """How much is measured: repetitions, and seconds of idleness."""

    starts: int
    handoffs: int
    helps: int
    idle_s: int
    every_command: bool


_QUICK = _Plan(starts=2, handoffs=1, helps=2, idle_s=1, every_command=False)
_FULL = _Plan(starts=15, handoffs=5, helps=6, idle_s=65, every_command=True)


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
        results: dict[str, Any] = {"plan": asdict(plan)}
        if (why := missing()) is not None:
            results |= {"skipped": why, "help": _help(environment, plan, order)}
        else:
            results |= asyncio.run(_measure(environment, plan, order, folder))
    return {**results, "goals": _goals(results)}


# On the air ---------------------------------------------------------------------------------------------------------


async def _measure(environment: Environment, plan: _Plan, order: random.Random, folder: Path) -> dict[str, Any]:
    async with mode_with_tls.running(folder, token_length=_TOKEN_OCTETS) as mode:
        bench = _Bench(environment, folder, mode)
        handoff, provisioned = await _handoffs(bench, plan, order)
        start = await _starts(bench, plan, order)
        async with asyncio.TaskGroup() as tasks:
            # Who is idle is not disturbed by others who are not.
            idle = tasks.create_task(_idle(bench, plan, provisioned))
            helped = tasks.create_task(asyncio.to_thread(_help, environment, plan, order))
        return {"start": start, "handoff": handoff, "idle": idle.result(), "help": helped.result()}


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

    def device(self) -> _Device:
        """A new device; once it is provisioned and started anew, it is not on the air."""
        path = self._folder / f"device-{next(self._numbers)}"
        path.mkdir()
        content = {"device_class": self.mode.device_class, "state": "state", "mode_url": self.mode.url}
        content["announced_window_s"] = 0
        config = path / "peripheral.toml"
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in content.items()]
        config.write_text("".join(lines))
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


async def _handoffs(bench: _Bench, plan: _Plan, order: random.Random) -> tuple[dict[str, Any], _Device]:
    """What one hand-off costs, and what is in memory before and after it; and a device that had one."""
    samples: dict[str, list[Sample]] = {"ours": [], "bare": []}
    # The first hand-off is not counted: what Python compiles is kept by it.
    for each in range(plan.handoffs + 1):
        device = bench.device()
        for name in order.sample(list(samples), 2) if each else ("ours",):
            async with bench.run(device if name == "ours" else None) as program:
                await program.settled()
                before, used_s = program.memory, program.cpu_s
                if name == "ours":
                    await _hand_off(program, device.label, await bench.mode.token())
                else:
                    await _exchange(program)
                await program.settled()
                after = program.memory
                if each:
                    samples[name].append(
                        {
                            "cpu_s": program.cpu_s - used_s,
                            "resident_before": before.resident,
                            "resident_after": after.resident,
                            "unshared_before": before.unshared,
                            "unshared_after": after.unshared,
                        }
                    )
    return _compared(samples["ours"], samples["bare"]), device


async def _hand_off(program: Program, label: Label, token: str) -> None:
    """Hand a token over, as a companion does."""
    companion, machine = Companion(program.bluez), CompanionMachine(label.qr, secrets.token_bytes)
    machine.offer_read(await companion.read(HELLO_UUID))
    await companion.subscribe(STATUS_UUID)
    for frame in frames.split(machine.first_message(Provision(token)), frames.frame_size(MTU)):
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
    for frame in frames.split(bytes(_TOKEN_OCTETS + 100), frames.frame_size(MTU)):
        await companion.write(bare_server.WRITTEN, frame)
    await companion.notified()
    companion.leave()


async def _starts(bench: _Bench, plan: _Plan, order: random.Random) -> dict[str, Any]:
    """From the start of the process to the first advert."""
    samples: dict[str, list[Sample]] = {"ours": [], "bare": []}
    device = bench.device()
    for _ in range(plan.starts):
        for name in order.sample(list(samples), 2):
            async with bench.run(device if name == "ours" else None) as program:
                samples[name].append({"wall_s": program.start_s, "cpu_s": program.start_cpu_s})
    return _compared(samples["ours"], samples["bare"])


async def _idle(bench: _Bench, plan: _Plan, provisioned: _Device) -> dict[str, Any]:
    """How often a process wakes up while nothing happens; all at the same time, as they do nothing."""
    async with AsyncExitStack() as stack:
        programs = {
            "bare": await stack.enter_async_context(bench.run(None)),
            "waiting": await stack.enter_async_context(bench.run(bench.device())),
            "closed": await stack.enter_async_context(bench.run(provisioned, advertises=False)),
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
    """What `--help` takes, of every command; the bare program takes its turn right before each of them."""
    bare = environment.command("python", str(_HERE / "bare_argparse.py"), "--help")
    commands = {
        " ".join([program, *path]): environment.command(program, *path, "--help")
        for program, module in _PROGRAMS.items()
        for path in (_paths(importlib.import_module(module), []) if plan.every_command else [[]])
    }
    samples: dict[str, tuple[list[Sample], list[Sample]]] = {name: ([], []) for name in commands}
    for each in range(plan.helps + 1):
        for name in order.sample(list(commands), len(commands)):
            taken = _run(bare), _run(commands[name])
            # The first round is not counted, as above.
            if each:
                samples[name][1].append(taken[0])
                samples[name][0].append(taken[1])
    return {name: _compared(*taken) for name, taken in samples.items()}


def _paths(cli: Any, path: list[str]) -> Iterator[list[str]]:
    """Every command of a program, as the words that name it."""
    parser = cli.parser(path)
    for name in path:
        parser = _below(parser)[name]
    yield path
    for name in _below(parser):
        yield from _paths(cli, [*path, name])


def _below(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return actions[0].choices if actions else {}


def _run(command: list[str]) -> Sample:
    began_at = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=clean_environment())
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return {"wall_s": time.monotonic() - began_at, "cpu_s": used.ru_utime + used.ru_stime}


# What comes of it ---------------------------------------------------------------------------------------------------


def _compared(ours: list[Sample], bare: list[Sample]) -> dict[str, Any]:
    """The medians of each figure, and the median of the ratios of those that were measured side by side."""
    return {
        key: {
            "ours": statistics.median(sample[key] for sample in ours),
            "bare": statistics.median(sample[key] for sample in bare),
            "ratio": statistics.median(a[key] / b[key] for a, b in zip(ours, bare, strict=True)),
        }
        for key in ours[0]
    }


def _goals(results: dict[str, Any]) -> list[dict[str, Any]]:
    """What we want, and what is. CPU time decides and not the clock, because others may run on the same machine."""
    worst = max(results["help"], key=lambda name: results["help"][name]["cpu_s"]["ratio"])
    found = [(f"--help of any command (most: {worst})", results["help"][worst]["cpu_s"]["ratio"], _HELP_GOAL)]
    if "skipped" not in results:
        idle = results["idle"]
        found += [
            ("process start to first advert", results["start"]["cpu_s"]["ratio"], _START_GOAL),
            ("resident memory before redemption", results["handoff"]["resident_before"]["ratio"], _BEFORE_GOAL),
            ("resident memory after redemption", results["handoff"]["resident_after"]["ratio"], _AFTER_GOAL),
            *(
                (f"idle wake-ups that are no sign of life, {state}", idle[name]["wakeups"] - idle[name]["pings"], 0)
                for name, state in (("waiting", "advertising"), ("closed", "provisioned, not advertising"))
            ),
        ]
    return [{"what": what, "is": is_, "at_most": most, "met": is_ <= most} for what, is_, most in found]


def section(results: dict[str, Any]) -> str:
    """The report's section on it, as Markdown."""
    parts = ["## A small device", _METHOD, _table(("Goal", "at most", "is", "met"), map(_goal_row, results["goals"]))]
    if "skipped" in results:
        parts.append(f"The device itself was not measured: {results['skipped']}.")
    else:
        parts += [_device_table(results), _idle_text(results)]
    parts.append(_help_text(results["help"]))
    return "\n\n".join(parts) + "\n"


_METHOD = f"""\
What the device's side costs the machine it runs on, beside the least there can be: a server on bless as it is, with one
service and three characteristics like ours, that reads, writes and notifies as much and does nothing else. Both are
installed with the extra `peripheral` alone, and each has a BlueZ for itself that is a fake on a bus of its own, so that
the radio costs neither anything. A scripted companion hands our program a token of {_TOKEN_OCTETS} octets at an ATT MTU
of {MTU}; the program redeems it with the local MODE over TLS, with the trust store that a device has. Figures are
medians, ratios medians of the ratios of runs side by side. CPU time decides, because it says the same on a machine
where others run. Not covered: a real BlueZ, a real radio, a disk that is slow."""


def _goal_row(goal: dict[str, Any]) -> tuple[str, ...]:
    digits = 0 if goal["at_most"] == 0 else 2
    return goal["what"], f"{goal['at_most']:g}", f"{goal['is']:.{digits}f}", "yes" if goal["met"] else "**no**"


def _device_table(results: dict[str, Any]) -> str:
    start, handoff = results["start"], results["handoff"]
    rows: list[tuple[str, dict[str, float], Callable[[float], str]]] = [
        ("process start to first advert, CPU time", start["cpu_s"], _ms),
        ("process start to first advert, by the clock", start["wall_s"], _ms),
        ("one hand-off, CPU time", handoff["cpu_s"], _ms),
        ("resident before redemption", handoff["resident_before"], _mib),
        ("resident after redemption", handoff["resident_after"], _mib),
        ("of that unshared, before", handoff["unshared_before"], _mib),
        ("of that unshared, after", handoff["unshared_after"], _mib),
    ]
    cells = ((what, shown(of["ours"]), shown(of["bare"]), f"{of['ratio']:.2f}") for what, of, shown in rows)
    return _table(("", "ours", "bare", "ratio"), cells)


def _idle_text(results: dict[str, Any]) -> str:
    rows = (
        (state, str(of["wakeups"]), str(of["pings"]))
        for state, of in (
            ("ours, advertising and waiting", results["idle"]["waiting"]),
            ("ours, provisioned and not advertising", results["idle"]["closed"]),
            ("bare, advertising", results["idle"]["bare"]),
        )
    )
    seconds = results["plan"]["idle_s"]
    table = _table((f"idle for {seconds} s", "wake-ups", "of which signs of life"), rows)
    return f"{table}\n\nsystemd wants a sign of life every {_PING_S} s; the bare server gives none."


def _help_text(helped: dict[str, Any]) -> str:
    ratios = sorted((of["cpu_s"]["ratio"], name) for name, of in helped.items())
    rows = (
        (name, _ms(of["cpu_s"]["ours"]), _ms(of["cpu_s"]["bare"]), f"{of['cpu_s']['ratio']:.2f}", _wall(of))
        for name, of in helped.items()
        if name in _PROGRAMS or name in {ratios[0][1], ratios[-1][1]}
    )
    table = _table(("--help", "ours", "bare", "ratio", "ratio by the clock"), rows)
    middle = statistics.median(ratio for ratio, _ in ratios)
    return (
        f"`--help`, CPU time, of {len(helped)} commands (median ratio {middle:.2f}); the least and the most:\n\n{table}"
    )


def _wall(of: dict[str, Any]) -> str:
    return f"{of['wall_s']['ratio']:.2f}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _mib(octets: float) -> str:
    return f"{octets / 2**20:.1f} MiB"


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    measured = measure("--quick" in sys.argv, 1)
    print(json.dumps(measured, indent=1) if "--json" in sys.argv else section(measured))
