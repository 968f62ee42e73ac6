"""What each command of `bletoken-central` does; `cli` knows their arguments.

Libraries are imported by the command that needs them.
"""

import argparse
import os
import sys
from contextlib import AbstractContextManager, ExitStack, aclosing, nullcontext
from typing import TYPE_CHECKING

from bletoken import console
from bletoken.errors import NotSignedInError, UsageError
from bletoken_central.cli import PASSWORD_VARIABLE, SESSION_KEY_VARIABLE, SETUP_CODE_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bletoken.mode.models import Device
    from bletoken.protocol.setup_code import SetupCode
    from bletoken_central.handoff import Limits, Progress
    from bletoken_central.onboarding import Companion
    from bletoken_central.provisioning import Choose, Onboarded

_LONGEST_ID = 20
"""Digits of 2^64 - 1."""


def run(arguments: argparse.Namespace) -> int:
    """Run the command that was chosen; returns the exit code."""
    commands = {
        "scan": _scan,
        "info": _info,
        "identify": _identify,
        "login": _login,
        "logout": _logout,
        "push": _push,
        "provision": _provision,
        "claim": _claim,
    }
    return commands[arguments.command](arguments)


# Secrets ------------------------------------------------------------------------------------------------------------


def _setup_code(arguments: argparse.Namespace) -> "SetupCode":
    from bletoken.protocol.setup_code import parse_setup_code

    if arguments.qr:
        from bletoken_central import qr

        return qr.read(arguments.qr)
    if arguments.code_file:
        return parse_setup_code(console.secret_from(str(arguments.code_file), "the setup code"))
    if SETUP_CODE_VARIABLE in os.environ:
        return parse_setup_code(os.environ[SETUP_CODE_VARIABLE])
    return parse_setup_code(_ask("Setup code (QR text or PIN): ", "--qr, --code-file or " + SETUP_CODE_VARIABLE))


def _session_key(arguments: argparse.Namespace) -> str:
    if arguments.session_key_file:
        return console.secret_from(str(arguments.session_key_file), "the session key")
    if SESSION_KEY_VARIABLE in os.environ:
        return os.environ[SESSION_KEY_VARIABLE]
    from bletoken_central.session import Session

    kept = Session(arguments.mode_url, arguments.session_file).load()
    if kept is not None:
        return kept
    return _ask("MODE session key: ", "bletoken-central login, --session-key-file or " + SESSION_KEY_VARIABLE)


def _token(arguments: argparse.Namespace) -> str:
    from bletoken.protocol.wire import LONGEST_TOKEN

    if arguments.token_file:
        token = console.secret_from(arguments.token_file, "the token")
    else:
        token = _ask("Provisioning token: ", "--token-file")
    if not 1 <= len(token) <= LONGEST_TOKEN or not all("!" <= c <= "~" for c in token):
        raise UsageError(f"a provisioning token is 1 to {LONGEST_TOKEN} printable ASCII characters without spaces")
    return token


def _claim_code(arguments: argparse.Namespace) -> str | None:
    """The typed claim code; None where the device is to tell it over Bluetooth."""
    from bletoken.protocol.wire import LONGEST_CLAIM_CODE

    if not arguments.claim_code_file and not arguments.typed:
        return None
    if arguments.qr or arguments.code_file or arguments.device:
        raise UsageError("a typed claim code needs no setup code and no device: it goes to MODE, not over Bluetooth")
    if arguments.claim_code_file:
        claim_code = console.secret_from(arguments.claim_code_file, "the claim code")
    else:
        claim_code = _ask("Claim code: ", "--claim-code-file")
    if not 1 <= len(claim_code) <= LONGEST_CLAIM_CODE or not all("!" <= c <= "~" for c in claim_code):
        raise UsageError(f"a claim code is 1 to {LONGEST_CLAIM_CODE} printable ASCII characters without spaces")
    return claim_code


def _ask(prompt: str, instead: str) -> str:
    if not sys.stdin.isatty():
        raise UsageError(f"nobody is here to be asked; use {instead}")
    from getpass import getpass

    try:
        typed = getpass(prompt).strip()
    except EOFError:
        typed = ""
    if not typed:
        raise UsageError(f"nothing was typed; instead of typing you can use {instead}")
    return typed


# Commands -----------------------------------------------------------------------------------------------------------


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
        async with Companion(arguments.radio) as companion, aclosing(companion.scan(arguments.seconds)) as devices:
            async for found in devices:
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

    count = console.run(scan())
    if arguments.json:
        console.say_json({"ok": True, "devices": count})
    elif count == 0:
        console.say("No bletoken device is in range. Is one near, with power, and waiting to be set up?")
    return 0


def _info(arguments: argparse.Namespace) -> int:
    from bletoken.protocol.wire import Action
    from bletoken_central.onboarding import Companion

    code, limits = None if arguments.no_code else _setup_code(arguments), _limits(arguments)

    async def info() -> int:
        async with Companion(arguments.radio, limits=limits) as companion:
            told = await companion.info(code, address=arguments.device)
        known = {int(action): action.name.lower() for action in Action}
        content: dict[str, object] = {
            "ok": True,
            "address": told.found.address,
            "authenticated": told.status is not None,
            "state": told.offer.state.name.lower().replace("_", "-"),
            "device_class": console.printable(told.offer.device_class),
            "actions": [known.get(action, str(action)) for action in told.offer.actions],
            "protocol_versions": list(told.offer.versions),
        }
        if told.status is not None:
            content["status"] = type(told.status).__name__.lower()
            content["device_id"] = getattr(told.status, "device_id", None)
            failure = getattr(told.status, "code", None)
            content["failure"] = failure.name.lower().replace("_", "-") if failure is not None else None
            content["reason"] = console.printable(getattr(told.status, "reason", ""))
        _tell(arguments, content)
        return 0

    return console.run(info())


def _identify(arguments: argparse.Namespace) -> int:
    from bletoken_central.onboarding import Companion

    code, limits = _setup_code(arguments), _limits(arguments)

    async def identify() -> int:
        async with Companion(arguments.radio, limits=limits) as companion:
            await companion.identify(code, address=arguments.device)
        _tell(arguments, {"ok": True}, "The device shows itself now.")
        return 0

    return console.run(identify())


def _login(arguments: argparse.Namespace) -> int:
    from bletoken.mode.user_api import UserApi
    from bletoken_central.session import Session

    if arguments.password_file:
        password = console.secret_from(str(arguments.password_file), "the password")
    elif PASSWORD_VARIABLE in os.environ:
        password = os.environ[PASSWORD_VARIABLE]
    else:
        password = _ask("MODE password: ", "--password-file or " + PASSWORD_VARIABLE)

    async def login() -> int:
        async with UserApi(arguments.mode_url, ca_file=arguments.mode_ca) as api:
            try:
                session = await api.sign_in(arguments.project, arguments.app, arguments.email, password)
            except NotSignedInError as e:
                message = "MODE does not know this user with this password in this project and app"
                raise NotSignedInError(message, status=e.status, reason=e.reason) from None
        Session(arguments.mode_url, arguments.session_file).save(session.key, session.expires_at)
        _tell(arguments, {"ok": True, "user_id": session.user_id}, f"Signed in to MODE as user {session.user_id}.")
        return 0

    return console.run(login())


def _logout(arguments: argparse.Namespace) -> int:
    from bletoken_central.session import Session

    Session(arguments.mode_url, arguments.session_file).erase()
    _tell(arguments, {"ok": True}, "The session is forgotten.")
    return 0


def _tell(arguments: argparse.Namespace, content: dict[str, object], text: str = "") -> None:
    if arguments.json:
        console.say_json(content)
    elif text:
        console.say(text)
    else:
        for name, value in content.items():
            shown = ", ".join(str(part) for part in value) if isinstance(value, list) else value
            if name != "ok" and shown not in (None, ""):
                console.say(f"{name.replace('_', ' '):18} {shown}")


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

    return console.run(push())


def _signed_in(
    arguments: argparse.Namespace, view: "_View", key: str, limits: "Limits", choose: "Choose | None" = None
) -> "Companion":
    from bletoken_central.onboarding import Companion

    return Companion(
        arguments.radio,
        session_key=key,
        mode_url=arguments.mode_url,
        mode_ca=arguments.mode_ca,
        report=view.report,
        limits=limits,
        choose=choose,
    )


def _provision(arguments: argparse.Namespace) -> int:
    code, key, limits = _setup_code(arguments), _session_key(arguments), _limits(arguments)

    async def provision() -> int:
        with _view(arguments) as view:
            choose = None if arguments.json or not sys.stdin.isatty() else _choose(view)
            async with _signed_in(arguments, view, key, limits, choose) as companion:
                onboarded = await companion.provision(
                    code,
                    home_id=arguments.home,
                    device_class=arguments.device_class,
                    tag=arguments.tag,
                    address=arguments.device,
                )
        _tell_onboarded(arguments, onboarded)
        return 0

    return console.run(provision())


def _claim(arguments: argparse.Namespace) -> int:
    claim_code = _claim_code(arguments)
    code = _setup_code(arguments) if claim_code is None else None
    key, limits = _session_key(arguments), _limits(arguments)

    async def claim() -> int:
        with _view(arguments) as view:
            async with _signed_in(arguments, view, key, limits) as companion:
                if claim_code is not None:
                    onboarded = await companion.claim_typed(claim_code, home_id=arguments.home)
                else:
                    assert code is not None, "asked for where there is no claim code"
                    onboarded = await companion.claim(
                        code, home_id=arguments.home, duration_s=arguments.duration_s, address=arguments.device
                    )
        _tell_onboarded(arguments, onboarded)
        return 0

    return console.run(claim())


def _tell_onboarded(arguments: argparse.Namespace, onboarded: "Onboarded") -> None:
    came = f'its event "{console.printable(onboarded.event)}" came' if onboarded.event else "no event came"
    _tell(
        arguments,
        {
            "ok": True,
            "device_id": onboarded.device_id,
            "home_id": onboarded.home_id,
            "event": onboarded.event,
            "device_class": onboarded.device.device_class,
            "tag": onboarded.device.tag,
            "elapsed_s": onboarded.elapsed_s,
        },
        f"Done: device {onboarded.device_id} is in home {onboarded.home_id}; {came}.",
    )


def _choose(view: "_View") -> "Choose":
    async def choose(devices: "Sequence[Device]") -> int | None:
        with view.paused():
            console.say("The device got no usable answer from MODE. One of these new devices may have come of it;")
            console.say("then nobody has its key, and it is best removed:")
            for device in devices:
                shown = (console.printable(text) for text in (device.name, device.tag, device.device_class) if text)
                console.say(f"  {device.id}  {', '.join(shown)}")
            answer = await console.answer("Which one may be removed (its id; Enter for none)? ")
        return int(answer) if answer.isdecimal() and len(answer) <= _LONGEST_ID else None

    return choose


# Progress -----------------------------------------------------------------------------------------------------------


class _View(AbstractContextManager["_View"]):
    """Progress as plain lines."""

    def report(self, progress: "Progress") -> None:
        """Show a step."""
        console.say(f"  {self.text(progress)}")

    def __exit__(self, *_: object) -> None:
        """Nothing to tidy up."""

    def paused(self) -> AbstractContextManager[object]:
        """Leave the screen to somebody else while inside."""
        return nullcontext()

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

    def paused(self) -> AbstractContextManager[object]:
        """Leave the screen to somebody else while inside."""
        pause = ExitStack()
        self._status.stop()
        pause.callback(self._status.start)
        return pause

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
