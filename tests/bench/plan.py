"""What is measured: contenders, cells and repetitions, interleaved, and what the figures come to."""

import gc
import itertools
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench import bound
from bench.clock import LinkLoop, RealLoop
from bench.floor import Floor
from bench.improv import Improv
from bench.ours import Bletoken
from bench.replays import Espressif, Matter
from bench.stage import Cell, Contender, Trial, run

INTERVALS_S = (0.0075, 0.015, 0.030, 0.050)
MTUS = (23, 185, 247, 517)
TOKEN_SIZES = (60, 200, 1000)

CONTENDERS: tuple[Contender, ...] = (Floor(), Bletoken(), Improv(), Espressif(1), Espressif(2), Matter())

_REQUESTS = {"floor": bound.floor_requests, "bletoken": bound.our_requests}
"""Those whose requests are known from their sizes; those of others are counted."""


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        cells: On the link's clock.
        repetitions: Of each contender in each cell.
        real_cells: On everybody's clock.
        real_repetitions: Of each contender in each of those.
    """

    cells: tuple[Cell, ...]
    repetitions: int
    real_cells: tuple[Cell, ...]
    real_repetitions: int

    @classmethod
    def whole(cls) -> "Plan":
        """What the report needs."""
        cells = itertools.product(INTERVALS_S, MTUS, TOKEN_SIZES)
        real = (Cell(0.0075, 517, 60), Cell(0.015, 247, 200), Cell(0.030, 185, 200))
        return cls(tuple(Cell(*values) for values in cells), 11, real, 7)

    @classmethod
    def quick(cls) -> "Plan":
        """A sample that still has every contender, interval, MTU and size."""
        diagonal = zip(INTERVALS_S, MTUS, itertools.cycle(TOKEN_SIZES), strict=False)
        return cls(tuple(Cell(*values) for values in diagonal), 2, (Cell(0.015, 247, 200),), 1)


@dataclass(frozen=True)
class Figure:
    """A median and the 95th percentile (of few trials, that is the largest)."""

    median: float
    p95: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        """The figure of some trials."""
        return cls(statistics.median(values), sorted(values)[math.ceil(0.95 * len(values)) - 1])


@dataclass(frozen=True)
class Result:
    """One contender in one cell.

    Attributes:
        contender: Its name.
        cell: The cell.
        trials: How many.
        has_token_s: Until the companion knew that the device has the token.
        result_s: Until it knew what came of it.
        to_floor: The first of these medians as a ratio to the floor's.
        bound_s: The median of what the octets imply: the wait for the advert to connect to, and the requests.
        over_bound: How many times that `has_token_s` was, trial by trial.
        result_over_bound: And how many times `result_s` was.
        requests: ATT transactions until the device had the token.
        octets: Of L2CAP PDUs, both ways, over the whole connection.
        device_cpu_s: Of the device's end, until the result; None of a replay.
        companion_cpu_s: Of the companion's end; None of a replay.
    """

    contender: str
    cell: Cell
    trials: int
    has_token_s: Figure
    result_s: Figure
    to_floor: float
    bound_s: float
    over_bound: Figure
    result_over_bound: Figure
    requests: int
    octets: int
    device_cpu_s: Figure | None
    companion_cpu_s: Figure | None

    def to_json(self) -> dict[str, Any]:
        """The result as JSON types."""
        return asdict(self)


def measure(
    cells: Sequence[Cell],
    repetitions: int,
    seed: int,
    *,
    loop_class: type[LinkLoop] | type[RealLoop] = LinkLoop,
    told: Callable[[str], None] = lambda _: None,
) -> list[Result]:
    """Run every contender in every cell, so often, one after the other.

    Raises:
        DidNotFinishError: One of them did not.
    """
    seen: dict[tuple[str, Cell], list[Trial]] = {}
    todo = list(itertools.product(range(repetitions), cells))
    for number, (repetition, cell) in enumerate(todo):
        for contender in _from(CONTENDERS, number):
            # Whoever is measured in one repetition meets the same adverts.
            trial = run(contender, cell, seed + repetition, loop_class)
            seen.setdefault((contender.name, cell), []).append(trial)
        told(f"{number + 1} of {len(todo)} rounds")
    return list(_results(cells, seen))


def warm_up(seed: int) -> None:
    """Load and compile what the first trial of each would."""
    for contender in CONTENDERS:
        run(contender, Cell(0.015, 247, 60), seed)
    # What is loaded by now stays, and need not be looked at again before each trial.
    gc.collect()
    gc.freeze()


def progress(what: str) -> Callable[[str], None]:
    """Tells on standard error how far it is."""

    def told(how_far: str) -> None:
        print(f"\r{what}: {how_far} ", end="", file=sys.stderr, flush=True)

    return told


def _from(contenders: Sequence[Contender], first: int) -> list[Contender]:
    """Another one begins each time."""
    first %= len(contenders)
    return [*contenders[first:], *contenders[:first]]


def _results(cells: Sequence[Cell], seen: dict[tuple[str, Cell], list[Trial]]) -> Iterator[Result]:
    for cell in cells:
        floor_s = statistics.median(trial.has_token_s for trial in seen["floor", cell])
        for contender in CONTENDERS:
            trials = seen[contender.name, cell]
            bounds_s = [trial.advert_wait_s + _link_s(contender, cell, trial) for trial in trials]
            has_token_s = Figure.of([trial.has_token_s for trial in trials])
            yield Result(
                contender.name,
                cell,
                len(trials),
                has_token_s,
                Figure.of([trial.result_s for trial in trials]),
                has_token_s.median / floor_s,
                statistics.median(bounds_s),
                Figure.of([trial.has_token_s / s for trial, s in zip(trials, bounds_s, strict=True)]),
                Figure.of([trial.result_s / s for trial, s in zip(trials, bounds_s, strict=True)]),
                max(trial.requests for trial in trials),
                round(statistics.median(trial.octets for trial in trials)),
                None if contender.is_replay else Figure.of([trial.device_cpu_s for trial in trials]),
                None if contender.is_replay else Figure.of([trial.companion_cpu_s for trial in trials]),
            )


def _link_s(contender: Contender, cell: Cell, trial: Trial) -> float:
    if requests := _REQUESTS.get(contender.name):
        return bound.seconds(cell, requests(cell))
    return trial.events * cell.interval_s
