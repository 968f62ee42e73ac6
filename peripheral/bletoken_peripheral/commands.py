"""What each command of `bletoken-peripheral` does; `cli` knows their arguments.

Libraries are imported by the command that needs them: a device's start is to be quick.
"""

import argparse
import asyncio
import contextlib
import gc
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bletoken import console
from bletoken.errors import BletokenError, NotRunningError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bletoken.mode.credentials import Credentials
    from bletoken.protocol.setup_code import Label
    from bletoken_peripheral.claiming import ClaimRecord
    from bletoken_peripheral.config import Config
    from bletoken_peripheral.progress import Progress
    from bletoken_peripheral.store import StateFolder


def run(arguments: argparse.Namespace) -> int:
    """Run the command that was chosen; returns the exit code."""
    commands = {
        "init": _init,
        "label": _label,
        "run": _run,
        "open": _open_window,
        "claim": _claim,
        "status": _status,
        "unlock": _unlock,
        "identify": _identify,
        "reset": _reset,
    }
    return commands[arguments.command](arguments)


def _open(arguments: argparse.Namespace) -> "tuple[Config, StateFolder]":
    from bletoken_peripheral import config
    from bletoken_peripheral.store import StateFolder

    loaded = config.load(arguments.config)
    return loaded, StateFolder(loaded.state)


def _init(arguments: argparse.Namespace) -> int:
    from bletoken.errors import StorageError
    from bletoken.protocol.setup_code import Label

    config, folder = _open(arguments)
    prepared = _prepared(arguments.code_file) if arguments.code_file else None
    given = _maker_credentials(arguments, config)
    folder.create()
    with folder.lock():
        label = folder.read_label()
        if given is not None:
            _check_still_possible(folder, *given)
        if label is None:
            # The PIN's record comes first: a PIN without one is stopped.
            folder.forget_failures()
            folder.write_label(prepared or Label.generate(os.urandom, with_pin=not arguments.no_pin))
        elif prepared is not None and prepared != label:
            raise StorageError(f"{folder.path} has another setup code already: a device keeps its setup code for life")
        if given is not None and folder.read_credentials() is None:
            record, credentials = given
            # The key comes last: a device with a claim code and no key is one whose init was cut short.
            folder.write_claim(record)
            folder.write_credentials(credentials)
    made = label is None
    if arguments.json:
        console.say_json(
            {"ok": True, "made": made, "state": str(folder.path), "pre_provisioned": folder.read_claim() is not None}
        )
        return 0
    if not made:
        console.say(f"{folder.path} has a setup code already; it stays, because it is on the device's label.")
    elif prepared is not None:
        console.say(f"Took the setup code over into {folder.path}. Erase the file it came from on this device.")
    else:
        console.say(
            f"Made a setup code in {folder.path}. Print it with: bletoken-peripheral label --config {arguments.config}"
        )
    if given is not None:
        console.say(
            f"The device is pre-provisioned as device {given[1].device_id}."
            " Erase the files its key and claim code came from."
        )
    return 0


def _maker_credentials(arguments: argparse.Namespace, config: "Config") -> "tuple[ClaimRecord, Credentials] | None":
    """What makes a device pre-provisioned; None for any other."""
    from bletoken.errors import UsageError
    from bletoken.mode.credentials import Credentials
    from bletoken.mode.keys import is_secret
    from bletoken.mode.models import LARGEST_ID
    from bletoken.protocol.wire import LONGEST_CLAIM_CODE
    from bletoken_peripheral.claiming import ClaimRecord

    parts = (arguments.device_id, arguments.api_key_file, arguments.claim_code_file)
    if all(part is None for part in parts):
        return None
    if any(part is None for part in parts):
        raise UsageError("--device-id, --api-key-file and --claim-code-file go together")
    if (arguments.api_key_file, arguments.claim_code_file, arguments.code_file).count("-") > 1:
        raise UsageError("only one thing can come from standard input")
    if not 1 <= arguments.device_id <= LARGEST_ID:
        raise UsageError(f"a device id is a number from 1 to {LARGEST_ID}")
    api_key = console.secret_from(arguments.api_key_file, "the API key")
    claim_code = console.secret_from(arguments.claim_code_file, "the claim code")
    if not is_secret(api_key):
        raise UsageError("an API key is printable ASCII characters without spaces; the file holds something else")
    if not is_secret(claim_code) or len(claim_code) > LONGEST_CLAIM_CODE:
        raise UsageError(
            f"a claim code is 1 to {LONGEST_CLAIM_CODE} printable ASCII characters without spaces; the file holds"
            " something else"
        )
    return ClaimRecord(claim_code), Credentials(arguments.device_id, api_key, config.mode_url)


def _check_still_possible(folder: "StateFolder", record: "ClaimRecord", credentials: "Credentials") -> None:
    """Refuse to give a device another id and key than it has: what it has may be in use."""
    from bletoken.errors import StorageError

    has, claim = folder.read_credentials(), folder.read_claim()
    if folder.read_journal() is not None or (has is not None and claim is None):
        raise StorageError(
            f"{folder.path} belongs to a device that gets its key by token; run: bletoken-peripheral reset"
        )
    if has is not None and has.mode_url != credentials.mode_url:
        raise StorageError(f"{folder.path} has a key of {has.mode_url}, but mode_url is {credentials.mode_url}")
    if has is not None and (has != credentials or claim is None or claim.claim_code != record.claim_code):
        raise StorageError(
            f"{folder.path} has another id, key or claim code already; run: bletoken-peripheral reset --erase-key"
        )


def _prepared(name: str) -> "Label":
    from bletoken import files
    from bletoken_peripheral import store

    if name == "-":
        return store.parse_code_file(sys.stdin.buffer.read(files.LARGEST + 1), "standard input")
    return store.parse_code_file(files.read(Path(name)), name)


def _label(arguments: argparse.Namespace) -> int:
    from bletoken.errors import UsageError
    from bletoken_peripheral import label as pictures

    if (arguments.batch is None) != (arguments.out is None):
        raise UsageError("--batch and --out go together")
    if arguments.batch is None and (arguments.no_pin or arguments.first_serial != 1):
        raise UsageError("--no-pin and --first-serial are for --batch; this device has its code already")
    if arguments.batch is not None:
        return _batch(arguments)
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


def _batch(arguments: argparse.Namespace) -> int:
    from bletoken.errors import UsageError
    from bletoken_peripheral import factory

    if arguments.svg or arguments.png:
        raise UsageError("--svg and --png are for one label; --batch makes sheets in the folder of --out")
    config, _ = _open(arguments)
    made = factory.make(
        arguments.out,
        arguments.batch,
        title=config.device_class,
        entropy=os.urandom,
        first_serial=arguments.first_serial,
        with_pin=not arguments.no_pin,
    )
    if arguments.json:
        console.say_json({"ok": True, "devices": arguments.batch, "files": [str(path) for path in made]})
    else:
        console.say(f"Made the setup codes of {arguments.batch} devices in {arguments.out}. Keep them as secrets.")
        console.say(f"Each device takes its own: bletoken-peripheral init --code-file {made[0].name}")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from bletoken_peripheral.onboarding import LONGEST_NAP_S, Onboarding
    from bletoken_peripheral.supervisor import Supervisor

    config, folder = _open(arguments)
    report = _report_json if arguments.json else _report_line
    supervisor = Supervisor()

    def ready() -> None:
        # The start is over: see `cli.main`.
        gc.enable()
        supervisor.ready()

    async def run() -> None:
        async with supervisor.watched(onboarding.awake):
            await onboarding.run()

    with folder.lock():
        onboarding = Onboarding(
            config,
            folder,
            report=_as_long_as_heard(report),
            ready=ready,
            # One that wakes up every half a minute to say so needs not wake up for anything else.
            is_woken=supervisor.interval_s <= LONGEST_NAP_S,
        )
        asyncio.run(console.until_signalled(run()))
    return 0


def _as_long_as_heard(report: "Callable[[Progress], None]") -> "Callable[[Progress], None]":
    """A device goes on when whoever read its output has gone."""

    def told(progress: "Progress") -> None:
        with contextlib.suppress(OSError):
            report(progress)

    return told


def _report_line(progress: "Progress") -> None:
    now = time.strftime("%H:%M:%S")
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


def _open_window(arguments: argparse.Namespace) -> int:
    from bletoken_peripheral import control

    _, folder = _open(arguments)
    answer = control.ask(folder.path, control.Command.OPEN)
    if arguments.json:
        console.say_json({"ok": True, **answer})
    else:
        console.say(f"Companions can find the device for {answer.get('window_s')} s.")
    return 0


def _claim(arguments: argparse.Namespace) -> int:
    from bletoken.errors import UsageError
    from bletoken.protocol.wire import LONGEST_CLAIM_S, SHORTEST_CLAIM_S

    config, folder = _open(arguments)
    folder.check()
    credentials = folder.read_credentials()
    if folder.read_claim() is None or credentials is None:
        raise UsageError(
            "this device is not pre-provisioned; init with --device-id, --api-key-file and --claim-code-file does that"
        )
    if not SHORTEST_CLAIM_S <= arguments.duration_s <= LONGEST_CLAIM_S:
        raise UsageError(f"--duration-s takes {SHORTEST_CLAIM_S} to {LONGEST_CLAIM_S} seconds")
    if arguments.off and arguments.wait:
        raise UsageError("--off and --wait do not go together")
    if credentials.mode_url not in ("", config.mode_url):
        raise UsageError(f"the key is one of {credentials.mode_url}, but mode_url is {config.mode_url}")
    return console.run(_claim_with_mode(arguments, config, folder, credentials))


async def _claim_with_mode(
    arguments: argparse.Namespace, config: "Config", folder: "StateFolder", credentials: "Credentials"
) -> int:
    from bletoken.mode.device_api import DeviceApi
    from bletoken_peripheral import claiming, control

    def tell_running(seconds: int) -> None:
        # It looks at MODE itself before long; MODE has said what this is about.
        with contextlib.suppress(BletokenError):
            control.ask(folder.path, control.Command.CLAIM, seconds)

    async with DeviceApi(config.mode_url, ca_file=config.mode_ca) as api:
        if arguments.off:
            await claiming.patiently(lambda: claiming.turn_off(api, credentials))
            _say(arguments, {"ok": True, "claimable": False}, "Claim mode is off.")
            tell_running(0)
            return 0
        until = await claiming.patiently(lambda: claiming.turn_on(api, credentials, arguments.duration_s))
        content: dict[str, object] = {"claimable": True, "until": until.isoformat()}
        _say(
            arguments,
            {"step": "claimable", **content} if arguments.wait else {"ok": True, **content},
            f"Claim mode is on until {until.astimezone():%H:%M:%S}."
            " Claim the device with its claim code: bletoken-central claim --typed",
        )
        tell_running(arguments.duration_s)
        if not arguments.wait:
            return 0
        home = await claiming.claimed(api, credentials, arguments.duration_s)
    _say(arguments, {"ok": True, "home_id": home}, f"Claimed: the device is in home {home}.")
    return 0


def _say(arguments: argparse.Namespace, content: dict[str, object], text: str) -> None:
    if arguments.json:
        console.say_json(content)
    else:
        console.say(text)


def _status(arguments: argparse.Namespace) -> int:
    from bletoken_peripheral import control
    from bletoken_peripheral.overview import lines, overview

    config, folder = _open(arguments)
    folder.check()
    try:
        running = control.ask(folder.path, control.Command.STATUS)
    except NotRunningError:
        running = None
    content = overview(
        folder.read_label(),
        folder.read_journal(),
        folder.read_credentials(),
        folder.read_failures(),
        running,
        claim=folder.read_claim(),
    )
    if arguments.json:
        about = {"device_class": config.device_class, "state_folder": str(folder.path)}
        console.say_json({"ok": True, **content, **about})
        return 0
    for line in [f"{'class':11} {config.device_class}", *lines(content), f"{'folder':11} {folder.path}"]:
        console.say(line)
    return 0


def _unlock(arguments: argparse.Namespace) -> int:
    from bletoken.errors import UsageError
    from bletoken_peripheral import control

    _, folder = _open(arguments)
    folder.check()
    if folder.read_label() is None:
        raise UsageError(f"there is no setup code in {folder.path}; run: bletoken-peripheral init")
    try:
        control.ask(folder.path, control.Command.UNLOCK)
    except NotRunningError:
        with folder.lock():
            folder.forget_failures()
    if arguments.json:
        console.say_json({"ok": True})
    else:
        console.say("The device takes PINs again.")
    return 0


def _identify(arguments: argparse.Namespace) -> int:
    from bletoken.errors import UsageError
    from bletoken_peripheral import identification

    config, _ = _open(arguments)
    if not config.identify_command:
        raise UsageError(f"the configuration {arguments.config} has no identify_command")
    console.run(identification.run(config.identify_command))
    if arguments.json:
        console.say_json({"ok": True})
    else:
        console.say("The command ran to its end.")
    return 0


def _reset(arguments: argparse.Namespace) -> int:
    from bletoken.errors import UsageError

    _, folder = _open(arguments)
    with folder.lock():
        # With --erase-key nothing is read, so that it helps whatever state the files are in.
        kept = None if arguments.erase_key else _from_the_maker(folder)
        if not arguments.yes:
            if not sys.stdin.isatty():
                raise UsageError("reset forgets the device's credentials; say --yes if that is meant")
            forgets = "the device's id and key" if kept is None else "that the device was claimed"
            console.say(f"This forgets {forgets}. The device in the MODE home is not removed.")
            try:
                answer = input("Type yes to go on: ")
            except EOFError:
                answer = ""
            if answer.strip().lower() != "yes":
                console.say("Nothing was changed.")
                return 1
        if kept is None:
            folder.erase_onboarding()
        else:
            folder.write_claim(kept)
    _say(arguments, {"ok": True}, "The device is as before its first provisioning; its setup code is unchanged.")
    return 0


def _from_the_maker(folder: "StateFolder") -> "ClaimRecord | None":
    """The claim record as it came from the maker; None for a device that is not pre-provisioned.

    Nobody but the maker could give the device another id and key, so a reset keeps them.
    """
    from bletoken.errors import StorageError

    try:
        claim = folder.read_claim()
        if claim is None or folder.read_credentials() is None:
            return None
    except StorageError as e:
        if not folder.has_claim():
            return None
        raise StorageError(
            f"{e}; reset --erase-key forgets it, and init with its id, key and claim code mends it"
        ) from e
    return replace(claim, is_claimed=False, was_opened=False)
