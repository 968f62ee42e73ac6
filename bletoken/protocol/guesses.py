"""The guess budget of the PIN, as a pure function of a record and the time; it stores nothing.

The device writes the record durably before it looks at an attempt, so that switching it off undoes no wrong guess.
The QR secret has 128 bit and needs no budget: its path is never locked by the PIN's failures.
"""

import math
from dataclasses import replace
from typing import Final, Self

from bletoken.frozen import frozen

FREE_FAILURES: Final = 3
"""From this many failures on, each next attempt has to wait."""

STOP_AT: Final = 20
"""At this many failures the PIN stops until somebody unlocks it on the device or in a QR session."""

_FIRST_DELAY_S: Final = 5
_LONGEST_DELAY_S: Final = 300


@frozen
class GuessRecord:
    """What the device remembers of wrong PINs.

    Attributes:
        failures: Attempts not known to have been right; survives a reboot.
        since: When the current delay began, in seconds of the boot clock. Not stored: a reboot begins it anew in full.
    """

    failures: int
    since: float

    @classmethod
    def after_boot(cls, failures: int, now: float) -> Self:
        """The record as it stands when the device starts."""
        return cls(failures, now)

    def wait_s(self, now: float) -> float:
        """Seconds until the next attempt is let in: 0 for at once, `math.inf` when stopped."""
        if self.failures >= STOP_AT:
            return math.inf
        if self.failures < FREE_FAILURES:
            return 0
        delay = min(_FIRST_DELAY_S << (self.failures - FREE_FAILURES), _LONGEST_DELAY_S)
        return max(0, self.since + delay - now)

    def attempted(self, now: float) -> Self:
        """The record to store before an attempt is looked at: it counts as wrong until it proves right.

        Then the record as it was before is stored again: the attempt is taken back, and no earlier one is.
        """
        return replace(self, failures=self.failures + 1, since=now)
