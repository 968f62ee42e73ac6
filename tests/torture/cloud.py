"""MODE fails in every way there is, and the device decides what DESIGN says: a table of troubles and their ends.

Each trouble meets a real device that a real companion has just given a token. Then the trouble ends, and the owner has
to come to exactly one device in the home whose key works.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from handoff.bench import Bench, Device, InProcess, Outcome, open_bench
from torture.hostile import Arrange, Place, failing
from torture.plan import Plan
from torture.report import Result, Trial
from torture.workers import Case, Workers

from bletoken.sim.cloud.faults import Fault
from bletoken_peripheral.redemption import Phase

NAME = "cloud"
DEFENCES = ("time-out", "sent-once", "recovery", "patience")

RETRY_S = 20
"""Seconds for which these devices try to reach MODE with one token, unless a row says otherwise."""

SETTLE_S = 0.001
"""What breaks here is TCP and TLS, so the connections go through the kernel."""


class Decision(Enum):
    """What section 4 of DESIGN has the device decide, and how the companion shows it.

    The phase of the journal, the exit code, and words of the message. In none of these phases there is a token.
    """

    STORED = (Phase.ANNOUNCED, 0, "")
    KEY_REFUSED = (Phase.STORED, 21, "MODE does not accept the device's key")
    REFUSED = (Phase.FAILED, 6, "MODE refused the provisioning token")
    EXPIRED = (Phase.FAILED, 6, "the provisioning token expired before MODE could be reached")
    PUT_OFF = (Phase.FAILED, 16, "asked it to come back later")
    UNREACHABLE = (Phase.FAILED, 7, "the device cannot reach MODE")
    CLOCK_WRONG = (Phase.FAILED, 18, "the device's clock is wrong")
    UNKNOWN = (Phase.OUTCOME_UNKNOWN, 8, "the device got no usable answer from MODE")


class Problem(Exception):  # noqa: N818 it is a finding, and no error of the harness
    """Something is not as the table says."""

    def __init__(self, result: Result, what: str) -> None:
        super().__init__(what)
        self.result = result


class Row(Protocol):
    """One row of the table."""

    kind: str
    """What it is like; a quick run tries one of each kind."""

    name: str

    async def try_on(self, bench: Bench) -> None:
        """Try it; raises `Problem`."""

    @property
    def settings(self) -> dict[str, Any]:
        """Of the local MODE."""


async def trials(plan: Plan) -> AsyncIterator[Trial]:
    """Every row of the table."""
    from torture.troubles import ROWS

    chance = random.Random(plan.seed)
    kinds: dict[str, list[str]] = {}
    for fault, row in ROWS.items():
        kinds.setdefault(row.kind, []).append(fault)
    chosen = [chance.choice(faults) for faults in kinds.values()] if plan.quick and not plan.only else list(ROWS)
    cases = [Case(fault, tried, seed=plan.seed, settle_s=SETTLE_S) for fault in chosen]
    async with Workers.started(plan) as workers:
        async for trial in workers.trials(cases):
            yield trial


async def tried(path: Path, fault: str) -> Trial:
    """Try one row."""
    from torture.troubles import ROWS

    row = ROWS[fault]
    async with open_bench(InProcess(), path, **row.settings) as bench:
        try:
            await row.try_on(bench)
        except Problem as problem:
            return Trial(fault, problem.result, str(problem))
    return Trial(fault, Result.SURVIVED)


# The kinds of rows --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decided:
    """A token is pushed while the trouble lasts; what the device decides is shown as it is.

    Attributes:
        arrange: Brings the trouble about while the context lasts.
        decision: What must come of it.
        posts: How many times the token may reach a MODE: exactly.
        made: Whether MODE makes a device all the same, whose key nobody gets.
        least_s: Seconds that it takes at least: as long as MODE asked for.
        retry_s: See `RETRY_S`.
        settings: Of the local MODE.
    """

    kind: str
    name: str
    arrange: Arrange
    decision: Decision
    posts: int = 1
    made: bool = False
    least_s: float = 0.0
    retry_s: int = RETRY_S
    settings: dict[str, Any] = field(default_factory=dict)

    async def try_on(self, bench: Bench) -> None:
        async with self.arrange(bench) as place:
            device = bench.device(retry_s=self.retry_s, **place.settings)
            await device.start()
            token = await bench.token()
            outcome = await bench.push(device.label.qr, token)
            # What MODE kept waiting goes on now; nobody waits for it any more.
            bench.mode.faults.clear()
            bench.mode.faults.release()
            if self.decision is Decision.STORED and outcome.exit_code == 0:
                await device.saw("provisioned")
            await asyncio.sleep(1)
            self._check(device, token, outcome, place)
            if place.is_mode:
                await self._check_home(bench, device)
                await self._heal(bench, device, place)

    def _check(self, device: Device, token: str, outcome: Outcome, place: Place) -> None:
        phase, exit_code, words = self.decision.value
        if place.posts() > self.posts:
            raise Problem(Result.DOUBLED, f"the token was sent {place.posts()} times, not {self.posts}")
        if outcome.exit_code != exit_code or words not in outcome.message:
            raise Problem(Result.LOST, f"exit code {outcome.exit_code} ({outcome.message}), not {exit_code} ({words})")
        journal, credentials = device.journal, device.credentials
        if journal is None or journal.phase is not phase:
            raise Problem(Result.LOST, f"the journal is {journal}, not {phase}")
        if (credentials is not None) != (phase in (Phase.STORED, Phase.ANNOUNCED)):
            raise Problem(Result.LOST, f"in phase {phase} there are the credentials {credentials}")
        if exit_code == 0 and (credentials is None or credentials.device_id != outcome.device_id):
            raise Problem(Result.LOST, f"the companion was told of device {outcome.device_id}, not {credentials}")
        files = [path for path in device.folder.path.iterdir() if path.is_file()]
        if left := [path.name for path in files if token in path.read_text()]:
            raise Problem(Result.LOST, f"the token is still in {left}")
        if place.posts() != self.posts:
            raise Problem(Result.LOST, f"the token was sent {place.posts()} times, not {self.posts}")
        if exit_code == 0 and outcome.result["elapsed_s"]["total"] < self.least_s:
            raise Problem(Result.LOST, f"it took {outcome.result['elapsed_s']['total']} s, not {self.least_s}")

    async def _check_home(self, bench: Bench, device: Device) -> None:
        in_home, credentials = await bench.devices_in_home(), device.credentials
        if len(in_home) != int(self.made or credentials is not None):
            raise Problem(Result.LOST, f"in the home: {in_home}")
        if credentials is not None and (in_home != [credentials.device_id] or not await bench.accepts(credentials)):
            raise Problem(Result.LOST, f"in the home: {in_home}, not {credentials}, or its key is not accepted")

    async def _heal(self, bench: Bench, device: Device, place: Place) -> None:
        """Somebody puts right what was wrong, and hands over a token again if the device has no key that works."""
        if self.decision is Decision.STORED:
            return
        before = set(await bench.devices_in_home())
        if place.healed or self.decision is Decision.KEY_REFUSED:
            await device.stop()
            if self.decision is Decision.KEY_REFUSED:
                device.folder.erase_onboarding()
            configure(device, place.healed)
            await device.start()
        await provisioned(bench, device, besides=before)


@dataclass(frozen=True)
class Provisioned:
    """`provision` while MODE has a fault: one call has to come to a device where that is possible, and else to none.

    Attributes:
        fault: What is wrong when a token is redeemed.
        exit_code: What the call ends with.
        posts: How many times tokens are redeemed.
        words: Of the message.
        also: What else is wrong.
        settings: Of the local MODE.
    """

    kind: str
    name: str
    fault: Fault
    exit_code: int
    posts: int
    words: str = ""
    also: dict[str, list[Fault]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    async def try_on(self, bench: Bench) -> None:
        device = bench.device(retry_s=RETRY_S)
        await device.start()
        async with failing(redeem=[self.fault], **self.also)(bench):
            outcome = await bench.provision(device.label.qr)
        bench.mode.faults.clear()
        in_home = await bench.devices_in_home()
        if len(in_home) > 1 or len(bench.redemptions) > self.posts:
            raise Problem(Result.DOUBLED, f"in the home: {in_home}, redemptions: {bench.redemptions}")
        if outcome.exit_code != self.exit_code or self.words not in outcome.message:
            raise Problem(Result.LOST, f"exit code {outcome.exit_code} ({outcome.message}), not {self.exit_code}")
        if len(bench.redemptions) != self.posts:
            raise Problem(Result.LOST, f"redemptions: {bench.redemptions}")
        if outcome.exit_code == 0:
            await check_provisioned(bench, device, outcome, set())
        elif in_home:
            raise Problem(Result.LOST, f"in the home: {in_home}")
        else:
            await provisioned(bench, device)


@dataclass(frozen=True)
class Claimed:
    """`claim` while something is wrong with MODE: it has to come to a claimed device, or to none.

    Attributes:
        faults: What is wrong.
        exit_code: What the call ends with.
    """

    kind: str
    name: str
    faults: dict[str, list[Fault]]
    exit_code: int = 0
    settings: dict[str, Any] = field(default_factory=dict)

    async def try_on(self, bench: Bench) -> None:
        device = await bench.pre_provisioned(retry_s=RETRY_S)
        await device.start()
        async with failing(**self.faults)(bench):
            outcome = await bench.claim(device.label.qr)
        bench.mode.faults.clear()
        bench.mode.faults.release()
        if outcome.exit_code != self.exit_code:
            raise Problem(Result.LOST, f"exit code {outcome.exit_code} ({outcome.message}), not {self.exit_code}")
        if outcome.exit_code == 0:
            await device.saw("provisioned")
            await check_provisioned(bench, device, outcome, set())
            return
        if in_home := await bench.devices_in_home():
            raise Problem(Result.LOST, f"in the home: {in_home}")
        outcome = await bench.claim(device.label.qr)
        if outcome.exit_code != 0:
            raise Problem(Result.LOST, f"once the trouble was over: exit code {outcome.exit_code} ({outcome.message})")
        await check_provisioned(bench, device, outcome, set())


@dataclass(frozen=True)
class AtTheCompanion:
    """`provision` while the companion has the trouble with MODE: the device never hears of a token, or all is well.

    Attributes:
        arrange: Brings the trouble about while the context lasts.
        exit_code: What the call ends with.
    """

    kind: str
    name: str
    arrange: Arrange
    exit_code: int
    settings: dict[str, Any] = field(default_factory=dict)

    async def try_on(self, bench: Bench) -> None:
        device = bench.device()
        await device.start()
        mode = bench.mode
        async with self.arrange(bench) as place:
            bench.mode = replace(mode, url=place.settings.get("mode_url", mode.url))
            outcome = await bench.provision(device.label.qr)
            bench.mode = mode
            mode.faults.clear()
            mode.faults.release()
        if outcome.exit_code != self.exit_code:
            raise Problem(Result.LOST, f"exit code {outcome.exit_code} ({outcome.message}), not {self.exit_code}")
        if outcome.exit_code == 0:
            await check_provisioned(bench, device, outcome, set())
        elif device.journal is not None or bench.redemptions or await bench.devices_in_home():
            raise Problem(Result.LOST, f"the journal is {device.journal}, redemptions: {bench.redemptions}")
        else:
            await provisioned(bench, device)


def configure(device: Device, settings: dict[str, str]) -> None:
    """Write other settings over a device's."""
    lines = device.config.read_text().splitlines()
    kept = [line for line in lines if line.partition(" = ")[0] not in settings]
    device.config.write_text("\n".join([*kept, *(f'{name} = "{value}"' for name, value in settings.items()), ""]))


async def provisioned(bench: Bench, device: Device, *, besides: set[int] = frozenset()) -> None:
    """Provision the device, which nothing is in the way of any more."""
    outcome = await bench.provision(device.label.qr)
    if outcome.exit_code != 0:
        raise Problem(Result.LOST, f"once the trouble was over: exit code {outcome.exit_code} ({outcome.message})")
    await check_provisioned(bench, device, outcome, besides)


async def check_provisioned(bench: Bench, device: Device, outcome: Outcome, besides: set[int]) -> None:
    """See that the device is in the home, nothing else has come there, and its key works."""
    in_home, credentials = set(await bench.devices_in_home()), device.credentials
    if in_home - besides != {outcome.device_id}:
        raise Problem(Result.DOUBLED, f"in the home: {in_home}, of which {besides} were there before")
    if credentials is None or credentials.device_id != outcome.device_id or not await bench.accepts(credentials):
        raise Problem(Result.LOST, f"the device has {credentials}, and MODE has {outcome.device_id}")
