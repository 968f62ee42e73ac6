"""What the command lines have in common before they know what is asked: arguments, and `--help`.

It imports nothing but argparse, so that `--help` answers at once; `console` is what the commands themselves need.
"""

import argparse
import os
import sys

# Not from `typing`, which alone would take half as long as argparse.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import NoReturn

_COLUMNS = 80
"""The width of what is no terminal."""


def parser(prog: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """An argument parser in the house's manner; the epilog is shown as it is."""
    return _Parser(
        prog=prog, description=description, epilog=epilog, formatter_class=_raw_formatter, allow_abbrev=False
    )


class _NotUnderstoodError(Exception):
    """A command line that a parser, maybe one below another, does not understand."""


class _Parser(argparse.ArgumentParser):
    """Tells a person how it is used, and a machine, with `--json`, an error like any other."""

    def error(self, message: str) -> "NoReturn":
        raise _NotUnderstoodError(self, message)

    def parse_args(self, args: "list[str] | None" = None, namespace: None = None) -> argparse.Namespace:  # type: ignore[override] # nobody brings another namespace
        try:
            return super().parse_args(args, namespace)
        except _NotUnderstoodError as error:
            parser, message = error.args
            if "--json" not in (sys.argv[1:] if args is None else args):
                argparse.ArgumentParser.error(parser, message)

            from bletoken import console
            from bletoken.errors import UsageError

            console.say_json(console.error_object(UsageError(message)))
            sys.exit(UsageError.exit_code)


def formatter(prog: str) -> argparse.HelpFormatter:
    """What lays out a command's help: `formatter_class` wherever a parser is added below another."""
    return argparse.HelpFormatter(prog, width=_columns() - 2)


def _raw_formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, width=_columns() - 2)


def _columns() -> int:
    """How wide the terminal is. argparse asks `shutil`, and loads all about archives with it."""
    said = os.environ.get("COLUMNS", "")
    if said.isdecimal() and int(said) > 0:
        return int(said)
    try:
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or _COLUMNS if sys.__stdout__ else _COLUMNS
    except (OSError, ValueError):
        # It is no terminal, or closed.
        return _COLUMNS


def path(text: str) -> "Path":
    """An argument that is a path."""
    from pathlib import Path

    return Path(text)


def main(
    argv: list[str] | None,
    parser: "Callable[[list[str]], argparse.ArgumentParser]",
    run: "Callable[[argparse.Namespace], int]",
) -> int:
    """Run a command line; returns the exit code.

    Args:
        argv: The words behind the program's name; None for those of this process.
        parser: Makes the parser for these words. Arguments of commands that are not among them may be left out.
        run: Runs the command with the arguments, and returns the exit code.
    """
    given = sys.argv[1:] if argv is None else argv
    # Every user of the machine can read it here, and argparse may repeat what it does not understand.
    shows_a_secret = any("BLETOKEN1:" in word.upper() for word in given)
    arguments = argparse.Namespace() if shows_a_secret else parser(given).parse_args(given)

    from bletoken import console
    from bletoken.errors import UsageError

    def command() -> int:
        if shows_a_secret:
            raise UsageError(
                "a setup code on the command line can be seen by others; give it in a file or at the prompt"
            )
        return run(arguments)

    return console.run_command(command, as_json="--json" in given, verbose="--verbose" in given)
