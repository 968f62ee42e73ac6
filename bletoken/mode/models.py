"""What MODE answers, as frozen dataclasses read once from untrusted JSON; it never does I/O.

A required field that cannot be read makes the whole answer unreadable. An optional one that cannot be read counts as
not said, and fields that are not known here are ignored: MODE may add some at any time.
"""

import re
from collections.abc import Callable
from dataclasses import field
from datetime import UTC, datetime
from typing import Any, Final, Self, TypeVar

from bletoken.errors import CloudNoAnswerError
from bletoken.frozen import frozen
from bletoken.mode.keys import is_secret

LARGEST_ID: Final = 2**64 - 1
"""MODE's ids are unsigned 64-bit integers, from 1 on."""

LONGEST_TEXT: Final = 1024
"""Characters of the longest name, tag or class."""

_TIMESTAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)
"""RFC 3339, section 5.6. MODE's documents show 0, 3 and 9 fraction digits in UTC; trailing zeros may be dropped."""

_FIRST_YEAR: Final = 1971
_LAST_YEAR: Final = 2105
"""Years whose times fit 32 bits, in every time zone."""

_T = TypeVar("_T")


@frozen
class Identity:
    """Whom MODE takes the holder of a key for (`GET /auth` in MODE's API reference).

    Attributes:
        type: "user", "device", "project key" or "nobody", and whatever MODE adds. A bad key gives "nobody".
        user_id: The user, where the key is a user's.
        device_id: The device, where the key is a device's.
        project_id: The project.
    """

    type: str
    user_id: int | None = None
    device_id: int | None = None
    project_id: int | None = None

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read MODE's JSON.

        Raises:
            CloudNoAnswerError: It cannot be read.
        """
        fields = _fields(value)
        return cls(
            type=_required(fields, "type", _text),
            user_id=_id(fields.get("userId")),
            device_id=_id(fields.get("deviceId")),
            project_id=_id(fields.get("projectId")),
        )


@frozen
class UserSession:
    """A user who is signed in (`POST /auth/user` in MODE's API reference).

    Attributes:
        key: The session key. A secret.
        user_id: The user.
        expires_at: When the key ends, in UTC; None when MODE does not say.
    """

    key: str = field(repr=False)
    user_id: int
    expires_at: datetime | None = None

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read MODE's JSON.

        Raises:
            CloudNoAnswerError: It cannot be read.
        """
        fields = _fields(value)
        return cls(
            key=_required(fields, "token", _secret),
            user_id=_required(fields, "userId", _id),
            expires_at=_timestamp(fields.get("expirationTime")),
        )


@frozen
class Home:
    """A home of a user (`GET /homes` in MODE's API reference).

    Attributes:
        id: The home.
        name: What the user calls it.
        project_id: The project it belongs to.
        created_at: When it was made, in UTC.
        is_deactivated: True when MODE says that it is not in use.
    """

    id: int
    name: str | None = None
    project_id: int | None = None
    created_at: datetime | None = None
    is_deactivated: bool = False

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read MODE's JSON.

        Raises:
            CloudNoAnswerError: It cannot be read.
        """
        fields = _fields(value)
        return cls(
            id=_required(fields, "id", _id),
            name=_text(fields.get("name")),
            project_id=_id(fields.get("projectId")),
            created_at=_timestamp(fields.get("creationTime")),
            is_deactivated=_boolean(fields.get("deactivated")) or False,
        )


@frozen
class Device:
    """A device as MODE knows it (`GET /devices` in MODE's API reference), without its key.

    Attributes:
        id: The device, 1 to 2**64 - 1.
        home_id: Its home; None while it has none.
        project_id: Its project.
        device_class: Its device class.
        name: What the user calls it.
        tag: The tag it was provisioned with, or that was set later.
        created_at: When it was made, in UTC.
        is_connected: Whether it is connected to MODE now.
    """

    id: int
    home_id: int | None = None
    project_id: int | None = None
    device_class: str | None = None
    name: str | None = None
    tag: str | None = None
    created_at: datetime | None = None
    is_connected: bool | None = None

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read MODE's JSON.

        Raises:
            CloudNoAnswerError: It cannot be read.
        """
        fields = _fields(value)
        return cls(
            id=_required(fields, "id", _id),
            home_id=_id(fields.get("homeId")),
            project_id=_id(fields.get("projectId")),
            device_class=_text(fields.get("deviceClass")),
            name=_text(fields.get("name")),
            tag=_text(fields.get("tag")),
            created_at=_timestamp(fields.get("creationTime")),
            is_connected=_boolean(fields.get("isConnected")),
        )


@frozen
class DeviceCredentials:
    """What a device gets for a provisioning token (`POST /devices` in MODE's provisioning document).

    Attributes:
        device_id: The new device, 1 to 2**64 - 1.
        api_key: Its key. A secret.
        home_id: The home it was added to.
        device_class: Its device class.
    """

    device_id: int
    api_key: str = field(repr=False)
    home_id: int | None = None
    device_class: str | None = None

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read MODE's JSON.

        Raises:
            CloudNoAnswerError: It cannot be read.
        """
        fields = _fields(value)
        return cls(
            device_id=_required(fields, "id", _id),
            api_key=_required(fields, "apiKey", _secret),
            home_id=_id(fields.get("homeId")),
            device_class=_text(fields.get("deviceClass")),
        )


@frozen
class ProvisioningToken:
    """Lets one device into one home (`POST /homes/{id}/deviceProvisioning` in MODE's provisioning document).

    Attributes:
        token: The token, 1 to 1024 printable ASCII characters, opaque. A secret.
        expires_at: When it ends, in UTC; None when MODE does not say.
    """

    token: str = field(repr=False)
    expires_at: datetime | None = None

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read MODE's JSON.

        Raises:
            CloudNoAnswerError: It cannot be read.
        """
        fields = _fields(value)
        return cls(
            token=_required(fields, "token", _secret),
            expires_at=_timestamp(fields.get("expirationTime")),
        )


def claim_expiration(value: object) -> datetime:
    """Read when a claim window ends, in UTC (`POST /deviceRegistration` in MODE's provisioning document).

    Raises:
        CloudNoAnswerError: It cannot be read, or is no time of these centuries.
    """
    ends = _required(_fields(value), "claimExpirationTime", _timestamp)
    if not _FIRST_YEAR <= ends.year <= _LAST_YEAR:
        raise CloudNoAnswerError("MODE's answer has no usable claimExpirationTime")
    return ends


@frozen
class DeviceEvent:
    """Something a device told its home (the user session's web socket in MODE's API reference).

    Attributes:
        home_id: The home.
        timestamp: When it happened, in UTC.
        event_type: What happened; MODE's own types begin and end with an underscore.
        event_data: What the device says about it; any JSON.
        origin_device_id: The device; None when the event is no device's.
    """

    home_id: int
    timestamp: datetime
    event_type: str
    event_data: dict[str, Any] = field(default_factory=dict)
    origin_device_id: int | None = None

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read MODE's JSON.

        Raises:
            CloudNoAnswerError: It cannot be read.
        """
        fields = _fields(value)
        event_data = fields.get("eventData")
        return cls(
            home_id=_required(fields, "homeId", _id),
            timestamp=_required(fields, "timestamp", _timestamp),
            event_type=_required(fields, "eventType", _text),
            event_data=event_data if isinstance(event_data, dict) else {},
            origin_device_id=_id(fields.get("originDeviceId")),
        )


@frozen
class Command:
    """Something a device is to do (the device's web socket in MODE's API reference).

    Attributes:
        action: What to do.
        parameters: More about it; any JSON.
    """

    action: str
    parameters: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read MODE's JSON.

        Raises:
            CloudNoAnswerError: It cannot be read.
        """
        fields = _fields(value)
        parameters = fields.get("parameters")
        if not isinstance(parameters, dict | None):
            # To do something without the parameters that were meant would be worse than not to do it.
            raise CloudNoAnswerError("MODE's command has no readable parameters")
        return cls(action=_required(fields, "action", _text), parameters=parameters or {})


def list_from_json(value: object, from_json: Callable[[object], _T]) -> list[_T]:
    """Read a JSON array, each element with `from_json`.

    Raises:
        CloudNoAnswerError: It is no array, or an element cannot be read.
    """
    if not isinstance(value, list):
        raise CloudNoAnswerError("MODE's answer is not a list")
    return [from_json(element) for element in value]


def _fields(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise CloudNoAnswerError("MODE's answer is not an object")
    return value


def _required(fields: dict[str, object], name: str, read: Callable[[object], _T | None]) -> _T:
    value = read(fields.get(name))
    if value is None:
        raise CloudNoAnswerError(f"MODE's answer has no readable {name}")
    return value


# Each of these gives None for what is not there or cannot be read. -----------------------------------------------


def _id(value: object) -> int | None:
    # A bool is an int in Python; zero is how "none" may be written.
    return value if isinstance(value, int) and value is not True and 1 <= value <= LARGEST_ID else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and len(value) <= LONGEST_TEXT else None


def _boolean(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _secret(value: object) -> str | None:
    return value if isinstance(value, str) and is_secret(value) else None


def _timestamp(value: object) -> datetime | None:
    if not isinstance(value, str) or not _TIMESTAMP.fullmatch(value):
        return None
    try:
        # Python keeps microseconds; further digits are cut off.
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
