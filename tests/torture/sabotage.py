"""A program of ours with one defence taken out, to show that the torture notices.

The products have no switch for it: what is taken out is replaced here, before the program starts.
usage: python -m torture.sabotage DEFENCE PROGRAM [its arguments]
"""

import importlib
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path


def _sync_no(kind: Callable[[int], bool]) -> None:
    """Files, or folders, are not synced."""
    fsync = os.fsync
    os.fsync = lambda fd: None if kind(os.fstat(fd).st_mode) else fsync(fd)


def _never_write_redeeming() -> None:
    """The journal does not say that the request is about to leave."""
    from bletoken_peripheral.redemption import Phase
    from bletoken_peripheral.store import StateFolder

    write = StateFolder.write_journal
    StateFolder.write_journal = lambda folder, journal: (  # type: ignore[method-assign]
        None if journal.phase is Phase.REDEEMING else write(folder, journal)
    )


def _write_in_place() -> None:
    """A file is written over the old one instead of beside it."""
    from bletoken import files

    def replace(path: Path, octets: bytes) -> None:
        with files.translated(path, "write"):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(octets)
                file.flush()
                os.fsync(fd)

    files.replace = replace


def _make_files_for_all() -> None:
    """A file is made as most programs make theirs."""
    make = os.open
    os.open = lambda path, flags, mode=0o777: make(path, flags, 0o666 if mode == 0o600 else mode)


DEFENCES: dict[str, Callable[[], object]] = {
    "fsync": lambda: setattr(os, "fsync", lambda _: None),
    "fsync-file": lambda: _sync_no(stat.S_ISREG),
    "fsync-folder": lambda: _sync_no(stat.S_ISDIR),
    "redeeming": _never_write_redeeming,
    "beside": _write_in_place,
    "private": _make_files_for_all,
}


def command(defence: str | None, program: str) -> list[str]:
    """How to start a program (`bletoken_peripheral` or `bletoken_central`) without the defence, if any is named."""
    if defence is None:
        # Imported here: a sabotaged program has no use for it.
        from handoff.bench import command_of

        return command_of(program)
    tests = Path(__file__).parents[1]
    return ["env", f"PYTHONPATH={tests}", sys.executable, "-m", "torture.sabotage", defence, program]


if __name__ == "__main__":
    _, defence, program, *arguments = sys.argv
    DEFENCES[defence]()
    sys.argv = [program, *arguments]
    sys.exit(importlib.import_module(f"{program}.cli").main())
