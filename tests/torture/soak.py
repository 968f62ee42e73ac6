"""Thousands of hand-offs through one companion and one device process: what they use must not grow.

Each kind begins anew without a new process, by the way that a person has for it: a token that comes to nothing leaves
the device ready for another; a claimed device that was removed from its home is claimed again, once its window is
open; one that got its key by token is reset.
"""

import asyncio
import ctypes
import functools
import gc
import os
import statistics
import sys
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from handoff.bench import Bench, Device, InProcess, open_bench
from torture.plan import Plan
from torture.report import Result, Trial
from torture.workers import HANG_S, Case, Workers

from bletoken.errors import DeviceCloudError, OutcomeUnknownError, TokenRefusedError
from bletoken.sim.cloud.faults import ErrorAnswer, Fault
from bletoken_central.onboarding import Companion
from bletoken_central.provisioning import Onboarded
from bletoken_peripheral.store import CONTROL_SOCKET

NAME = "soak"
DEFENCES = ("hanging-up", "forgetting")

ROUNDS = {"tokens": 1_429, "claims": 1_000, "resets": 1_000}
"""How often each kind goes round; the first makes 10,003 hand-offs."""

QUICK_ROUNDS = {"tokens": 50, "claims": 100, "resets": 100}
"""In the first half of these, all memory is taken that is taken once and kept."""
SAMPLES = 25

SETTLE_S = 2
"""Seconds after a hand-off in which everything that still ends by itself does so."""


@dataclass(frozen=True)
class Measure:
    """Something that this process uses.

    Attributes:
        name: What is counted.
        count: How much of it there is now.
        most: How much more of it each hand-off may leave, by a straight line through the second half of them all.
        slack: How much more there may be in the end, however few hand-offs there were.
    """

    name: str
    count: Callable[[], int]
    most: float = 0.0
    slack: float = 0.5

    def growth(self, hand_offs: "array[float]", counts: "array[float]") -> float:
        """By how much it grew in the second half."""
        half = len(counts) // 2
        return statistics.linear_regression(hand_offs[half:], counts[half:]).slope * (hand_offs[-1] - hand_offs[half])

    def may_grow(self, hand_offs: float) -> float:
        """By how much it may grow with so many hand-offs."""
        return self.most * hand_offs + self.slack


def _in_ram() -> int:
    # What the C library keeps for later is no leak, so it gives that back first.
    if hasattr(_c_library, "malloc_trim"):
        _c_library.malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _of_process(what: str) -> Callable[[], int]:
    return lambda: sum(1 for _ in Path("/proc/self", what).iterdir())


_c_library = ctypes.CDLL(None)

MEASURES = (
    # Python takes memory from the system a mebibyte at a time.
    Measure("octets in RAM", _in_ram, most=100, slack=1.5 * 2**20),
    Measure("pieces of memory", sys.getallocatedblocks, most=0.1, slack=200),
    Measure("descriptors", _of_process("fd")),
    Measure("threads", _of_process("task")),
    Measure("tasks", lambda: len(asyncio.all_tasks())),
)


async def trials(plan: Plan) -> AsyncIterator[Trial]:
    """Each kind of beginning anew, for as long as it takes."""
    cases = []
    for kind, rounds in (QUICK_ROUNDS if plan.quick else ROUNDS).items():
        hand_offs = rounds * KINDS[kind].hand_offs
        name = f"{hand_offs:,} hand-offs, {kind}"
        cases.append(Case(name, soaked, (kind, rounds), plan.seed, hang_s=hand_offs * HANG_S))
    async with Workers.started(plan) as workers:
        async for trial in workers.trials(cases):
            yield trial


async def soaked(path: Path, fault: str, name: str, rounds: int) -> Trial:
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
        kind = KINDS[name]
        device = await bench.pre_provisioned() if kind is Claims else bench.device()
        await device.start()
        # Arrays, because they do not make an object of each number.
        hand_offs, counts = array("d"), [array("d") for _ in MEASURES]
        for number in range(1, rounds + 1):
            await kind.go_round(bench, device, companion)
            device.steps.clear()
            if number % (rounds // SAMPLES) == 0:
                await asyncio.sleep(SETTLE_S)
                _forget(bench)
                hand_offs.append(number * kind.hand_offs)
                for measure, so_far in zip(MEASURES, counts, strict=True):
                    so_far.append(measure.count())
    return _verdict(fault, hand_offs, counts)


def _forget(bench: Bench) -> None:
    """Empty what fills up to a bound and no further; otherwise the filling would look like a leak."""
    bench.mode.log.clear()
    # Its cache of what is on disk.
    bench.mode.store._db.execute("PRAGMA shrink_memory")
    bench.hub.link.connections.clear()
    for cache in _bounded_caches():
        cache.cache_clear()
    gc.collect()


@functools.cache
def _bounded_caches() -> "list[functools._lru_cache_wrapper[Any]]":
    # Looked for once, after the first hand-offs: by then everything is imported, and looking takes a while.
    caches = [thing for thing in gc.get_objects() if isinstance(thing, functools._lru_cache_wrapper)]
    return [cache for cache in caches if cache.cache_parameters()["maxsize"] is not None]


def _verdict(fault: str, hand_offs: "array[float]", counts: "list[array[float]]") -> Trial:
    said, grown = [], []
    for measure, so_far in zip(MEASURES, counts, strict=True):
        growth = measure.growth(hand_offs, so_far)
        text = f"{so_far[-1]:,.0f} {measure.name} ({growth:+,.0f})"
        said.append(text)
        if growth > measure.may_grow(hand_offs[-1] / 2):
            grown.append(text)
    if grown:
        return Trial(fault, Result.LOST, f"grew in the second half: {', '.join(grown)}")
    return Trial(fault, Result.SURVIVED, f"at the end, and more than halfway through: {', '.join(said)}")


# How to begin anew --------------------------------------------------------------------------------------------------


class Kind(Protocol):
    """One way."""

    hand_offs: int
    """How many a round has."""

    @staticmethod
    async def go_round(bench: Bench, device: Device, companion: Companion) -> None: ...


class Tokens:
    """Tokens that come to nothing, for each reason that leaves the device ready for another."""

    ENDINGS = (
        (Fault(error=ErrorAnswer(status=403, reason="INVALID_TOKEN")), TokenRefusedError),
        (Fault(error=ErrorAnswer(status=400, body="<html>")), TokenRefusedError),
        (Fault(error=ErrorAnswer(status=429, retry_after="900")), DeviceCloudError),
        (Fault(error=ErrorAnswer(status=503, retry_after="900")), DeviceCloudError),
        # Tried twice more, and each time a device is removed whose key nobody has.
        (Fault(drop="after"), OutcomeUnknownError),
    )
    hand_offs = 7

    @staticmethod
    async def go_round(bench: Bench, device: Device, companion: Companion) -> None:
        for fault, error in Tokens.ENDINGS:
            bench.mode.faults.arm("POST /devices", fault)
            with suppress(error):
                await _provision(bench, device, companion)
                raise AssertionError("the device was provisioned")
        await _open_window(device)


class Claims:
    """A claim, and the owner removes the device from the home again."""

    hand_offs = 1

    @staticmethod
    async def go_round(bench: Bench, device: Device, companion: Companion) -> None:
        claimed = await companion.claim(device.label.qr, home_id=bench.seed["homeId"])
        await _remove(bench, claimed.device_id)
        await _open_window(device)
        await device.saw("in no home any more")


class Resets:
    """A device that gets its key, is removed from the home, and reset."""

    hand_offs = 1

    @staticmethod
    async def go_round(bench: Bench, device: Device, companion: Companion) -> None:
        done = await _provision(bench, device, companion)
        await _remove(bench, done.device_id)
        await device.stop()
        device.folder.erase_onboarding()
        await device.start()


KINDS: dict[str, type[Kind]] = {"tokens": Tokens, "claims": Claims, "resets": Resets}


async def _provision(bench: Bench, device: Device, companion: Companion) -> Onboarded:
    return await companion.provision(
        device.label.qr, home_id=bench.seed["homeId"], device_class=bench.seed["deviceClass"]
    )


async def _remove(bench: Bench, device_id: int) -> None:
    (await bench.ask_mode("DELETE", f"/devices/{device_id}", bench.seed["userKey"])).raise_for_status()


async def _open_window(device: Device) -> None:
    """What `bletoken-peripheral open` asks of a running device."""
    reader, writer = await asyncio.open_unix_connection(device.folder.path / CONTROL_SOCKET)
    writer.write(b"open\n")
    answer = await reader.read()
    assert b'"ok": true' in answer, answer
    writer.close()
    await writer.wait_closed()
