"""What a hand-off came to, judged by what MODE has in its database and what lies on the device."""

from handoff.bench import Bench, Device, Outcome
from torture.report import Result, Trial

UNEXPECTED = 1
"""The exit code of an error that nobody foresaw."""


async def judge(fault: str, bench: Bench, device: Device, outcome: Outcome | None, *secrets: str) -> Trial:
    """Judge one hand-off.

    Args:
        fault: What went wrong.
        bench: Where it happened; its home was empty before.
        device: The only device on it.
        outcome: What the last companion came to; None if it had to be stopped.
        secrets: What may not be anywhere in the device's folder any more if the hand-off failed: the tokens.
    """
    if outcome is None:
        return Trial(fault, Result.HUNG, "the companion came to no end")
    elapsed_s = outcome.result.get("elapsed_s", {}).get("total")
    in_home = await bench.devices_in_home()
    # A token that MODE was asked about again is refused, with a status of its own.
    refused = [status for status in bench.redemptions if status is not None and 400 <= status < 500]
    if len(in_home) > 1 or refused:
        return Trial(fault, Result.DOUBLED, f"in the home: {in_home}, redemptions: {bench.redemptions}", elapsed_s)
    credentials = device.credentials
    if outcome.exit_code == 0:
        if credentials is None or in_home != [credentials.device_id] or not await bench.accepts(credentials):
            return Trial(fault, Result.LOST, f"in the home: {in_home}, no key that MODE accepts for it", elapsed_s)
        return Trial(fault, Result.SURVIVED, elapsed_s=elapsed_s)
    if outcome.exit_code == UNEXPECTED:
        return Trial(fault, Result.LOST, f"not a typed failure: {outcome.message}")
    left = [path.name for path in device.folder.path.iterdir() if path.is_file() and _holds(path.read_bytes(), secrets)]
    if in_home or credentials is not None or left:
        return Trial(fault, Result.LOST, f"{outcome.message}: in the home: {in_home}, secrets in: {left}")
    return Trial(fault, Result.SURVIVED)


def _holds(content: bytes, secrets: tuple[str, ...]) -> bool:
    return any(secret.encode() in content for secret in secrets)
