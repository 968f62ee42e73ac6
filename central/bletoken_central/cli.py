"""The command line of the companion: `bletoken-central`. It knows the arguments; `commands` does what they ask.

It imports nothing that takes time, so that `--help` answers at once.
"""

import argparse
import sys

from bletoken import command_line

SETUP_CODE_VARIABLE = "BLETOKEN_SETUP_CODE"
SESSION_KEY_VARIABLE = "BLETOKEN_SESSION_KEY"
PASSWORD_VARIABLE = "BLETOKEN_MODE_PASSWORD"

_EXIT_CODES = """exit codes:
   0 done                     9 radio unavailable       17 not signed in
   1 unexpected              10 device busy             18 device's clock wrong
   2 usage                   11 provisioned already     19 not allowed now
   3 device not found        12 protocol error          20 no answer in time
   4 setup code refused      13 version not shared      21 device was removed in MODE
   5 PIN locked              14 link failed             22 not listed in the home
   6 token refused           15 storage failed         130 interrupted
   7 MODE unreachable        16 MODE failed or refused
   8 outcome unknown         23 several devices near, a PIN does not tell which
  26 claim mode has ended    28 claim code refused      30 MODE gives no token
  27 claim mode is off       29 claim mode refused by MODE
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return command_line.main(argv, parser, _run)


def _run(arguments: argparse.Namespace) -> int:
    from bletoken_central import commands

    return commands.run(arguments)


def parser(given: list[str]) -> argparse.ArgumentParser:
    """The parser for these words: what they do not name it need not know, because all of it takes longer."""
    parser = command_line.parser(
        "bletoken-central",
        "The companion's side of bletoken: hands a MODE provisioning token to a device over Bluetooth LE.",
        _EXIT_CODES,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", prog=parser.prog)
    table = (
        ("scan", "list the bletoken devices in range", (_scan,)),
        ("info", "tell what a device says of itself", (_device, _info)),
        ("identify", "make the device show itself", (_device,)),
        ("login", "sign in to MODE and keep the session", (_user, _login)),
        ("logout", "forget the session", (_user,)),
        ("push", "hand over a provisioning token you have", (_device, _push)),
        (
            "provision",
            "ask MODE for a token, hand it over, see the device at home",
            (_user, _home, _device, _provision),
        ),
        (
            "claim",
            "take a pre-provisioned device home, over Bluetooth or by its typed claim code",
            (_user, _home, _device, _claim),
        ),
    )
    for name, summary, parts in [row for row in table if row[0] in given[:1]] or table:
        command = commands.add_parser(name, help=summary, formatter_class=command_line.formatter)
        command.set_defaults(command=name)
        if name in given:
            for add_arguments in (_common, *parts):
                add_arguments(command)
    return parser


# What several commands have -----------------------------------------------------------------------------------------


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--radio", default="system", help="system, system:hci1, or air:unix:PATH (default: system)")
    command.add_argument("--json", action="store_true", help="one JSON object a line, the result last, for programs")
    command.add_argument(
        "--verbose", action="store_true", help="show log records, and where an unexpected error happened"
    )


def _device(device: argparse.ArgumentParser) -> None:
    code = device.add_argument_group(
        "the device's setup code", f"else the variable {SETUP_CODE_VARIABLE}, else you are asked"
    )
    either = code.add_mutually_exclusive_group()
    either.add_argument("--qr", type=command_line.path, metavar="PICTURE", help="a picture of the label's QR code")
    either.add_argument(
        "--code-file", type=command_line.path, metavar="FILE", help="a file with the QR code's text or the PIN"
    )
    device.add_argument(
        "--device", metavar="ADDRESS", help="the device's address, as scan shows it; for use with a PIN"
    )
    device.add_argument("--find-s", type=float, default=20, metavar="SECONDS", help="how long to look for the device")
    device.add_argument("--timeout-s", type=float, default=180, metavar="SECONDS", help="how long to try in all")


def _user(user: argparse.ArgumentParser) -> None:
    user.add_argument("--mode-url", default="https://api.tinkermode.com", metavar="URL", help="MODE's base URL")
    user.add_argument("--mode-ca", type=command_line.path, metavar="FILE", help="CA certificates to trust for it")
    user.add_argument(
        "--session-file",
        type=command_line.path,
        metavar="FILE",
        help="keep the session in this file, not in the system's keyring",
    )


def _home(home: argparse.ArgumentParser) -> None:
    home.add_argument(
        "--session-key-file",
        type=command_line.path,
        metavar="FILE",
        help=f"the user's MODE session key; else {SESSION_KEY_VARIABLE}, else what login kept, else asked for",
    )
    home.add_argument("--home", type=int, metavar="ID", help="the home; may be left out by a user who has one")


# What one command has -----------------------------------------------------------------------------------------------


def _scan(scan: argparse.ArgumentParser) -> None:
    scan.add_argument("--seconds", type=float, default=5, help="how long to listen (default: %(default)s)")


def _info(info: argparse.ArgumentParser) -> None:
    info.add_argument("--no-code", action="store_true", help="ask only what anybody in the room may know")


def _login(login: argparse.ArgumentParser) -> None:
    login.add_argument("--project", type=int, required=True, metavar="ID", help="the MODE project")
    login.add_argument("--app", required=True, metavar="ID", help="the app's id in that project")
    login.add_argument("--email", required=True, help="the user's email address")
    login.add_argument(
        "--password-file", type=command_line.path, metavar="FILE", help=f"else {PASSWORD_VARIABLE}, else asked for"
    )


def _push(push: argparse.ArgumentParser) -> None:
    push.add_argument(
        "--token-file", metavar="FILE", help="a file with the token, - for standard input; else asked for"
    )


def _provision(provision: argparse.ArgumentParser) -> None:
    provision.add_argument("--class", dest="device_class", required=True, metavar="CLASS", help="MODE's device class")
    provision.add_argument("--tag", help="the tag the device is to have")


def _claim(claim: argparse.ArgumentParser) -> None:
    claim.add_argument(
        "--duration-s",
        type=int,
        default=300,
        metavar="SECONDS",
        help="how long the device's claim mode is to last, 60 to 900 (default: %(default)s)",
    )
    typed = claim.add_argument_group(
        "without Bluetooth", "the claim mode is on already: bletoken-peripheral claim, on the device"
    ).add_mutually_exclusive_group()
    typed.add_argument("--typed", action="store_true", help="ask for the claim code")
    typed.add_argument(
        "--claim-code-file", metavar="FILE", help="take the claim code from a file; - for standard input"
    )


if __name__ == "__main__":
    sys.exit(main())
