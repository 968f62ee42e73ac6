"""Three plots of the results, as SVG."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from bench.improv import LONGEST_PASSWORD, Improv
from bench.plan import CONTENDERS, Result
from bench.stage import Cell, Contender
from matplotlib import pyplot as plt

_COLOURS = ("#9aa0a6", "#1a73e8", "#34a853", "#fbbc04", "#ea4335", "#a142f4")
_SIZE_IN = (9.0, 4.0)


def draw(results: Sequence[Result], folder: Path) -> None:
    """Draw all three.

    Args:
        results: On the link's clock.
        folder: Where `time.svg`, `interval.svg` and `bound.svg` go.
    """
    mpl.use("svg")
    # Whoever draws the same figures again gets the same octets.
    mpl.rcParams.update({"svg.hashsalt": "bletoken", "font.size": 9, "axes.axisbelow": True})
    _time(_some(results, lambda cell: cell.interval_s == 0.015), folder / "time.svg")
    _interval(_some(results, lambda cell: (cell.mtu, cell.token_size) == (247, 200)), folder / "interval.svg")
    _bound(results, folder / "bound.svg")


def _some(results: Sequence[Result], wanted: Callable[[Cell], bool]) -> list[Result]:
    """Those in some cells; all of them where a quick run has left those out."""
    some = [result for result in results if wanted(result.cell)]
    return some if len({result.cell for result in some}) > 1 else list(results)


def _time(results: Sequence[Result], path: Path) -> None:
    figure, axes = plt.subplots(figsize=_SIZE_IN)
    cells = sorted({result.cell for result in results})
    width = 0.8 / len(CONTENDERS)
    for number, contender in enumerate(CONTENDERS):
        times_s = [_of(results, contender.name, cell).has_token_s.median for cell in cells]
        places = [place + (number - (len(CONTENDERS) - 1) / 2) * width for place in range(len(cells))]
        axes.bar(places, times_s, width, label=_label(contender), color=_COLOURS[number])
    axes.set_xticks(range(len(cells)), [f"MTU {cell.mtu}\n{cell.token_size} octets" for cell in cells], fontsize=7)
    axes.set_ylabel("seconds until it is known that\nthe device has the token")
    axes.set_title("at a connection interval of 15 ms" if len({cell.interval_s for cell in cells}) == 1 else "")
    _save(figure, axes, path)


def _interval(results: Sequence[Result], path: Path) -> None:
    figure, axes = plt.subplots(figsize=_SIZE_IN)
    for number, contender in enumerate(CONTENDERS):
        own = sorted((r for r in results if r.contender == contender.name), key=lambda r: r.cell)
        intervals_ms = [1000 * result.cell.interval_s for result in own]
        times_s = [result.has_token_s.median for result in own]
        axes.plot(intervals_ms, times_s, "o-", label=_label(contender), color=_COLOURS[number])
    axes.set_xlabel("connection interval in ms")
    axes.set_ylabel("seconds until it is known that\nthe device has the token")
    axes.set_ylim(bottom=0)
    axes.set_title("at an MTU of 247, a token of 200 octets" if len({r.cell.mtu for r in results}) == 1 else "")
    _save(figure, axes, path)


def _bound(results: Sequence[Result], path: Path) -> None:
    figure, axes = plt.subplots(figsize=_SIZE_IN)
    own = sorted((r for r in results if r.contender == "bletoken"), key=lambda r: r.cell)
    places = range(len(own))
    axes.plot(places, [100 * (r.over_bound.median - 1) for r in own], "o", label="has the token", color=_COLOURS[1])
    axes.plot(places, [100 * (r.result_over_bound.median - 1) for r in own], "x", label="result", color=_COLOURS[4])
    axes.axhline(5, color=_COLOURS[0], linestyle="--", label="goal")
    firsts = [place for place in places if place == 0 or own[place].cell.interval_s != own[place - 1].cell.interval_s]
    axes.set_xticks(firsts, [f"{1000 * own[place].cell.interval_s:g} ms" for place in firsts])
    axes.set_xlabel("connection interval, within it by MTU and size of the token")
    axes.set_ylabel("bletoken over its own bound, in %")
    axes.set_ylim(bottom=0)
    _save(figure, axes, path)


def _label(contender: Contender) -> str:
    if contender.name == Improv.name:
        return f"{contender.name} (at most {LONGEST_PASSWORD} octets)"
    return contender.name


def _of(results: Sequence[Result], contender: str, cell: Cell) -> Result:
    return next(result for result in results if (result.contender, result.cell) == (contender, cell))


def _save(figure: plt.Figure, axes: plt.Axes, path: Path) -> None:
    axes.grid(axis="y", color="#dddddd")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
