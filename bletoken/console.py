"""What the commands have in common when they run: printable text, errors with advice, JSON lines, signals."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TextIO, TypeVar

from bletoken.errors import BletokenError, UsageError

_T = TypeVar("_T")


class UnexpectedError(BletokenError):
    """Something that should not happen happened.

    Run it again with --verbose, and report what it shows.
    """


LONGEST_SHOWN: Final = 64
"""Characters of a string from the radio or the cloud that reach a screen."""

EXIT_INTERRUPTED: Final = 130
"""The exit code after Ctrl-C."""

_LARGEST_SECRET: Final = 4096

EXTRAS: Final = {
    "bless": "peripheral",
    "dbus_next": "peripheral",
    "segno": "peripheral",
    "bleak": "central",
    "keyring": "central",
    "PIL": "central",
    "platformdirs": "central",
    "rich": "central",
    "zxingcpp": "central",
    "bumble": "sim",
    "starlette": "sim",
    "uvicorn": "sim",
}
"""The extra of this distribution that brings a library, by the library's import name."""


def printable(text: str, longest: int = LONGEST_SHOWN) -> str:
    """Untrusted text as it may be shown: printable characters only, on one line, bounded."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: longest + 1])
    return shown if len(shown) <= longest else shown[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"


def say(text: str) -> None:
    """Print a line at once, whatever the terminal can encode."""
    _write(sys.stdout, text)


def say_json(content: dict[str, object]) -> None:
    """Print one JSON object on one line at once."""
    _write(sys.stdout, json.dumps(content, ensure_ascii=True))


def complain(text: str) -> None:
    """Print a line to standard error."""
    _write(sys.stderr, text)


def _write(stream: TextIO, text: str) -> None:
    encoding = stream.encoding or "ascii"
    stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    stream.flush()


def secret_from(name: str, what: str) -> str:
    """A secret from a file, or from the first line of standard input for `-`; without the spaces around it.

    Args:
        name: The file's path, or `-`.
        what: What it is, for the error.

    Raises:
        UsageError: It cannot be read, or is too large. The message does not repeat it.
    """
    try:
        if name == "-":
            octets = sys.stdin.buffer.readline(_LARGEST_SECRET + 1)
        else:
            with open(name, "rb") as file:  # noqa: PTH123 nothing else of pathlib is needed here
                octets = file.read(_LARGEST_SECRET + 1)
        if len(octets) > _LARGEST_SECRET:
            raise UsageError(f"{name} is too large to hold {what}")
        return octets.decode("utf-8").strip()
    except OSError as e:
        raise UsageError(f"cannot read {what} from {name}: {e.strerror}") from e
    except UnicodeDecodeError:
        raise UsageError(f"{name} is not text, so it does not hold {what}") from None


async def answer(question: str) -> str:
    """What a person types, without the spaces around it; empty where there is nothing more to come."""
    sys.stdout.write(question)
    sys.stdout.flush()
    loop = asyncio.get_running_loop()
    typed: asyncio.Future[bytes] = loop.create_future()

    def take(line: bytes) -> None:
        if not typed.done():
            typed.set_result(line)

    def read() -> None:
        try:
            line = os.read(sys.stdin.fileno(), _LARGEST_SECRET)
        except OSError:
            # The terminal is gone, and nobody will type any more.
            line = b""
        # Whoever asked may have gone, and the loop with it.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(take, line)

    # Not one of asyncio's threads: those are waited for at the end, and nothing ends this one but a line.
    threading.Thread(target=read, daemon=True).start()
    return (await typed).decode("utf-8", "replace").strip()


def run_command(command: Callable[[], int], *, as_json: bool, verbose: bool = False) -> int:
    """Run a command and turn what it raises into a message and an exit code.

    Args:
        command: Returns the exit code.
        as_json: Whether errors are JSON objects on standard output instead of lines on standard error.
        verbose: Whether log records are shown.
    """
    logging.basicConfig(level=logging.DEBUG if verbose else logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    # At DEBUG it shows header lines of an answer, and with them whatever a hostile server sends back.
    logging.getLogger("httpcore").setLevel(logging.INFO)
    if not verbose:
        # What the virtual radio's library says when a radio goes away is told in our own words.
        logging.getLogger("bumble").setLevel(logging.CRITICAL)
    try:
        return command()
    except BletokenError as error:
        return _report_error(error, as_json=as_json)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; there is nobody to tell, not even when the interpreter flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if (missing := _missing_extra(error)) is not None:
            return _report_error(missing, as_json=as_json)
        # A traceback can quote what it should not, so it is shown on request only.
        logging.getLogger(__name__).debug("unexpected error", exc_info=True)
        return _report_error(UnexpectedError(f"unexpected {type(error).__name__}"), as_json=as_json)


def _missing_extra(error: BaseException) -> UsageError | None:
    """What to tell when a library of an extra is not installed; None when that is not what went wrong."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if not isinstance(error, ModuleNotFoundError):
        return None
    library = (error.name or "").partition(".")[0]
    if library not in EXTRAS:
        return None
    return UsageError(f"{library} is not installed; this needs: pip install 'bletoken[{EXTRAS[library]}]'")


def _report_error(error: BletokenError, *, as_json: bool) -> int:
    if as_json:
        say_json(error_object(error))
    else:
        complain(f"Error: {printable(str(error), 500)}")
        complain(error.advice)
    return error.exit_code


def error_object(error: BletokenError) -> dict[str, object]:
    """An error for machines."""
    return {
        "ok": False,
        "error": type(error).__name__.removesuffix("Error"),
        "message": printable(str(error), 500),
        "advice": error.advice,
        "exit_code": error.exit_code,
    }


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Do the work of a command in an event loop, which Ctrl-C cancels.

    HACK: `asyncio.run` is not enough, as of Python 3.11. The kernel may give a signal to any thread, and at any moment;
    nothing wakes a loop for which it came in another thread, or just before it went to sleep. Its own handlers do.

    Raises:
        KeyboardInterrupt: It was cancelled so.
    """
    interrupted = False

    async def until_interrupted() -> _T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def interrupt() -> None:
            nonlocal interrupted
            interrupted = True
            task.cancel()

        # A shell's background job ignores Ctrl-C. On Windows it wakes the loop by itself, without such handlers.
        with contextlib.suppress(NotImplementedError):
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
                loop.add_signal_handler(signal.SIGINT, interrupt)
        try:
            return await work
        finally:
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(signal.SIGINT)

    try:
        return asyncio.run(until_interrupted())
    except asyncio.CancelledError:
        if interrupted:
            raise KeyboardInterrupt from None
        raise


async def until_signalled(work: Awaitable[None]) -> None:
    """Await something; SIGTERM and SIGINT cancel it and end quietly."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    signalled = False

    def stop() -> None:
        nonlocal signalled
        signalled = True
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        # Windows has no such handlers; there Ctrl-C arrives as KeyboardInterrupt.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop)
    try:
        await task
    except asyncio.CancelledError:
        if not signalled:
            raise
