"""What a run of the torture is asked to do, and what a family of faults is."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torture.report import Trial


@dataclass(frozen=True)
class Plan:
    """One run.

    Attributes:
        folder: For whatever the run writes; each trial makes a folder of its own in it.
        seed: Everything that is chosen at random comes from it.
        quick: A sample of every kind of fault instead of all of them.
        without: The defence to take out, or None: then the family must find something wrong, or it proves nothing.
        only: Only faults with this text in their name, to try one alone again.
    """

    folder: Path
    seed: int = 1
    quick: bool = False
    without: str | None = None
    only: str = ""

    def wants(self, fault: str) -> bool:
        return self.only in fault


class Family(Protocol):
    """A module with one kind of trouble."""

    NAME: str
    """Its name in the table and on the command line."""

    DEFENCES: tuple[str, ...]
    """Which defences may be taken out, by their names in `sabotage`."""

    @staticmethod
    def trials(plan: Plan) -> AsyncIterator[Trial]:
        """Try one fault after the other."""
