"""The command line of the device: `bletoken-peripheral`.

Libraries are imported by the command that needs them, so that `--help` answers at once.
"""

import argparse
import asyncio
import secrets
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bletoken import console

if TYPE_CHECKING:
    from bletoken_peripheral.config import Config
    from bletoken_peripheral.onboarding import Progress
    from bletoken_peripheral.store import StateFolder


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = _parser().parse_args(argv)
    return console.run_command(
        lambda: int(arguments.command(arguments)), as_json=arguments.json, verbose=arguments.verbose
    )


def _parser() -> argparse.ArgumentParser:
    parser = console.parser(
        "bletoken-peripheral",
        "The device's side of bletoken: takes a MODE provisioning token over Bluetooth LE and redeems it.",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", type=Path, metavar="FILE", help="the configuration (default: %(default)s)")
    common.set_defaults(config=Path("/etc/bletoken/peripheral.toml"))
    common.add_argument("--json", action="store_true", help="one JSON object a line, for programs")
    common.add_argument("--verbose", action="store_true", help="show log records; they never hold secrets")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    init = commands.add_parser("init", parents=[common], help="make the state folder and the device's setup code")
    init.add_argument("--no-pin", action="store_true", help="make a QR code only, no PIN")
    init.set_defaults(command=_init)

    label = commands.add_parser("label", parents=[common], help="show the label, or write it as a picture")
    label.add_argument("--svg", type=Path, metavar="FILE", help="write an SVG picture of the whole label")
    label.add_argument("--png", type=Path, metavar="FILE", help="write a PNG picture of the QR code")
    label.set_defaults(command=_label)

    run = commands.add_parser("run", parents=[common], help="wait for a companion and get provisioned")
    run.set_defaults(command=_run)

    status = commands.add_parser("status", parents=[common], help="tell what state the device is in")
    status.set_defaults(command=_status)

    reset = commands.add_parser(
        "reset", parents=[common], help="forget credentials and journal; the setup code and the PIN's failures stay"
    )
    reset.add_argument("--yes", action="store_true", help="do not ask")
    reset.set_defaults(command=_reset)
    return parser


def _open(arguments: argparse.Namespace) -> "tuple[Config, StateFolder]":
    from bletoken_peripheral import config
    from bletoken_peripheral.store import StateFolder

    loaded = config.load(arguments.config)
    return loaded, StateFolder(loaded.state)


def _init(arguments: argparse.Namespace) -> int:
    from bletoken.protocol.setup_code import Label

    _, folder = _open(arguments)
    folder.create()
    with folder.lock():
        if folder.read_label() is None:
            # The PIN's record comes first: a PIN without one is stopped.
            folder.write_failures(0)
            folder.write_label(Label.generate(secrets.token_bytes, with_pin=not arguments.no_pin))
            made = True
        else:
            made = False
    if arguments.json:
        console.say_json({"ok": True, "made": made, "state": str(folder.path)})
    elif made:
        console.say(f"Made a setup code in {folder.path}. Print it with: bletoken-peripheral label")
    else:
        console.say(f"{folder.path} has a setup code already; it stays, because it is on the device's label.")
    return 0


def _label(arguments: argparse.Namespace) -> int:
    from bletoken.errors import UsageError
    from bletoken_peripheral import label as pictures

    config, folder = _open(arguments)
    folder.check()
    label = folder.read_label()
    if label is None:
        raise UsageError(f"there is no setup code in {folder.path}; run: bletoken-peripheral init")
    if arguments.svg:
        pictures.write(arguments.svg, pictures.svg(label, config.device_class).encode())
    if arguments.png:
        pictures.write(arguments.png, pictures.png(label))
    if arguments.json:
        console.say_json({"ok": True, "qr": label.qr.text, "pin": label.pin.text if label.pin else None})
    elif not (arguments.svg or arguments.png):
        unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        console.say(pictures.terminal(label, unicode=unicode))
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from bletoken_peripheral.onboarding import Onboarding

    config, folder = _open(arguments)
    report = _report_json if arguments.json else _report_line
    with folder.lock():
        onboarding = Onboarding(config, folder, report=report)
        asyncio.run(console.until_signalled(onboarding.run()))
    return 0


def _report_line(progress: "Progress") -> None:
    now = datetime.now().astimezone().strftime("%H:%M:%S")
    device = f"device {progress.device_id}" if progress.device_id is not None else ""
    rest = ", ".join(console.printable(part, 200) for part in (device, progress.detail) if part)
    console.say(f"{now}  {progress.step}{': ' if rest else ''}{rest}")


def _report_json(progress: "Progress") -> None:
    content: dict[str, object] = {"step": progress.step}
    if progress.detail:
        content["detail"] = console.printable(progress.detail, 200)
    if progress.device_id is not None:
        content["device_id"] = progress.device_id
    console.say_json(content)


def _status(arguments: argparse.Namespace) -> int:
    from bletoken_peripheral import redemption

    config, folder = _open(arguments)
    folder.check()
    label, journal, credentials = folder.read_label(), folder.read_journal(), folder.read_credentials()
    failures = folder.read_failures()
    state = redemption.coarse_state(journal, has_credentials=credentials is not None)
    failure = journal.failure if journal else None
    content: dict[str, object] = {
        "ok": True,
        "state": state.name.lower().replace("_", "-"),
        "phase": journal.phase.value if journal else None,
        "failure": failure and {"code": failure.code.name, "reason": console.printable(failure.reason)},
        "device_id": credentials.device_id if credentials else None,
        "device_class": config.device_class,
        "setup_code": label is not None,
        "pin": label is not None and label.pin is not None,
        "pin_failures": failures,
        "state_folder": str(folder.path),
    }
    if arguments.json:
        console.say_json(content)
        return 0
    for name, value in content.items():
        if name != "ok" and value is not None:
            console.say(f"{name.replace('_', ' '):14} {value}")
    return 0


def _reset(arguments: argparse.Namespace) -> int:
    from bletoken.errors import UsageError

    _, folder = _open(arguments)
    with folder.lock():
        if not arguments.yes:
            if not sys.stdin.isatty():
                raise UsageError("reset forgets the device's credentials; say --yes if that is meant")
            console.say("This forgets the device's id and key. The device in the MODE home is not removed.")
            if input("Type yes to go on: ").strip().lower() != "yes":
                return 1
        folder.erase_onboarding()
    if arguments.json:
        console.say_json({"ok": True})
    else:
        console.say("The device is as before its first provisioning; its setup code is unchanged.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
