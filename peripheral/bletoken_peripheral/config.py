"""The device's configuration: one TOML file, checked once, with errors that name the key. It opens nothing else."""

import os
import re
import stat
import tomllib
from collections.abc import Callable
from dataclasses import KW_ONLY, MISSING, fields
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from bletoken.errors import UsageError
from bletoken.frozen import frozen
from bletoken.protocol.wire import LONGEST_CLASS

_LARGEST_FILE: Final = 65536
_LONGEST_COMMAND: Final = 64
_NO_WAIT: Final = getattr(os, "O_NONBLOCK", 0)


@frozen
class Config:
    """What the device is and where its things are.

    Attributes:
        device_class: MODE's device class, 1 to 64 octets; the offer tells it to companions.
        state: The state folder, private to the device's user.
        mode_url: MODE's base URL.
        mode_ca: A file of CA certificates to trust for `mode_url`, instead of the system's.
        radio: `system`, `system:<adapter>` (such as `system:hci1`), or `air:...` for the virtual radio.
        window_s: Seconds for which an unprovisioned device advertises after its start.
        announced_window_s: Seconds for which it still advertises after it was provisioned.
        event: The MODE event that the device triggers when it is provisioned.
        retry_s: Seconds for which the device tries to reach MODE with one token, unless that expires earlier.
        identify_command: The program, and its arguments, that shows which device this is (blinks, beeps); empty for
            none. No shell reads it.
    """

    _: KW_ONLY
    device_class: str
    state: Path = Path("/var/lib/bletoken")
    mode_url: str = "https://api.tinkermode.com"
    mode_ca: Path | None = None
    radio: str = "system"
    window_s: int = 900
    announced_window_s: int = 600
    event: str = "provisioned"
    retry_s: int = 120
    identify_command: tuple[str, ...] = ()


def load(path: Path) -> Config:
    """Read and check a configuration file.

    Raises:
        UsageError: It cannot be read, or a key is unknown, missing, of the wrong type or out of bounds.
    """
    try:
        # A pipe in its place must not hold the reader up.
        with os.fdopen(os.open(path, os.O_RDONLY | _NO_WAIT), "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise UsageError(f"the configuration {path} is not a plain file")
            if hasattr(os, "geteuid") and info.st_mode & 0o002:
                # It names a program to run and the MODE that the token goes to.
                raise UsageError(f"everybody can change the configuration {path}; correct that: chmod o-w {path}")
            octets = file.read(_LARGEST_FILE + 1)
    except OSError as e:
        raise UsageError(f"cannot read the configuration {path}: {e.strerror}; --config names another") from e
    if len(octets) > _LARGEST_FILE:
        raise UsageError(f"the configuration {path} is too large")
    try:
        content = tomllib.loads(octets.decode("utf-8"))
    except (ValueError, RecursionError) as e:
        # Not every error of the parser is its own: a number of thousands of digits raises a bare ValueError.
        raise UsageError(f"the configuration {path} is no TOML: {e}") from e
    try:
        return _check(content, path.parent)
    except ValueError as e:
        raise UsageError(f"the configuration {path}: {e}") from e


def _check(content: dict[str, object], folder: Path) -> Config:
    known = {f.name: f for f in fields(Config)}
    for name in content:
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"unknown key {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    for name, f in known.items():
        if f.default is MISSING and name not in content:
            raise ValueError(f"the key {name!r} is missing")
    values = {name: _CHECKS[name](name, value) for name, value in content.items()}
    for name in ("state", "mode_ca"):
        if name in values:
            # A relative path means beside the configuration, wherever the command was started.
            values[name] = folder.absolute() / str(values[name])
    return Config(**values)  # type: ignore[arg-type] # each value was checked by its key


def _string(name: str, value: object) -> str:
    if not isinstance(value, str) or not value or len(value) > 1024 or not value.isprintable():
        raise ValueError(f"{name} must be a text")
    return value


def _device_class(name: str, value: object) -> str:
    if len(_string(name, value).encode()) > LONGEST_CLASS:
        raise ValueError(f"{name} may have at most {LONGEST_CLASS} octets")
    return str(value)


def _url(name: str, value: object) -> str:
    try:
        url = urlsplit(_string(name, value))
        usable = url.scheme in ("http", "https") and bool(url.hostname) and (url.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or url.username or url.query or url.fragment:
        raise ValueError(f"{name} must be a URL such as https://api.tinkermode.com")
    return str(value)


def _radio(name: str, value: object) -> str:
    if not re.fullmatch(r"system(:[\w.:-]+)?|air:(unix:.+|tcp:.+)", _string(name, value)):
        raise ValueError(f"{name} must be 'system', 'system:hci1' or 'air:unix:/path/of/the/hub'")
    return str(value)


def _event(name: str, value: object) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", _string(name, value)):
        raise ValueError(f"{name} must be a name of letters, digits, '.', '-' and '_', at most 64 of them")
    return str(value)


def _command(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= _LONGEST_COMMAND:
        raise ValueError(f"{name} must be a list of texts: a program and its arguments")
    words = tuple(_string(f"each word of {name}", word) for word in value)
    if "/" in words[0] and not words[0].startswith("/"):
        # Where the device was started must not decide which program it runs.
        raise ValueError(f"{name} must begin with an absolute path, or with a name that is on the PATH")
    return words


def _seconds(least: int, most: int) -> Callable[[str, object], int]:
    def check(name: str, value: object) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{name} must be a whole number of seconds from {least} to {most}")
        return value

    return check


_CHECKS: Final[dict[str, Callable[[str, object], object]]] = {
    "device_class": _device_class,
    "state": _string,
    "mode_url": _url,
    "mode_ca": _string,
    "radio": _radio,
    "window_s": _seconds(30, 86400),
    "announced_window_s": _seconds(0, 86400),
    "event": _event,
    "retry_s": _seconds(1, 3600),
    "identify_command": _command,
}
