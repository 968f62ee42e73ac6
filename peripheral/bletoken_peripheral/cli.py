"""The command line of the device: `bletoken-peripheral`. It knows the arguments; `commands` does what they ask.

It imports nothing that takes time, so that `--help` answers at once.
"""

import argparse
import gc
import sys

from bletoken import command_line

_EXIT_CODES = """exit codes:
   0 done                    11 in a home already       25 identify_command did not work
   1 unexpected              15 storage failed          26 claim mode ended unclaimed
   2 usage, configuration    16 MODE refused            29 MODE refused the claim mode
   7 MODE unreachable        21 key not known to MODE  130 interrupted
   8 no answer from MODE     24 no device is running
   9 radio unavailable
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    # Next to nothing of what a start loads is garbage, and looking for it again and again is a good part of the start.
    gc.disable()
    try:
        return command_line.main(argv, parser, _run)
    finally:
        gc.enable()


def _run(arguments: argparse.Namespace) -> int:
    from bletoken_peripheral import commands

    if arguments.command != "run":
        # That one is still starting.
        gc.enable()
    return commands.run(arguments)


def parser(given: list[str]) -> argparse.ArgumentParser:
    """The parser for these words: what they do not name it need not know, because all of it takes longer."""
    parser = command_line.parser(
        "bletoken-peripheral",
        "The device's side of bletoken: takes a MODE provisioning token over Bluetooth LE and redeems it.",
        _EXIT_CODES,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", prog=parser.prog)
    table = (
        ("init", "make the state folder and the device's setup code", _init),
        ("label", "show the label, or make the labels of many devices", _label),
        ("run", "wait for a companion and get provisioned", _nothing_more),
        ("open", "let companions find the running device again", _nothing_more),
        ("claim", "turn a pre-provisioned device's claim mode on, or off again", _claim),
        ("status", "tell what state the device is in", _nothing_more),
        ("unlock", "take PINs again after too many wrong ones", _nothing_more),
        ("identify", "try the command that shows which device it is", _nothing_more),
        ("reset", "forget credentials and journal; the setup code and the PIN's failures stay", _reset),
    )
    for name, summary, add_arguments in [row for row in table if row[0] in given[:1]] or table:
        command = commands.add_parser(name, help=summary, formatter_class=command_line.formatter)
        command.set_defaults(command=name)
        if name in given:
            _common(command)
            add_arguments(command)
    return parser


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config",
        type=command_line.path,
        metavar="FILE",
        default="/etc/bletoken/peripheral.toml",
        help="the configuration (default: %(default)s)",
    )
    command.add_argument("--json", action="store_true", help="one JSON object a line, for programs")
    command.add_argument(
        "--verbose", action="store_true", help="show log records, and where an unexpected error happened"
    )


def _nothing_more(_: argparse.ArgumentParser) -> None:
    """A command that has the common arguments only."""


def _init(init: argparse.ArgumentParser) -> None:
    code = init.add_mutually_exclusive_group()
    code.add_argument("--no-pin", action="store_true", help="make a QR code only, no PIN")
    code.add_argument(
        "--code-file", metavar="FILE", help="take a code that label --batch prepared; - for standard input"
    )
    maker = init.add_argument_group("a pre-provisioned device", "what MODE's Developer Console shows of it; all three")
    maker.add_argument("--device-id", type=int, metavar="ID", help="its id")
    maker.add_argument("--api-key-file", metavar="FILE", help="its API key; - for standard input")
    maker.add_argument("--claim-code-file", metavar="FILE", help="its claim code; - for standard input")


def _label(label: argparse.ArgumentParser) -> None:
    label.add_argument("--svg", type=command_line.path, metavar="FILE", help="write an SVG picture of the whole label")
    label.add_argument("--png", type=command_line.path, metavar="FILE", help="write a PNG picture of the QR code")
    label.add_argument("--batch", type=int, metavar="N", help="make fresh codes for N devices, in a factory")
    label.add_argument(
        "--out", type=command_line.path, metavar="FOLDER", help="with --batch: the new folder they go to"
    )
    label.add_argument("--first-serial", type=int, default=1, metavar="N", help="with --batch (default: %(default)s)")
    label.add_argument("--no-pin", action="store_true", help="with --batch: QR codes only")


def _claim(claim: argparse.ArgumentParser) -> None:
    claim.add_argument(
        "--duration-s", type=int, default=300, metavar="SECONDS", help="how long, 60 to 900 (default: %(default)s)"
    )
    claim.add_argument("--off", action="store_true", help="turn it off")
    claim.add_argument(
        "--wait", action="store_true", help="stay until the device is in a home, or the claim mode ended"
    )


def _reset(reset: argparse.ArgumentParser) -> None:
    reset.add_argument(
        "--erase-key", action="store_true", help="of a pre-provisioned device forget id, key and claim code as well"
    )
    reset.add_argument("--yes", action="store_true", help="do not ask")


if __name__ == "__main__":
    sys.exit(main())
