"""One hand-off on the modelled air: where a contender plays, and what was seen of it."""

import asyncio
import contextlib
import gc
import random
import tempfile
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from bench.clock import End, LinkLoop, RealLoop, task_of
from bumble import ll

from bletoken.sim.air.att_log import REQUESTS, AttOpcode, AttPdu, Direction
from bletoken.sim.air.hub import Hub
from bletoken.sim.air.link import AirConnection, LinkModel

LONGEST_S = 60
"""Seconds on the trial's clock after which a contender has failed."""

_IN_MEMORY = Path("/dev/shm")
"""Where nobody waits for a disk, whose time is not on the link's clock anyway; Linux has it."""

_L2CAP_HEADER = 4


@dataclass(frozen=True, order=True)
class Cell:
    """What is varied.

    Attributes:
        interval_s: Seconds from one connection event to the next.
        mtu: The ATT MTU.
        token_size: Octets of the token.
    """

    interval_s: float
    mtu: int
    token_size: int


@dataclass
class Stage:
    """What a contender gets for one hand-off.

    Attributes:
        cell: What is varied.
        folder: An empty folder of its own.
        device_radio: The radio of the device's end.
        companion_radio: The radio of the companion's end.
        on_air: Set by the device's end when it can be found.
        marks: Seconds on the loop's clock when the companion's end knew something.
    """

    cell: Cell
    folder: Path
    device_radio: str
    companion_radio: str
    on_air: asyncio.Event = field(default_factory=asyncio.Event)
    marks: dict[str, float] = field(default_factory=dict)
    cpu_s: dict[str, dict[End, float]] = field(default_factory=dict)

    def mark(self, what: str) -> None:
        """Note that the companion knows something now; the first time counts."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, RealLoop | LinkLoop)
        if what not in self.marks:
            self.marks[what] = loop.time()
            self.cpu_s[what] = {end: loop.spent_s(end) for end in (End.DEVICE, End.COMPANION)}


HAS_TOKEN = "has token"
"""The mark: the companion knows that the device has the token."""

RESULT = "result"
"""The mark: the companion knows what came of it, as far as the contender tells."""


class Contender(Protocol):
    """A way to hand over a token."""

    name: str
    is_replay: bool

    def prepare(self, stage: Stage) -> contextlib.AbstractAsyncContextManager[Any]:
        """What is there before either end, such as a cloud; it costs nothing."""

    async def device(self, stage: Stage, prepared: Any) -> None:
        """The device's end, until it is cancelled."""

    async def companion(self, stage: Stage, prepared: Any) -> None:
        """The companion's end: it marks what it knows, and returns when it has finished."""


@dataclass(frozen=True)
class Trial:
    """What was seen of one hand-off.

    Attributes:
        has_token_s: From the first advert that the companion could hear until it knew that the device has the token.
        result_s: From there until it knew what came of it.
        advert_wait_s: From that first advert to the next, which is the first chance to connect.
        connected_s: From that first advert until the connection.
        requests: ATT transactions until the device had the token: requests, and indications, with their answers.
        events: Connection events that these take when no time is lost between them.
        octets: Octets of L2CAP PDUs over the whole connection, both ways.
        device_cpu_s: Processor time of the device's end from the first advert to the result.
        companion_cpu_s: Of the companion's end.
        opcodes: The ATT PDUs until the device had the token, by name and in order.
    """

    has_token_s: float
    result_s: float
    advert_wait_s: float
    connected_s: float
    requests: int
    events: int
    octets: int
    device_cpu_s: float
    companion_cpu_s: float
    opcodes: tuple[str, ...] = field(repr=False, default=())


class DidNotFinishError(Exception):
    """A contender did not hand its token over; there is no report then."""


def run(contender: Contender, cell: Cell, seed: int, loop_class: type[RealLoop] | type[LinkLoop] = LinkLoop) -> Trial:
    """One hand-off, from nothing to the end.

    Raises:
        DidNotFinishError: It was not handed over.
    """
    in_memory = _IN_MEMORY if issubclass(loop_class, LinkLoop) and _IN_MEMORY.is_dir() else None
    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=loop_class) as runner, tempfile.TemporaryDirectory(dir=in_memory) as folder:
            return runner.run(_trial(contender, cell, seed, Path(folder)))
    except Exception as error:
        raise DidNotFinishError(f"{contender.name} did not finish at {cell}: {error!r}") from error
    finally:
        gc.enable()


async def _trial(contender: Contender, cell: Cell, seed: int, folder: Path) -> Trial:
    model = LinkModel(connection_interval_s=cell.interval_s, seed=seed)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, RealLoop | LinkLoop)
    async with Hub.open(f"unix:{folder}/air", model=model) as hub:
        adverts = _Adverts(hub, loop)
        stage = Stage(cell, folder, hub.radio, f"{hub.radio}?mtu={cell.mtu}")
        async with contender.prepare(stage) as prepared, asyncio.timeout(LONGEST_S):
            device = task_of(End.DEVICE, contender.device(stage, prepared))
            try:
                await _first(device, asyncio.ensure_future(stage.on_air.wait()))
                # Somebody starts to look at any moment between two adverts.
                await asyncio.sleep(random.Random(seed).uniform(0.2, 0.3))
                await _first(device, task_of(End.COMPANION, contender.companion(stage, prepared)))
            finally:
                device.cancel()
                await asyncio.gather(device, return_exceptions=True)
        return _seen(stage, adverts, list(hub.link.connections))


async def _first(device: asyncio.Task[Any], other: asyncio.Future[Any]) -> None:
    """Wait for one thing, unless the device's end fails before."""
    try:
        await asyncio.wait({device, other}, return_when=asyncio.FIRST_COMPLETED)
        if not other.done():
            device.result()
            raise RuntimeError("the device's end stopped early")
        other.result()
    finally:
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)


class _Adverts:
    """Notes when adverts went out that a scanner could hear, and all later ones."""

    def __init__(self, hub: Hub, loop: RealLoop | LinkLoop) -> None:
        self.times_s: list[float] = []
        self.cpu_s: dict[End, float] = {}
        send = hub.link.send_advertising_pdu

        def noted(sender: Any, packet: ll.AdvertisingPdu) -> None:
            is_heard = any(getattr(controller, "le_scan_enable", False) for controller in hub.link.controllers)
            if isinstance(packet, ll.AdvInd) and (self.times_s or is_heard):
                if not self.times_s:
                    self.cpu_s = {end: loop.spent_s(end) for end in (End.DEVICE, End.COMPANION)}
                self.times_s.append(loop.time())
            send(sender, packet)

        hub.link.send_advertising_pdu = noted  # type: ignore[method-assign]


def _seen(stage: Stage, adverts: _Adverts, connections: list[AirConnection]) -> Trial:
    if len(connections) != 1:
        raise RuntimeError(f"it took {len(connections)} connections")
    if not {HAS_TOKEN, RESULT} <= stage.marks.keys():
        raise RuntimeError("the companion's end does not know what became of the token")
    [connection] = connections
    began_at = adverts.times_s[0]
    pdus = [pdu for pdu in connection.log.pdus if connection.began_s + pdu.time_s <= stage.marks[HAS_TOKEN]]
    asked = [
        pdu
        for pdu in pdus
        if (pdu.direction is Direction.TO_PERIPHERAL and pdu.opcode in REQUESTS)
        or pdu.opcode == AttOpcode.HANDLE_VALUE_INDICATION
    ]
    cpu_s = {end: stage.cpu_s[RESULT][end] - adverts.cpu_s[end] for end in (End.DEVICE, End.COMPANION)}
    return Trial(
        has_token_s=stage.marks[HAS_TOKEN] - began_at,
        result_s=stage.marks[RESULT] - began_at,
        advert_wait_s=adverts.times_s[1] - began_at,
        connected_s=connection.began_s - began_at,
        requests=len(asked),
        events=_events(pdus),
        octets=sum(_L2CAP_HEADER + pdu.length for pdu in connection.log.pdus),
        device_cpu_s=cpu_s[End.DEVICE],
        companion_cpu_s=cpu_s[End.COMPANION],
        opcodes=tuple(pdu.name for pdu in pdus),
    )


def _events(pdus: list[AttPdu]) -> int:
    """Connection events that these PDUs take when no time is lost: each end speaks once in one, for as long as it has
    something to say."""
    return sum(pdu.direction is not before.direction for before, pdu in pairwise(pdus)) + bool(pdus)
