"""A program of ours with one defence taken out, to show that the torture notices.

The products have no switch for it: what is taken out is replaced here, before the program starts.
usage: python -m torture.sabotage DEFENCE PROGRAM [its arguments]
"""

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any


def _no_retry() -> None:
    """The companion gives up with the first connection."""
    exchange = importlib.import_module("bletoken_central.handoff").Exchange
    exchange._run = exchange._attempt


def _no_same_answer() -> None:
    """The device does not know a token again that it has already."""
    redemption = importlib.import_module("bletoken_peripheral.redemption")
    take = redemption.take

    def forgetful(journal: Any, request: Any, *, has_credentials: bool) -> Any:
        if journal is not None:
            journal = replace(journal, token_ref=bytes(len(journal.token_ref)))
        return take(journal, request, has_credentials=has_credentials)

    redemption.take = forgetful


DEFENCES: dict[str, Callable[[], object]] = {
    "fsync": lambda: setattr(os, "fsync", lambda _: None),
    "retry": _no_retry,
    "same-answer": _no_same_answer,
}


def command(defence: str, program: str) -> list[str]:
    """How to start a program (`bletoken_peripheral` or `bletoken_central`) without the defence."""
    return [sys.executable, "-m", "torture.sabotage", defence, program]


if __name__ == "__main__":
    _, defence, program, *arguments = sys.argv
    DEFENCES[defence]()
    sys.argv = [program, *arguments]
    sys.exit(importlib.import_module(f"{program}.cli").main())
