"""Notes about tokens that were asked for, and which device they let the companion remove. It removes none itself.

A device that got no usable answer from MODE may have left another device in the home, whose key nobody has. The tag
that the token was asked for with, random and never used twice, tells it from every other.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bletoken import files
from bletoken.errors import StorageError

if TYPE_CHECKING:
    from bletoken.mode.models import Device

_SCHEMA: Final = 1
_ASSUMED_LIFE_S: Final = 3600
"""Seconds after which a token counts as expired when MODE did not say."""


@dataclass(frozen=True, slots=True)
class Note:
    """What is known of one token, durable before the token exists.

    Attributes:
        tag: The tag that MODE gives the token's device, 128 random bits.
        mode_url: Which MODE.
        home_id: The home.
        device_class: The device class.
        known: The ids of the devices that were in the home before.
        asked_at: When, seconds since 1970.
        token_ref: The token's reference in hex, once there is a token.
        expires_at: When the token expires, seconds since 1970; None when not known.
        outcome_unknown: Whether the device said, authenticated and of this very token, that it got no usable answer.
    """

    tag: str
    mode_url: str
    home_id: int
    device_class: str
    known: Sequence[int]
    asked_at: float
    token_ref: str = field(default="", repr=False)
    expires_at: float | None = None
    outcome_unknown: bool = False

    def is_over(self, now: float) -> bool:
        """Whether no device can come of the token any more."""
        return now > (self.expires_at if self.expires_at is not None else self.asked_at + _ASSUMED_LIFE_S)

    def newcomers(self, devices: Sequence["Device"]) -> list["Device"]:
        """The devices that came into the home since."""
        return [device for device in devices if device.id not in self.known]

    def came_of(self, devices: Sequence["Device"]) -> "Device | None":
        """The one new device with exactly this tag, class and home: what came of the token. None when in doubt."""
        matching = [
            device
            for device in self.newcomers(devices)
            if (device.tag, device.device_class, device.home_id) == (self.tag, self.device_class, self.home_id)
        ]
        return matching[0] if len(matching) == 1 else None

    def orphan(self, devices: Sequence["Device"]) -> "Device | None":
        """What came of the token where nobody has its key, so that it may be removed. None when in doubt."""
        return self.came_of(devices) if self.outcome_unknown else None


class Notes:
    """The folder of the notes.

    Args:
        folder: Made when the first note is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, note: Note) -> None:
        """Make a note durable.

        Raises:
            StorageError: It cannot be.
        """
        files.make_folder(self._folder)
        files.replace(self._path(note), json.dumps({"schema": _SCHEMA, **asdict(note)}).encode())

    def forget(self, note: Note) -> None:
        """Remove a note."""
        files.erase(self._path(note))

    def all(self) -> list[Note]:
        """The notes of earlier runs. One that cannot be read lets nothing be removed, so it is passed over."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                found.append(_parse(files.read(path)))
            except (StorageError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue
        return found

    def _path(self, note: Note) -> Path:
        return self._folder / f"{note.tag}.json"


def _parse(octets: bytes) -> Note:
    content = json.loads(octets)
    if content.pop("schema") != _SCHEMA:
        raise ValueError("schema")
    note = Note(**content)
    for value, kind in (
        (note.tag, str),
        (note.mode_url, str),
        (note.home_id, int),
        (note.device_class, str),
        (note.known, list),
        (note.asked_at, float),
        (note.token_ref, str),
        (note.outcome_unknown, bool),
    ):
        if type(value) is not kind:
            raise TypeError("note")
    if note.expires_at is not None and type(note.expires_at) is not float:
        raise TypeError("note")
    return note


def new_note(tag: str, mode_url: str, home_id: int, device_class: str, devices: Sequence["Device"]) -> Note:
    """The note to keep before a token is asked for."""
    return Note(tag, mode_url, home_id, device_class, [device.id for device in devices], time.time())
