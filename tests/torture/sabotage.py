"""A program of ours with one defence taken out, to show that the torture notices.

The products have no switch for it: what is taken out is replaced here, before the program starts.
usage: python -m torture.sabotage DEFENCE PROGRAM [its arguments]
"""

import importlib
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
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


def _no_time_out() -> None:
    """Whoever asks MODE waits for its answer for ever."""
    client = importlib.import_module("bletoken.mode.http").HTTPClient
    begin = client.__init__

    def begin_patiently(self: Any, base_url: str, **options: Any) -> None:
        begin(self, base_url, **{**options, "timeout_s": None})

    client.__init__ = begin_patiently


def _sent_again() -> None:
    """The device takes a request without an answer for one that never left."""
    errors, api = (importlib.import_module(f"bletoken.{name}") for name in ("errors", "mode.device_api"))
    redeem = api.DeviceApi.redeem

    async def redeem_hopefully(self: Any, token: str) -> Any:
        try:
            return await redeem(self, token)
        except errors.CloudNoAnswerError as error:
            raise errors.CloudUnreachableError(str(error)) from error

    api.DeviceApi.redeem = redeem_hopefully


def _no_recovery() -> None:
    """The companion asks for another token without looking what came of the last one."""
    provisioning = importlib.import_module("bletoken_central.provisioning").Provisioning

    async def leave_it(self: Any, choose: object) -> None:
        pass

    provisioning.recover = leave_it


def _no_leftovers() -> None:
    """The companion does not look what an earlier run of its may have left in the home."""
    provisioning = importlib.import_module("bletoken_central.provisioning").Provisioning

    async def look_away(*_: object) -> None:
        pass

    provisioning.look_at_leftovers = look_away


def _no_patience() -> None:
    """The companion asks MODE for nothing twice."""
    importlib.import_module("bletoken_central.provisioning")._PAUSES_S = ()


def _no_forgetting() -> None:
    """The device keeps what it last told a companion when that has left."""
    server = importlib.import_module("bletoken_peripheral.gatt_server").GattServer
    disconnected = server.disconnected

    def remembering(self: Any, peer: str) -> None:
        told = self._last_message.get(peer)
        disconnected(self, peer)
        if told is not None:
            self._last_message[peer] = told

    server.disconnected = remembering


def _no_hanging_up() -> None:
    """The companion goes on listening to MODE's events when it is done."""
    events = importlib.import_module("bletoken_central.events").Events

    async def stay(*_: object) -> None:
        pass

    events.__aexit__ = stay


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


def _lose_the_old() -> None:
    """A file that could not be written is gone."""
    from bletoken import files
    from bletoken.errors import StorageError

    replace = files.replace

    def replace_or_lose(path: Path, octets: bytes) -> None:
        try:
            replace(path, octets)
        except StorageError:
            path.unlink(missing_ok=True)
            raise

    files.replace = replace_or_lose


def _keep_leftovers() -> None:
    """What an interrupted write left beside a file stays there."""
    unlink = Path.unlink

    def unlink_others(path: Path, missing_ok: bool = False) -> None:
        if not (missing_ok and path.suffix == ".new"):
            unlink(path, missing_ok)

    Path.unlink = unlink_others  # type: ignore[method-assign]


def _make_files_for_all() -> None:
    """A file is made for its group as well."""
    make = os.open
    os.open = lambda path, flags, mode=0o777: make(path, flags, 0o640 if mode == 0o600 else mode)


DEFENCES: dict[str, Callable[[], object]] = {
    "fsync": lambda: setattr(os, "fsync", lambda _: None),
    "retry": _no_retry,
    "same-answer": _no_same_answer,
    "time-out": _no_time_out,
    "sent-once": _sent_again,
    "recovery": _no_recovery,
    "leftovers": _no_leftovers,
    "patience": _no_patience,
    "forgetting": _no_forgetting,
    "hanging-up": _no_hanging_up,
    "fsync-file": lambda: _sync_no(stat.S_ISREG),
    "fsync-folder": lambda: _sync_no(stat.S_ISDIR),
    "redeeming": _never_write_redeeming,
    "beside": _write_in_place,
    "leftover": _keep_leftovers,
    "old": _lose_the_old,
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
