"""`bletoken-peripheral` with a boot clock that jumps five minutes ahead on SIGUSR1; run as a program by the tests.

The product has no such thing. Here its clock function is replaced, so that a test needs not wait out the delays.
"""

import signal
import sys

from bletoken import console
from bletoken_peripheral import cli, onboarding

JUMP_S = 301
"""A little more than the longest delay between two PINs."""


class Clockwork:
    """The boot clock and the jumps so far."""

    def __init__(self) -> None:
        self._boot_clock = onboarding._now
        self._jumps = 0

    def now(self) -> float:
        return self._boot_clock() + JUMP_S * self._jumps

    def jump(self, *_: object) -> None:
        self._jumps += 1
        console.say_json({"step": "clock jumped"})


if __name__ == "__main__":
    clockwork = Clockwork()
    onboarding._now = clockwork.now
    signal.signal(signal.SIGUSR1, clockwork.jump)
    sys.exit(cli.main())
