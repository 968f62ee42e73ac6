"""A program of ours with one defence taken out, to show that the torture notices.

The products have no switch for it: what is taken out is replaced here, before the program starts.
usage: python -m torture.sabotage DEFENCE PROGRAM [its arguments]
"""

import importlib
import os
import sys
from collections.abc import Callable

DEFENCES: dict[str, Callable[[], object]] = {
    "fsync": lambda: setattr(os, "fsync", lambda _: None),
}


def command(defence: str, program: str) -> list[str]:
    """How to start a program (`bletoken_peripheral` or `bletoken_central`) without the defence."""
    return [sys.executable, "-m", "torture.sabotage", defence, program]


if __name__ == "__main__":
    _, defence, program, *arguments = sys.argv
    DEFENCES[defence]()
    sys.argv = [program, *arguments]
    sys.exit(importlib.import_module(f"{program}.cli").main())
