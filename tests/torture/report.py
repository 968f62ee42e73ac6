"""What came of each fault, and the one table that says so."""

import enum
from collections import Counter
from dataclasses import dataclass, field
from typing import Any


class Result(enum.StrEnum):
    """What became of one hand-off that something went wrong with."""

    SURVIVED = "survived"
    """One device in the home whose key is on the device and accepted; or a typed failure, no device and no secret."""
    LOST = "lost"
    """Something that should be there is not, or a secret is where it should be no more."""
    DOUBLED = "doubled"
    """A second device, or a token that MODE was asked about twice although it may have left."""
    HUNG = "hung"
    """Nobody came to an end."""


@dataclass(frozen=True)
class Trial:
    """One fault.

    Attributes:
        fault: What went wrong, in a few words: enough to try it alone again.
        result: What became of it.
        detail: What was found, where that is not what should be; of what survived, a figure worth telling.
        elapsed_s: How long the whole hand-off took, where that is a figure worth having.
    """

    fault: str
    result: Result
    detail: str = ""
    elapsed_s: float | None = None


@dataclass
class Row:
    """One family's line of the table, while it grows.

    Attributes:
        family: Its name.
        seed: What everything was chosen from.
        trials: What came of each fault so far.
        untried: Why some faults were not tried; empty if all were.
        remarks: What else is told under the table.
    """

    family: str
    seed: int
    trials: list[Trial] = field(default_factory=list)
    untried: str = ""
    remarks: list[str] = field(default_factory=list)

    @property
    def counts(self) -> Counter[Result]:
        return Counter(trial.result for trial in self.trials)

    @property
    def bad(self) -> list[Trial]:
        """The trials that did not survive."""
        return [trial for trial in self.trials if trial.result is not Result.SURVIVED]

    @property
    def times_s(self) -> list[float]:
        return sorted(trial.elapsed_s for trial in self.trials if trial.elapsed_s is not None)

    def percentile_s(self, share: float) -> float | None:
        """The time that this share of the trials stayed within, or None where nothing was timed."""
        times = self.times_s
        return times[min(len(times) - 1, int(share * len(times)))] if times else None

    def to_json(self) -> dict[str, Any]:
        counts = self.counts
        return {
            "family": self.family,
            "seed": self.seed,
            "tried": len(self.trials),
            **{str(result): counts[result] for result in Result},
            "p50_s": self.percentile_s(0.5),
            "p95_s": self.percentile_s(0.95),
            "max_s": self.percentile_s(1.0),
            "untried": self.untried,
            "remarks": self.remarks,
        }


COLUMNS = ("family", "tried", *(str(result) for result in Result), "p50 s", "p95 s", "max s", "seed")


def table(rows: list[Row]) -> str:
    """All families, as text for a terminal and for Markdown alike."""
    lines = [list(COLUMNS), ["---"] * len(COLUMNS)]
    for row in rows:
        said = row.to_json()
        times = [f"{said[name]:.2f}" if said[name] is not None else "" for name in ("p50_s", "p95_s", "max_s")]
        counts = [str(said[name]) for name in ("tried", *(str(result) for result in Result))]
        lines.append([row.family, *counts, *times, str(row.seed)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    told = [f"{row.family}: {t.fault}: {t.detail}" for row in rows for t in row.trials if t.detail and t not in row.bad]
    told += [f"{row.family}: {remark}" for row in rows for remark in row.remarks]
    told += [f"{row.family}: not all was tried: {row.untried}" for row in rows if row.untried]
    return "\n".join([*text, "", *told] if told else text)
