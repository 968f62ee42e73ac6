"""What MODE gave a device, and the file it is kept in for the device's own program. It never writes that file."""

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Self

from bletoken import files, records
from bletoken.frozen import frozen
from bletoken.mode.keys import is_secret


class NotOnboardedError(files.MissingFileError):
    """There is no credentials file: the device is not onboarded yet.

    Onboard it with its owner's app, or check the path; `bletoken-peripheral status` tells how far it is.
    """


@frozen
class Credentials:
    """What MODE gave the device; `credentials.json` holds exactly this, for the device's own program to read.

    Attributes:
        device_id: MODE's id of the device.
        api_key: The key for all future communication with MODE. A secret.
        mode_url: The MODE that gave it.
    """

    device_id: int
    api_key: str = field(repr=False)
    mode_url: str = ""

    @classmethod
    def from_content(cls, content: Mapping[str, object]) -> Self:
        """Read a record's content.

        Raises:
            ValueError, KeyError, TypeError: It is not usable.
        """
        api_key = records.text(content, "api_key")
        if not is_secret(api_key):
            # It goes into a request's header.
            raise ValueError("api_key")
        return cls(records.integer(content, "device_id", 2**64), api_key, records.text(content, "mode_url"))

    def content(self) -> dict[str, object]:
        """A record's content. It holds the key."""
        return {"device_id": self.device_id, "api_key": self.api_key, "mode_url": self.mode_url}


def load(path: Path) -> Credentials:
    """The credentials in a file, which is one of two things.

    Either `credentials.json` itself, where this program runs as the device's user; or what systemd's `LoadCredential=`
    makes of it for another: a file of root's in `$CREDENTIALS_DIRECTORY`.

    Args:
        path: The file.

    Raises:
        NotOnboardedError: There is none.
        records.NewerSchemaError: A newer version wrote it.
        StorageError: It is somebody else's, open to others, damaged, or cannot be read.
    """
    try:
        octets = files.read(path, of_root=True)
    except files.MissingFileError as e:
        raise NotOnboardedError(f"there is no {path}: the device is not onboarded yet") from e
    return records.parse(str(path), octets, Credentials.from_content)
