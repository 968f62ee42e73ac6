"""What a hand-off came to, judged by what MODE has in its database and what lies on the device."""

import contextlib

from handoff.bench import Bench, Device, Outcome, until
from torture.report import Result, Trial

from bletoken.errors import StorageError
from bletoken.mode.credentials import Credentials

UNEXPECTED = 1
"""The exit code of an error that nobody foresaw."""


async def judge(
    fault: str, bench: Bench, device: Device, outcome: Outcome | None, *secrets: str, may_fail: bool = False
) -> Trial:
    """Judge one hand-off. In the end the device has to be in the home, and its key on the device.

    Args:
        fault: What went wrong.
        bench: Where it happened; its home was empty before.
        device: The only device on it.
        outcome: What the last companion came to; None if it had to be stopped.
        secrets: What else may not be anywhere in the device's folder any more: the tokens that MODE issued may not.
        may_fail: Whether the trouble goes on, so that a typed failure will do, with no device and no secret left.
    """
    if outcome is None:
        return Trial(fault, Result.HUNG, "the companion came to no end")
    elapsed_s = outcome.result.get("elapsed_s", {}).get("total")
    in_home = await bench.devices_in_home()
    # A token that MODE was asked about again is refused, with a status of its own.
    refused = [status for status in bench.redemptions if status is not None and 400 <= status < 500]
    if len(in_home) > 1 or refused:
        return Trial(fault, Result.DOUBLED, f"in the home: {in_home}, redemptions: {bench.redemptions}", elapsed_s)
    if outcome.exit_code == UNEXPECTED:
        return Trial(fault, Result.LOST, f"not a typed failure: {outcome.message}")
    # A device that could not write its journal for a while does so when it can.
    tokens = [*secrets, *issued(bench)]
    with contextlib.suppress(AssertionError):
        await until(lambda: not _files_with(device, tokens))
    credentials, left = _credentials(device), _files_with(device, tokens)
    found = f"{outcome.message or 'done'}: in the home: {in_home}, secrets in: {left}"
    if credentials is not None and in_home == [credentials.device_id] and await bench.accepts(credentials) and not left:
        # A companion that was away when it succeeded may have been told that the device has an owner already.
        return Trial(fault, Result.SURVIVED, elapsed_s=elapsed_s)
    if not may_fail or outcome.exit_code == 0 or in_home or credentials is not None or left:
        return Trial(fault, Result.LOST, f"{found}, and no key on the device that MODE accepts for it", elapsed_s)
    return Trial(fault, Result.SURVIVED)


def issued(bench: Bench) -> list[str]:
    """The tokens that MODE ever issued."""
    return [row["token"] for row in bench.mode.store._db.execute("SELECT token FROM tokens")]


def _credentials(device: Device) -> Credentials | None:
    try:
        return device.credentials
    except StorageError:
        return None


def _files_with(device: Device, secrets: list[str]) -> list[str]:
    found = []
    for path in device.folder.path.iterdir():
        # The device is running, and a file of a moment ago may be another by now.
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and any(secret.encode() in path.read_bytes() for secret in secrets):
                found.append(path.name)
    return found
