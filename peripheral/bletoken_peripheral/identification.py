"""Runs the device maker's command that shows which device this is; bounded in time, and never through a shell."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Final

from bletoken.errors import IdentifyError

LONGEST_S: Final = 30
"""Seconds after which the command and all that it started are killed."""


async def run(command: Sequence[str], *, started: Callable[[], None] = lambda: None) -> None:
    """Run the command to its end. It has no input and no output, and whatever it leaves behind ends with it.

    Args:
        command: The program and its arguments.
        started: Is told as soon as it runs.

    Raises:
        IdentifyError: It cannot be run, failed, or took too long.
    """
    nothing = asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True
        )
    except OSError as e:
        raise IdentifyError(f"{command[0]} cannot be run: {e.strerror}") from e
    try:
        started()
        async with asyncio.timeout(LONGEST_S):
            exit_code = await process.wait()
    except TimeoutError:
        raise IdentifyError(f"{command[0]} did not end within {LONGEST_S} s and was killed") from None
    finally:
        # A session of its own is a process group of its own, named like its first process.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if sys.platform == "win32":
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if exit_code != 0:
        raise IdentifyError(f"{command[0]} ended with exit code {exit_code}")
