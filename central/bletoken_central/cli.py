"""The command line of the companion: `bletoken-central`.

Libraries are imported by the command that needs them, so that `--help` answers at once.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Coroutine
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from bletoken import console
from bletoken.errors import UsageError

if TYPE_CHECKING:
    from bletoken.protocol.setup_code import SetupCode
    from bletoken_central.handoff import Limits, Progress

_T = TypeVar("_T")

_SETUP_CODE_VARIABLE: Final = "BLETOKEN_SETUP_CODE"
_SESSION_KEY_VARIABLE: Final = "BLETOKEN_SESSION_KEY"
_LARGEST_SECRET: Final = 4096

_EXIT_CODES: Final = """exit codes:
   0 done                     9 radio unavailable       17 not signed in
   1 unexpected              10 device busy             18 device's clock wrong
   2 usage                   11 provisioned already     19 not allowed now
   3 device not found        12 protocol error          20 no answer in time
   4 setup code refused      13 version not shared      21 device was removed in MODE
   5 PIN locked              14 link failed             22 not listed in the home
   6 token refused           15 storage failed         130 interrupted
   7 MODE unreachable        16 MODE failed or refused
   8 outcome unknown
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = sys.argv[1:] if argv is None else argv
    as_json = "--json" in given

    def run() -> int:
        console.refuse_secrets(given)
        arguments = _parser().parse_args(given)
        return int(arguments.command(arguments))

    return console.run_command(run, as_json=as_json, verbose="--verbose" in given)


def _parser() -> argparse.ArgumentParser:
    parser = console.parser(
        "bletoken-central",
        "The companion's side of bletoken: hands a MODE provisioning token to a device over Bluetooth LE.",
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXIT_CODES
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--radio", default="system", help="system, system:hci1, or air:unix:PATH (default: system)")
    common.add_argument("--json", action="store_true", help="one JSON object a line, the result last, for programs")
    common.add_argument("--verbose", action="store_true", help="show log records; they never hold secrets")

    device = argparse.ArgumentParser(add_help=False)
    code = device.add_argument_group(
        "the device's setup code", f"else the variable {_SETUP_CODE_VARIABLE}, else you are asked"
    )
    either = code.add_mutually_exclusive_group()
    either.add_argument("--qr", type=Path, metavar="PICTURE", help="a picture of the label's QR code")
    either.add_argument("--code-file", type=Path, metavar="FILE", help="a file with the QR code's text or the PIN")
    device.add_argument(
        "--device", metavar="ADDRESS", help="the device's address, as scan shows it; for use with a PIN"
    )
    device.add_argument("--find-s", type=float, default=20, metavar="SECONDS", help="how long to look for the device")
    device.add_argument("--timeout-s", type=float, default=180, metavar="SECONDS", help="how long to try in all")

    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    scan = commands.add_parser("scan", parents=[common], help="list the bletoken devices in range")
    scan.add_argument("--seconds", type=float, default=5, help="how long to listen (default: %(default)s)")
    scan.set_defaults(command=_scan)

    push = commands.add_parser("push", parents=[common, device], help="hand over a provisioning token you have")
    push.add_argument(
        "--token-file", metavar="FILE", help="a file with the token, - for standard input; else asked for"
    )
    push.set_defaults(command=_push)

    provision = commands.add_parser(
        "provision", parents=[common, device], help="ask MODE for a token, hand it over, see the device in the home"
    )
    provision.add_argument(
        "--session-key-file",
        type=Path,
        metavar="FILE",
        help=f"a file with the user's MODE session key; else the variable {_SESSION_KEY_VARIABLE}, else asked for",
    )
    provision.add_argument("--home", type=int, metavar="ID", help="the home; may be left out by a user who has one")
    provision.add_argument("--class", dest="device_class", required=True, metavar="CLASS", help="MODE's device class")
    provision.add_argument("--tag", help="the tag the device is to have")
    provision.add_argument("--mode-url", default="https://api.tinkermode.com", metavar="URL", help="MODE's base URL")
    provision.add_argument("--mode-ca", type=Path, metavar="FILE", help="CA certificates to trust for it")
    provision.set_defaults(command=_provision)
    return parser


# Secrets ------------------------------------------------------------------------------------------------------------


def _setup_code(arguments: argparse.Namespace) -> "SetupCode":
    from bletoken.protocol.setup_code import parse_setup_code

    if arguments.qr:
        from bletoken_central import qr

        return qr.read(arguments.qr)
    if arguments.code_file:
        return parse_setup_code(_from_file(arguments.code_file, "the setup code"))
    if _SETUP_CODE_VARIABLE in os.environ:
        return parse_setup_code(os.environ[_SETUP_CODE_VARIABLE])
    return parse_setup_code(_ask("Setup code (QR text or PIN): ", "--qr, --code-file or " + _SETUP_CODE_VARIABLE))


def _session_key(arguments: argparse.Namespace) -> str:
    if arguments.session_key_file:
        return _from_file(arguments.session_key_file, "the session key")
    if _SESSION_KEY_VARIABLE in os.environ:
        return os.environ[_SESSION_KEY_VARIABLE]
    return _ask("MODE session key: ", "--session-key-file or " + _SESSION_KEY_VARIABLE)


def _token(arguments: argparse.Namespace) -> str:
    from bletoken.protocol.wire import LONGEST_TOKEN

    if arguments.token_file == "-":
        token = sys.stdin.readline(_LARGEST_SECRET).strip()
    elif arguments.token_file:
        token = _from_file(Path(arguments.token_file), "the token")
    else:
        token = _ask("Provisioning token: ", "--token-file")
    if not 1 <= len(token) <= LONGEST_TOKEN or not all("!" <= c <= "~" for c in token):
        raise UsageError(f"a provisioning token is 1 to {LONGEST_TOKEN} printable ASCII characters without spaces")
    return token


def _from_file(path: Path, what: str) -> str:
    try:
        with path.open("rb") as file:
            octets = file.read(_LARGEST_SECRET + 1)
        if len(octets) > _LARGEST_SECRET:
            raise UsageError(f"{path} is too large to hold {what}")
        return octets.decode("utf-8").strip()
    except OSError as e:
        raise UsageError(f"cannot read {what} from {path}: {e.strerror}") from e
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not text, so it does not hold {what}") from None


def _ask(prompt: str, instead: str) -> str:
    if not sys.stdin.isatty():
        raise UsageError(f"nobody is here to be asked; use {instead}")
    from getpass import getpass

    return getpass(prompt).strip()


# Commands -----------------------------------------------------------------------------------------------------------


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    return asyncio.run(work)


def _limits(arguments: argparse.Namespace) -> "Limits":
    from bletoken_central.handoff import Limits

    for name in ("find_s", "timeout_s"):
        if not 0 < getattr(arguments, name) <= 86400:
            raise UsageError(f"--{name.replace('_', '-')} takes a number of seconds above 0")
    return Limits(find_s=arguments.find_s, total_s=arguments.timeout_s)


def _scan(arguments: argparse.Namespace) -> int:
    from bletoken.protocol.wire import CoarseState
    from bletoken_central.onboarding import Companion

    states = {state.letter: state.name.lower().replace("_", " ") for state in CoarseState}

    async def scan() -> int:
        count = 0
        async with Companion(arguments.radio) as companion:
            async for found in companion.scan(arguments.seconds):
                count += 1
                assert found.name is not None, "scan gives devices with a name only"
                state = states.get(found.name.state, "unknown")
                if arguments.json:
                    console.say_json(
                        {"address": found.address, "name": str(found.name), "state": state, "rssi": found.rssi}
                    )
                else:
                    console.say(f"{found.address}  {found.name}  {found.rssi:4} dBm  {state}")
        return count

    count = _run(scan())
    if arguments.json:
        console.say_json({"ok": True, "devices": count})
    elif count == 0:
        console.say("No bletoken device is in range. Is one near, with power, and waiting to be set up?")
    return 0


def _push(arguments: argparse.Namespace) -> int:
    from bletoken_central.handoff import Token
    from bletoken_central.onboarding import Companion

    code, token, limits = _setup_code(arguments), Token(_token(arguments)), _limits(arguments)

    async def push() -> int:
        with _view(arguments) as view:
            async with Companion(arguments.radio, report=view.report, limits=limits) as companion:
                pushed = await companion.push(code, token, address=arguments.device)
        if arguments.json:
            console.say_json({"ok": True, "device_id": pushed.device_id, "elapsed_s": pushed.elapsed_s})
        else:
            console.say(f"Done: the device is provisioned as {pushed.device_id}.")
        return 0

    return _run(push())


def _provision(arguments: argparse.Namespace) -> int:
    from bletoken_central.onboarding import Companion

    code, key, limits = _setup_code(arguments), _session_key(arguments), _limits(arguments)

    async def provision() -> int:
        with _view(arguments) as view:
            async with Companion(
                arguments.radio,
                session_key=key,
                mode_url=arguments.mode_url,
                mode_ca=arguments.mode_ca,
                report=view.report,
                limits=limits,
            ) as companion:
                onboarded = await companion.provision(
                    code,
                    home_id=arguments.home,
                    device_class=arguments.device_class,
                    tag=arguments.tag,
                    address=arguments.device,
                )
        if arguments.json:
            console.say_json(
                {
                    "ok": True,
                    "device_id": onboarded.device_id,
                    "home_id": onboarded.home_id,
                    "event": onboarded.event,
                    "device_class": onboarded.device.device_class,
                    "tag": onboarded.device.tag,
                    "elapsed_s": onboarded.elapsed_s,
                }
            )
        else:
            came = f'its event "{console.printable(onboarded.event)}" came' if onboarded.event else "no event came"
            console.say(f"Done: device {onboarded.device_id} is in home {onboarded.home_id}; {came}.")
        return 0

    return _run(provision())


# Progress -----------------------------------------------------------------------------------------------------------


class _View(AbstractContextManager["_View"]):
    """Progress as plain lines."""

    def report(self, progress: "Progress") -> None:
        """Show a step."""
        console.say(f"  {self.text(progress)}")

    def __exit__(self, *_: object) -> None:
        """Nothing to tidy up."""

    @staticmethod
    def text(progress: "Progress") -> str:
        """A step in words."""
        words = progress.step.value[0].upper() + progress.step.value[1:]
        detail = console.printable(progress.detail, 160)
        return f"{words}: {detail}" if detail else words


class _JsonView(_View):
    """Progress as JSON objects."""

    def report(self, progress: "Progress") -> None:
        """Show a step."""
        console.say_json({"step": progress.step.name.lower(), "detail": console.printable(progress.detail, 160)})


class _TerminalView(_View):
    """Progress on a terminal: what is done stays, what goes on spins."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False)
        self._status = self._console.status("")
        self._going_on = ""

    def __enter__(self) -> "_TerminalView":
        self._status.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._done("[green]\N{CHECK MARK}[/]" if raised[0] is None else "[red]\N{BALLOT X}[/]")
        self._status.stop()

    def report(self, progress: "Progress") -> None:
        """Show a step."""
        from rich.markup import escape

        self._done("[green]\N{CHECK MARK}[/]")
        self._going_on = escape(self.text(progress))
        self._status.update(self._going_on)

    def _done(self, mark: str) -> None:
        if self._going_on:
            self._console.print(f"{mark} {self._going_on}")
        self._going_on = ""


def _view(arguments: argparse.Namespace) -> _View:
    if arguments.json:
        return _JsonView()
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return _TerminalView() if sys.stdout.isatty() and utf8 else _View()


if __name__ == "__main__":
    sys.exit(main())
