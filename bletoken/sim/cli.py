"""The command line of the simulator: `bletoken-sim`.

Libraries are imported by the command that needs them, so that `--help` answers at once.
"""

import argparse
import sys

from bletoken import console
from bletoken.sim import demo
from bletoken.sim.air import command as air
from bletoken.sim.cloud import command as cloud


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = _parser().parse_args(argv)
    return console.run_command(lambda: int(arguments.command(arguments)), as_json=arguments.json)


def _parser() -> argparse.ArgumentParser:
    parser = console.parser("bletoken-sim", "A virtual radio and a local MODE, to run bletoken without hardware.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, module, summary in (
        ("air", air, "a virtual radio that peripherals and companions join"),
        ("cloud", cloud, "a local MODE"),
        ("demo", demo, "one whole hand-off, in separate processes"),
    ):
        command = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(command)
        command.set_defaults(command=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
