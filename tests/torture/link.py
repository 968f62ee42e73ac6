"""The link breaks: after every single packet of both mechanisms, and at random in bad weather, a thousand times.

One `provision` (or `claim`) call has to come through, whatever packet was the last.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from handoff.bench import Bench, Device, InProcess, Outcome, Processes, Programs, open_bench, until
from torture.plan import Plan
from torture.report import Result, Trial
from torture.verdict import judge
from torture.workers import Case, Workers

from bletoken.sim.air.link import LinkModel

NAME = "link"
DEFENCES = ("retry", "same-answer")

MECHANISMS = ("token", "claim")
MTUS = (247, 23)
"""What most companions offer, and the smallest there is."""

HAND_OFFS = 1000
IN_PROCESSES = 50
QUICK_DROPS = 3
QUICK_HAND_OFFS = 60
QUICK_IN_PROCESSES = 2

PATIENCE_S = 600
"""Real seconds after which a hand-off between programs hangs, on a machine that may be busy."""

LEAST_SHARE = 0.995
"""Of the hand-offs in bad weather that must succeed within one call."""

PACKETS = {23: 65, 185: 25, 247: 23, 517: 23}
"""How many L2CAP packets a token's hand-off takes that nothing happens to, by the MTU."""

MOST_PACKETS = 1000
"""More than any hand-off takes."""

WEATHER = {"drop_share": 0.1, "advertising_loss": 0.3, "jitter_s": 0.03}


async def trials(plan: Plan) -> AsyncIterator[Trial]:
    """Every packet's loss, then hand-offs in bad weather, then the same with programs."""
    async with Workers.started(plan) as workers:
        chance = random.Random(plan.seed)
        cases = []
        for mechanism in MECHANISMS:
            for mtu in MTUS:
                name = f"{mechanism}, MTU {mtu}: broken after packet"
                if not any(plan.wants(f"{name} {number}") for number in range(MOST_PACKETS)):
                    continue
                packets = range(await workers.call(calm, plan.folder, mechanism, mtu) + 1)
                after = sorted(chance.sample(packets, QUICK_DROPS)) if plan.quick else packets
                cases += [Case(f"{name} {number}", broken, (mechanism, mtu, number)) for number in after]
        async for trial in workers.trials(cases):
            yield trial
        succeeded = []
        hand_offs = [
            Case(f"hand-off {number}", in_bad_weather, (seed := _seed(plan, number),), seed)
            for number in range(QUICK_HAND_OFFS if plan.quick else HAND_OFFS)
        ]
        async for trial in workers.trials(hand_offs):
            succeeded.append(trial.result is Result.SURVIVED and trial.elapsed_s is not None)
            yield trial
        if succeeded:
            yield _rate("in one process", succeeded)
    if plan.without is None:
        succeeded = []
        async for trial in across_processes(plan):
            succeeded.append(trial.result is Result.SURVIVED and trial.elapsed_s is not None)
            # Real seconds, on a machine that does other things as well: they are not like the others.
            yield replace(trial, elapsed_s=None)
        if succeeded:
            yield _rate("across processes", succeeded)


def _seed(plan: Plan, number: int) -> int:
    # Of its own for each, so that one can be tried alone again.
    return random.Random(f"{plan.seed}, {number}").getrandbits(32)


def _rate(where: str, succeeded: list[bool]) -> Trial:
    share = sum(succeeded) / len(succeeded)
    said = f"{sum(succeeded)} of {len(succeeded)} succeeded within one call ({share:.1%})"
    return Trial(f"hand-offs {where}", Result.SURVIVED if share >= LEAST_SHARE else Result.LOST, said)


# Each in a world of its own -----------------------------------------------------------------------------------------


def calm(folder: Path, mechanism: str, mtu: int) -> int:
    """How many packets a hand-off takes that nothing happens to."""
    packets = []

    async def world(path: Path, fault: str) -> Trial:
        async with open_bench(InProcess(), path) as bench:
            outcome = await _hand_off(bench, await _started(bench, mechanism), mechanism, mtu)
            packets.append(bench.hub.link.connections[-1].pdus)
        return Trial(fault, Result.SURVIVED if outcome.exit_code == 0 else Result.LOST, outcome.message)

    trial = Case("calm", world).run(folder)
    assert trial.result is Result.SURVIVED, trial
    return packets[0]


async def broken(path: Path, fault: str, mechanism: str, mtu: int, after: int) -> Trial:
    """The first connection breaks after so many packets, whichever way they went; the next one holds."""
    async with open_bench(InProcess(), path, link=LinkModel(drop_after=after)) as bench:
        device = await _started(bench, mechanism)
        handing = asyncio.create_task(_hand_off(bench, device, mechanism, mtu))
        connections = bench.hub.link.connections
        await until(lambda: connections and connections[0].is_broken)
        bench.hub.set_link(drop_after=None)
        outcome = await handing
        return replace(await _verdict(fault, bench, device, outcome), elapsed_s=None)


async def in_bad_weather(path: Path, fault: str, seed: int, programs: Programs | None = None) -> Trial:
    """A token handed over while adverts get lost, packets are late and connections break."""
    mtu = random.Random(seed).choice(tuple(PACKETS))
    # Whichever packet of the hand-off may be the one that does not arrive.
    weather = LinkModel(seed=seed, drop_within=PACKETS[mtu], **WEATHER)
    async with open_bench(programs or InProcess(), path, link=weather) as bench:
        device = await _started(bench, "token")
        return await _verdict(fault, bench, device, await _hand_off(bench, device, "token", mtu), must_succeed=False)


async def _started(bench: Bench, mechanism: str) -> Device:
    device = bench.device() if mechanism == "token" else await bench.pre_provisioned()
    await device.start()
    return device


async def _hand_off(bench: Bench, device: Device, mechanism: str, mtu: int) -> Outcome:
    ask: Any = bench.provision if mechanism == "token" else bench.claim
    outcome: Outcome = await ask(device.label.qr, mtu=mtu)
    return outcome


async def _verdict(fault: str, bench: Bench, device: Device, outcome: Outcome, *, must_succeed: bool = True) -> Trial:
    if must_succeed and outcome.exit_code != 0:
        return Trial(fault, Result.LOST, f"exit code {outcome.exit_code}: {outcome.message}")
    if bench.redemptions != [201] and outcome.exit_code == 0:
        # One device, and of the first token: MODE was never away.
        return Trial(fault, Result.DOUBLED, f"redemptions: {bench.redemptions}")
    return await judge(fault, bench, device, outcome, may_fail=not must_succeed)


# With programs ------------------------------------------------------------------------------------------------------


async def across_processes(plan: Plan) -> AsyncIterator[Trial]:
    """Hand-offs in the same weather and in real time, between the programs that people run; two at once."""
    wanted = [
        (f"programs {number}", _seed(plan, number))
        for number in range(QUICK_IN_PROCESSES if plan.quick else IN_PROCESSES)
    ]
    slots = asyncio.Semaphore(2)

    async def one(fault: str, seed: int) -> Trial:
        path = plan.folder / fault.replace(" ", "-")
        path.mkdir()
        try:
            async with slots, asyncio.timeout(PATIENCE_S):
                return await in_bad_weather(path, fault, seed, Processes())
        except TimeoutError:
            return Trial(fault, Result.HUNG, "a program came to no end")

    tasks = [asyncio.create_task(one(fault, seed)) for fault, seed in wanted if plan.wants(fault)]
    try:
        for task in tasks:
            yield await task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
