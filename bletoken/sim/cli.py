"""The command line of the simulator: `bletoken-sim`. It knows the arguments; each command has a module that does it.

It imports nothing that takes time, so that `--help` answers at once.
"""

import argparse
import sys

from bletoken import command_line


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return command_line.main(argv, parser, _run)


def _run(arguments: argparse.Namespace) -> int:
    match arguments.command:
        case "air":
            from bletoken.sim.air import command as air

            return air.run(arguments)
        case "cloud":
            from bletoken.sim.cloud import command as cloud

            return cloud.run(arguments)
        case _:
            from bletoken.sim import demo

            return demo.run(arguments)


def parser(given: list[str]) -> argparse.ArgumentParser:
    """The parser for these words; only a command that is among them gets its arguments."""
    parser = command_line.parser("bletoken-sim", "A virtual radio and a local MODE, to run bletoken without hardware.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", prog=parser.prog)
    for name, summary in (
        ("air", "a virtual radio that peripherals and companions join"),
        ("cloud", "a local MODE"),
        ("demo", "one whole hand-off, in separate processes"),
    ):
        command = commands.add_parser(name, help=summary, description=summary, formatter_class=command_line.formatter)
        command.set_defaults(command=name)
        if name not in given:
            continue
        match name:
            case "air":
                _air(command)
            case "cloud":
                from bletoken.sim.cloud import arguments

                arguments.add_arguments(command, given)
            case _:
                _demo(command)
    return parser


def _air(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--listen",
        metavar="ENDPOINT",
        help="where programs join: unix:/path/to/air.sock or tcp:127.0.0.1:4242; by default a fresh socket",
    )
    parser.add_argument(
        "--adapters",
        metavar="N",
        type=int,
        default=0,
        help="make N adapters of this machine that are on the air, for BlueZ (root only)",
    )
    parser.add_argument(
        "--btsnoop", metavar="FILE", type=command_line.path, help="record all HCI packets; Wireshark opens the file"
    )
    parser.add_argument(
        "--interval-ms", metavar="MS", type=float, default=15.0, help="connection interval; 0 for none (default 15)"
    )
    parser.add_argument("--delay-ms", metavar="MS", type=float, default=0.0, help="more delay on connections")
    parser.add_argument(
        "--control-delay-ms", metavar="MS", type=float, default=0.0, help="more delay for link control (BlueZ: 100)"
    )
    parser.add_argument("--jitter-ms", metavar="MS", type=float, default=0.0, help="random delay up to this much")
    parser.add_argument(
        "--advertising-loss", metavar="SHARE", type=float, default=0.0, help="advertisements missed, 0 to 1"
    )
    parser.add_argument(
        "--drop-after", metavar="N", type=int, help="every connection breaks after N packets (default never)"
    )
    parser.add_argument(
        "--drop-share", metavar="SHARE", type=float, default=0.0, help="connections that break by themselves, 0 to 1"
    )
    parser.add_argument(
        "--drop-within", metavar="N", type=int, default=20, help="those break after fewer packets than N (default 20)"
    )
    parser.add_argument(
        "--supervision-timeout-s", metavar="S", type=float, default=0.42, help="a silent peer is lost after (0.42)"
    )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="everything random comes from it")
    parser.add_argument("--json", action="store_true", help="print one JSON object when ready")


def _demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object a line, the result last")
    parser.add_argument(
        "--claim",
        action="store_true",
        help="a device made ahead of time, which hands its claim code over, instead of one that takes a token",
    )
    parser.add_argument(
        "--mtu", type=int, default=247, help="the ATT MTU of the link, 23 to 517 (default: %(default)s)"
    )
    parser.add_argument(
        "--token-octets", type=int, default=120, help="the length of MODE's tokens (default: %(default)s)"
    )
    parser.add_argument(
        "--folder",
        type=command_line.path,
        help="where state and logs go, a folder that does not exist yet (default: a fresh one)",
    )


if __name__ == "__main__":
    sys.exit(main())
