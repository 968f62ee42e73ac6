"""What the figures say, as BENCHMARKS.md; every number in it is from the run that writes it."""

import importlib.metadata
import os
import platform
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import bound
from bench.improv import LONGEST_PASSWORD, Improv
from bench.plan import CONTENDERS, Result
from bench.stage import Cell

_GOAL = 1.05
"""How many times its own bound bletoken may take."""

_FROM_MTU = 185
"""From here on one ATT round trip more than the floor, and the frames that the sizes force, must do."""

_LIBRARIES = (
    "bletoken",
    "bleak",
    "bless",
    "bumble",
    "cryptography",
    "httpx",
    "py-improv-ble-client",
    "bleak-retry-connector",
)

_NOTES = Path(__file__).with_name("notes.md")


@dataclass(frozen=True)
class Results:
    """All of one run.

    Attributes:
        seed: The seed.
        is_quick: Whether it is a sample only.
        link: On the link's clock.
        real: On everybody's clock.
        small_device: What `small_device` measured, if it is there.
    """

    seed: int
    is_quick: bool
    link: Sequence[Result]
    real: Sequence[Result]
    small_device: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """All as JSON types."""
        return {
            "versions": versions(),
            "seed": self.seed,
            "quick": self.is_quick,
            "link": [result.to_json() for result in self.link],
            "real": [result.to_json() for result in self.real],
            "small_device": self.small_device,
        }

    def of(self, contender: str) -> list[Result]:
        """One contender's, on the link's clock."""
        return [result for result in self.link if result.contender == contender]


def versions() -> dict[str, str]:
    """What took part, and where."""
    found = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    machine = f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} processors"
    return {"machine": machine, "Python": platform.python_version(), **found}


def summary(results: Results) -> str:
    """The goals, and whether they are met."""
    return "\n".join(_goals(results))


def text(results: Results, plots: Path) -> str:
    """The whole report.

    Args:
        results: The figures.
        plots: Where the plots are, from the report.
    """
    parts = [
        _head(results),
        "## In short\n\n" + "\n".join(_headline(results)) + "\n\n" + summary(results),
        _how(results),
        "## Time\n\n" + _times(results, plots),
        "## Round trips and octets\n\n" + _traffic(results),
        "## Beside the bound\n\n" + _bounds(results, plots),
        "## Processor time\n\n" + _processor(results),
        "## On everybody's clock\n\n" + _real(results),
        "## Where the time goes\n\n" + _phases(results) + "\n\n" + _NOTES.read_text().strip(),
        _small_device(results),
        _peers(),
        _not_covered(),
    ]
    blocks = "\n\n".join(part.strip() for part in parts if part).split("\n\n")
    return "\n\n".join(_wrapped(block) for block in blocks) + "\n"


# The parts ----------------------------------------------------------------------------------------------------------


def _head(results: Results) -> str:
    return (
        "# Benchmarks\n\n"
        "How long a hand-off takes and what it costs, beside what people would use instead. "
        f"`scripts/bench{' --quick' if results.is_quick else ''}` has written this file; every number in it is from one"
        f" run, with the seed {results.seed}, in which every contender handed its token over in every trial.\n\n"
        + _table(("what", "version"), versions().items())
    )


def _headline(results: Results) -> list[str]:
    cell = _headline_cell(results)
    by_name = {result.contender: result for result in results.link if result.cell == cell}
    ours, floor = by_name["bletoken"], by_name["floor"]
    others = ", ".join(
        f"{result.contender} {_ms(result.has_token_s.median)} ms"
        for name, result in by_name.items()
        if name not in ("bletoken", "floor")
    )
    return [
        (
            f"At a connection interval of {_ms(cell.interval_s)} ms, an MTU of {cell.mtu} and a token of"
            f" {cell.token_size} octets, bletoken's device has the token {_ms(ours.has_token_s.median)} ms after its"
            f" advert was first heard ({ours.to_floor:.2f} times the floor's {_ms(floor.has_token_s.median)} ms), and"
            f" the authenticated result is there after {_ms(ours.result_s.median)} ms, with a cloud that answers at"
            f" once. The others: {others}."
        )
    ]


def _goals(results: Results) -> list[str]:
    ours = results.of("bletoken")
    wide = [result for result in ours if result.cell.mtu >= _FROM_MTU]
    more = [result for result in wide if result.requests != bound.goal_requests(result.cell)]
    over = max(ours, key=lambda result: result.over_bound.median)
    late = max(ours, key=lambda result: result.result_over_bound.median)
    return [
        (
            f"- {_met(not more)}: one ATT round trip more than the floor from an MTU of {_FROM_MTU} up, and the frames"
            f" that the sizes force ({len(wide) - len(more)} of {len(wide)} cells)."
        ),
        (
            f"- {_met(over.over_bound.median <= _GOAL)}: the device has the token within {_GOAL} times bletoken's own"
            f" bound in every cell (at most {over.over_bound.median:.3f}, at {_named(over.cell)})."
        ),
        (
            f"- {_met(late.result_over_bound.median <= _GOAL)}: the result is there within {_GOAL} times that bound"
            f" too, though the bound leaves nothing for redeeming the token (at most"
            f" {late.result_over_bound.median:.3f}, at {_named(late.cell)})."
        ),
    ]


def _how(results: Results) -> str:
    trials = max(result.trials for result in results.link)
    return f"""\
## How it is measured

Both ends, the air between them and the local MODE run in one process. The air is bletoken's virtual radio: what is
sent waits for the next connection event, one PDU or many, and adverts go out every 100 ms, each up to 10 ms late. A
trial begins with the first advert that goes out while the companion scans, and connecting has to wait for the next.
*Has the token* is when the companion's end knows that the device has it, *result* when it knows what came of it: with
bletoken, when MODE has taken the token and the device's new key; with those that tell nothing more, the same moment.

The clock is the link's own. Where everybody waits it jumps to what comes next, so that waiting costs nothing and is
exact; while one of the two ends computes, it goes on by the processor time that this takes, both ends' added up,
although two machines would do some of that at once. What the air, the cloud and the benchmark compute is not on it,
and nor is waiting for a disk: the files are in memory where that can be had.

Every cell is an interval, an MTU and a token's size. In each round all contenders take their turn in one cell, another
one first each time, and meet adverts at the same moments; then comes the next cell. There are {trials} rounds for each
cell, and a 95th percentile of so few is the largest. *Times the floor* compares medians.
"""


def _times(results: Results, plots: Path) -> str:
    parts = [
        (
            "Milliseconds until the companion knows that the device has the token: median (95th percentile), times the"
            " floor. For bletoken also until the authenticated result."
        ),
        f"![The time by MTU and size]({plots}/time.svg)\n\n![The time by interval]({plots}/interval.svg)",
    ]
    for interval_s in sorted({result.cell.interval_s for result in results.link}):
        head = ("MTU, octets", *(contender.name for contender in CONTENDERS), "bletoken, result")
        rows = []
        for cell in _cells(results, lambda cell: cell.interval_s == interval_s):  # noqa: B023 used at once
            of = {result.contender: result for result in results.link if result.cell == cell}
            rows.append(
                (
                    f"{cell.mtu}, {cell.token_size}",
                    *(_time_of(of[contender.name]) for contender in CONTENDERS),
                    f"{_ms(of['bletoken'].result_s.median)} ({_ms(of['bletoken'].result_s.p95)})",
                )
            )
        parts.append(f"### {_ms(interval_s)} ms\n\n" + _table(head, rows))
    parts.append(f"\\* With {LONGEST_PASSWORD} octets of the token: the client of Improv takes no longer password.")
    return "\n\n".join(parts)


def _time_of(result: Result) -> str:
    time = f"{_ms(result.has_token_s.median)} ({_ms(result.has_token_s.p95)})"
    if result.contender == Improv.name and result.cell.token_size > LONGEST_PASSWORD:
        return rf"{time}\*"
    return f"{time} x{result.to_floor:.2f}"


def _traffic(results: Results) -> str:
    interval_s = min(result.cell.interval_s for result in results.link)
    wanted = (lambda _: True) if results.is_quick else (lambda cell: cell.interval_s == interval_s)
    rows = []
    for cell in _cells(results, wanted):
        of = {result.contender: result for result in results.link if result.cell == cell}
        figures = [of[contender.name] for contender in CONTENDERS]
        goal = str(bound.goal_requests(cell)) if cell.mtu >= _FROM_MTU else "-"
        rows.append((f"{cell.mtu}, {cell.token_size}", *(f"{r.requests} / {r.octets}" for r in figures), goal))
    head = ("MTU, octets", *(contender.name for contender in CONTENDERS), "goal for bletoken")
    return (
        "ATT transactions until the device has the token (a request and its response, or an indication and its"
        " confirmation, with discovery and MTU exchange) / octets of all L2CAP PDUs of the connection. The interval"
        " makes no difference to these.\n\n" + _table(head, rows)
    )


def _bounds(results: Results, plots: Path) -> str:
    rows = [
        (
            f"{_ms(r.cell.interval_s)} ms, {r.cell.mtu}, {r.cell.token_size}",
            bound.our_requests(r.cell),
            _ms(r.bound_s),
            _ms(r.has_token_s.median),
            f"{r.over_bound.median:.3f} ({r.over_bound.p95:.3f})",
            _ms(r.result_s.median),
            f"{r.result_over_bound.median:.3f} ({r.result_over_bound.p95:.3f})",
        )
        for r in results.of("bletoken")
    ]
    head = ("interval, MTU, octets", "requests", "bound", "has the token", "by bound", "result", "by bound")
    return (
        "The bound is what bletoken's own octets imply: the wait for the advert to connect to, and two connection"
        " events for each ATT request that their sizes need. It is computed from the sizes alone"
        " (`tests/bench/bound.py`) and leaves no time for any computation. Milliseconds; median (95th percentile).\n\n"
        f"![Over the bound]({plots}/bound.svg)\n\n" + _table(head, rows)
    )


def _processor(results: Results) -> str:
    rows = []
    for cell in _cells(results, lambda cell: cell.interval_s == _headline_cell(results).interval_s):
        of = {result.contender: result for result in results.link if result.cell == cell}
        row = [f"{cell.mtu}, {cell.token_size}"]
        for contender in CONTENDERS:
            result = of[contender.name]
            if result.device_cpu_s and result.companion_cpu_s:
                row.append(f"{_ms(result.device_cpu_s.median)} + {_ms(result.companion_cpu_s.median)}")
        rows.append(tuple(row))
    head = ("MTU, octets", *(contender.name for contender in CONTENDERS if not contender.is_replay))
    return (
        "Milliseconds of the device's + the companion's processor, from the first advert to the result, medians. With"
        " them is Bumble's host stack in Python, at both ends, in the place of an operating system's; bletoken's device"
        " also speaks HTTP with the local MODE. The replays compute nothing, so they have no such figures.\n\n"
        + _table(head, rows)
    )


def _real(results: Results) -> str:
    rows = [
        (
            f"{_ms(r.cell.interval_s)} ms, {r.cell.mtu}, {r.cell.token_size}",
            r.contender,
            f"{_ms(r.has_token_s.median)} ({_ms(r.has_token_s.p95)})",
            f"x{r.to_floor:.2f}",
            f"{_ms(r.result_s.median)} ({_ms(r.result_s.p95)})",
        )
        for r in results.real
    ]
    head = ("interval, MTU, octets", "contender", "has the token", "floor", "result")
    return (
        "The same programs with a clock that waits like everybody's: here the air, the cloud, the disk and whatever"
        " else the machine does count too, all on one processor. Only bletoken waits for a disk: its device says that"
        " it has the token when it is there to stay. Only the ratios of one run mean something."
        " Milliseconds; median (95th percentile).\n\n" + _table(head, rows)
    )


def _phases(results: Results) -> str:
    cell = _headline_cell(results)
    ours = next(result for result in results.of("bletoken") if result.cell == cell)
    event_s = 2 * cell.interval_s
    reads, written = bound.our_reads(cell), bound.our_frames(cell)
    found = ours.requests - reads - written - 1
    wait_s = ours.bound_s - bound.seconds(cell, bound.our_requests(cell))
    rows = [
        ("wait for the advert to connect to", "", _ms(wait_s)),
        ("MTU, and discovery of one service", found, _ms(found * event_s)),
        ("subscribe to STATUS", 1, _ms(event_s)),
        ("read HELLO", reads, _ms(reads * event_s)),
        ("write TOKEN, and the status that comes with the response", written, _ms(written * event_s)),
        ("computing that the link had to wait for", "", _ms(ours.has_token_s.median - ours.bound_s)),
        ("until the result", "", _ms(ours.result_s.median - ours.has_token_s.median)),
    ]
    return f"A hand-off of bletoken at {_named(cell)}, in milliseconds:\n\n" + _table(("what", "requests", "ms"), rows)


def _small_device(results: Results) -> str:
    if results.small_device is None:
        return ""
    from bench import small_device

    return small_device.section(results.small_device)


def _peers() -> str:
    return f"""\
## How each is reproduced

- **floor**: a client on bleak and a server on bless, on the virtual radio, and nothing more: scan, connect, discover
  one service with one characteristic, subscribe, write the token in as few requests as fit, one notification.
- **bletoken**: both sides as libraries, with the QR code, the state in files, and the local MODE over HTTP on the
  same machine.
- **Improv BLE**: the device keeps to the [specification](https://www.improv-wifi.com/ble/) and joins its network at
  once; the companion is `py-improv-ble-client` from the package index, unchanged. It takes no backend, so the
  benchmark makes the virtual radio what bleak takes for this platform's. It carries a network and a password, both in
  plain sight; the token takes the password's place. A length octet limits that to 255, and the client, which packs it
  signed, to {LONGEST_PASSWORD}. Service data in the advert are left out, as bless has none.
- **Espressif security 1 and 2**: a replay of the traffic, made from the messages of `components/protocomm/proto` and
  from what `tools/esp_prov` sends, in [esp-idf](https://github.com/espressif/esp-idf): discovery of all services, the
  names of the six endpoints, one version exchange, the handshake, the token as `custom-data`. Each exchange is a write
  and a read. A token that one attribute does not hold goes in pieces. The tool's pauses of 5 s are left out.
- **Matter PASE**: a replay of the traffic, made from the Matter core specification (4.14.1 and 4.19) and
  [connectedhomeip](https://github.com/project-chip/connectedhomeip): BTP handshake, PASE, and one invoke request with
  the token and its response, in segments with acknowledgements. Attestation, certificates and the rest of a
  commissioning are left out.

The replays send zeros of the right size in the right order, and take the cheaper way wherever there is a choice.
They are in `tests/bench/replays.py`, with what each size is made of.
"""


def _not_covered() -> str:
    return """\
## Not covered

- A real radio. Interference, packets sent again, an operating system that holds its radio for something else: none of
  it is here, and it would come on top for everybody. Whoever reads 200 ms here sees about a second on a desk.
- The link layer below a connection event. Each holds as much as both sides have to say; a real one has room for a few
  packets of 27 to 251 octets, so small intervals flatter whoever sends much.
- An operating system that discovers all services whatever it is asked for, or caches them, or asks for other
  connection parameters.
- Radio energy, and other languages: everything here is Python.
- Encryption: only bletoken, and what the replays stand for, protect what they carry. The floor and Improv do not.
- A cloud that takes its time. bletoken's result comes when MODE has answered; all others are measured without one.
"""


# Small things -------------------------------------------------------------------------------------------------------


def _headline_cell(results: Results) -> Cell:
    cells = {result.cell for result in results.link}
    wanted = Cell(0.015, 247, 200)
    return wanted if wanted in cells else next(cell for cell in sorted(cells) if cell.interval_s == wanted.interval_s)


def _cells(results: Results, wanted: Callable[[Cell], bool]) -> list[Cell]:
    return sorted({result.cell for result in results.link if wanted(result.cell)})


def _named(cell: Cell) -> str:
    return f"{_ms(cell.interval_s)} ms, MTU {cell.mtu}, {cell.token_size} octets"


def _ms(seconds: float) -> str:
    text = f"{1000 * seconds:.1f}"
    return text.removesuffix(".0")


def _met(is_met: bool) -> str:
    return "Met" if is_met else "**Not met**"


def _wrapped(block: str) -> str:
    """A paragraph or list in lines of 120; tables, headings and images stay as they are."""
    if block.startswith(("|", "#", "!", "```")):
        return block
    items = block.split("\n- ") if block.startswith("- ") else [block]
    return "\n".join(
        textwrap.fill(
            " ".join(("- " + item.removeprefix("- ") if block.startswith("- ") else item).split()),
            width=120,
            subsequent_indent="  " if block.startswith("- ") else "",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for item in items
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [" | ".join(head), "|".join("---" for _ in head)]
    lines += [" | ".join(str(value) for value in row) for row in rows]
    return "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)
