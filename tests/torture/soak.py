"""Thousands of hand-offs through one companion and one device process: what they use must not grow.

Each kind begins anew without a new process, by the way that a person has for it: a token that comes to nothing makes the
device ready for another; a claimed device that was removed from its home is claimed again once its window is opened; and
one that got its key by token is reset.
"""

import asyncio
import gc
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handoff.bench import Bench, Device, InProcess, open_bench
from torture.plan import Plan
from torture.report import Result, Trial
from torture.verdict import judge
from torture.workers import Case, Workers

from bletoken.errors import DeviceCloudError, OutcomeUnknownError, TokenRefusedError
from bletoken.sim.cloud.faults import ErrorAnswer, Fault
from bletoken_central.onboarding import Companion
from bletoken_peripheral.store import CONTROL_SOCKET

NAME = "soak"
DEFENCES = ("forgetting",)

HAND_OFFS = {"tokens": 10_000, "claims": 1_000, "resets": 1_000}
QUICK_HAND_OFFS = {"tokens": 120, "claims": 60, "resets": 60}
SAMPLES = 40

SETTLE_S = 5
"""Seconds after a hand-off in which everything that still ends by itself does so."""


@dataclass(frozen=True)
class Usage:
    """What this process uses.

    Attributes:
        memory: Octets in RAM.
        blocks: Pieces of memory that Python has given to objects.
        descriptors: Open files and sockets.
        tasks: Of the event loop.
        threads: Of the process.
    """

    memory: float
    blocks: float
    descriptors: float
    tasks: float
    threads: float

    @classmethod
    def now(cls) -> "Usage":
        gc.collect()
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        descriptors, threads = (len(os.listdir(f"/proc/self/{name}")) for name in ("fd", "task"))
        return cls(resident, sys.getallocatedblocks(), descriptors, len(asyncio.all_tasks()), threads)


async def trials(plan: Plan) -> AsyncIterator[Trial]:
    """Each kind of beginning anew, for as long as it takes."""
    counts = QUICK_HAND_OFFS if plan.quick else HAND_OFFS
    cases = [Case(f"{count} {kind}", soaked, (kind, count), plan.seed) for kind, count in counts.items()]
    async with Workers.started(plan) as workers:
        async for trial in workers.trials(cases):
            yield trial


async def soaked(path: Path, fault: str, kind: str, count: int) -> Trial:
    """Hand over again and again, and look at what is used."""
    async with (
        # On disk: what MODE remembers grows, as it should.
        open_bench(InProcess(), path, db=path / "mode.db") as bench,
        Companion(
            bench.companion_radio,
            session_key=bench.seed["userKey"],
            mode_url=bench.mode.url,
            notes=path / "notes",
        ) as companion,
    ):
        device = await bench.pre_provisioned() if kind == "claims" else bench.device()
        await device.start()
        usages = []
        for number in range(count):
            await KINDS[kind](bench, device, companion, number)
            if (number + 1) % max(1, count // SAMPLES) == 0:
                await asyncio.sleep(SETTLE_S)
                bench.mode.log.clear()
                bench.hub.link.connections.clear()
                usages.append((number + 1, Usage.now()))
                print(usages[-1], file=sys.stderr)
    return Trial(fault, Result.SURVIVED)


# How to begin anew --------------------------------------------------------------------------------------------------


async def with_tokens(bench: Bench, device: Device, companion: Companion, number: int) -> None:
    """A token that comes to nothing, by turns for every reason that leaves the device ready for another."""
    endings = [
        (Fault(error=ErrorAnswer(status=403, reason="INVALID_TOKEN")), TokenRefusedError),
        (Fault(error=ErrorAnswer(status=429, retry_after="900")), DeviceCloudError),
        (Fault(drop="after"), OutcomeUnknownError),
    ]
    fault, error = endings[number % len(endings)]
    bench.mode.faults.arm("POST /devices", fault)
    with suppress(error):
        await companion.provision(device.label.qr, home_id=bench.seed["homeId"], device_class=bench.seed["deviceClass"])
        raise AssertionError("the device was provisioned")
    await _open_window(device)


async def with_claims(bench: Bench, device: Device, companion: Companion, number: int) -> None:
    """A claim, and the owner removes the device from the home again."""
    claimed = await companion.claim(device.label.qr, home_id=bench.seed["homeId"])
    await _removed(bench, claimed.device_id)
    await _open_window(device)
    await device.saw("in no home any more")
    device.steps.clear()


async def with_resets(bench: Bench, device: Device, companion: Companion, number: int) -> None:
    """A device that gets its key, and is removed and reset."""
    done = await companion.provision(
        device.label.qr, home_id=bench.seed["homeId"], device_class=bench.seed["deviceClass"]
    )
    await _removed(bench, done.device_id)
    await device.stop()
    device.folder.erase_onboarding()
    await device.start()


KINDS = {"tokens": with_tokens, "claims": with_claims, "resets": with_resets}


async def _removed(bench: Bench, device_id: int) -> None:
    (await bench.ask_mode("DELETE", f"/devices/{device_id}", bench.seed["userKey"])).raise_for_status()


async def _open_window(device: Device) -> None:
    """What `bletoken-peripheral open` asks of a running device."""
    reader, writer = await asyncio.open_unix_connection(device.folder.path / CONTROL_SOCKET)
    writer.write(b"open\n")
    answer = await reader.read()
    assert b'"ok": true' in answer, answer
    writer.close()
    await writer.wait_closed()
