"""What nobody outside MODE knows about MODE, each a setting with a default; it never reads files or the environment."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from bletoken.errors import UsageError

MAX_ID: Final = 2**64 - 1
"""The largest id: MODE's ids are unsigned 64-bit integers (MODE's API reference)."""


@dataclass(frozen=True)
class Refusal:
    """An error answer: HTTP status and MODE's reason code. Its text form is `403:INVALID_TOKEN`."""

    status: int
    reason: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form.

        Raises:
            UsageError: It is not `STATUS:REASON` with a status from 400 to 599.
        """
        status, _, reason = text.partition(":")
        if status not in map(str, range(400, 600)) or not reason.isascii() or not reason.isprintable():
            raise UsageError(f"{text!r} is not STATUS:REASON, for instance 403:INVALID_TOKEN")
        return cls(int(status), reason)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How this local MODE behaves where MODE's documents are silent.

    Attributes:
        redeem_status: The status of a successful `POST /devices` with a token.
        provisioning_status: The status of a successful `POST /homes/{id}/deviceProvisioning`.
        on_demand_refused: The answer to `deviceProvisioning` in a project that does not make devices on demand.
        class_unknown: The answer to `deviceProvisioning` for a class that the project does not have.
        token_lifetime_s: Seconds from issuing a provisioning token to its expiry; 0 issues expired ones.
        token_single_use: Whether redeeming a token consumes it. If not, every redemption makes a device.
        token_length: Length of a provisioning token in bytes, exactly.
        token_unknown: The answer to a token that was never issued.
        token_expired: The answer to a token past its expiry.
        token_used: The answer to a token that was redeemed before.
        tag_echoed: Whether the `deviceTag` of the token becomes the device's `tag`.
        registration_invalid_status: The status of the answer to a `POST /deviceRegistration` with invalid data; MODE's
            page says 403, its list of statuses 400.
        claim_longest_s: The longest claim mode, in seconds.
        claim_off: What answers a device that switches its claim mode off: `empty` is 200 with an empty object, `time`
            200 with the present as `claimExpirationTime`, `nothing` 204.
        claim_status: The status of a successful `POST /devices` with a claim code.
        claim_code_unknown: The answer to a claim code that no device of the home's project has.
        claim_not_possible: The answer to a claim while the device's claim mode is off or over.
        claim_in_home: The answer to a claim of a device that is in a home, and to such a device that asks for claim
            mode.
        removed_device_kept: Whether a device that was made ahead of time goes back to where it was before it was
            claimed when a user removes it, with its key and claim code. If not, it is gone, like one made on demand.
        event_without_home_taken: Whether the event of a device without a home is taken (and lost); else it is refused
            as `not_member`.
        device_offline: The answer to a command for a device that is not connected.
        connections_of_device: How many command sockets a device may have at once (MODE's documents say 5).
        connections_refused: The answer to one more.
        connection_events_of_each: Whether every socket of a device makes `_deviceConnected_` and `_deviceDisconnected_`
            events; else the first that opens and the last that closes do.
        requests_of_device: How many requests a device may make in a minute (MODE's documents say 600); 0: any number.
        requests_of_user: The same for a session key (1500; a development environment's 600).
        requests_of_project_key: The same for a project's key (3000).
        requests_of_project: The same for all keys of a project together (6000).
        retry_after_form: What `Retry-After` says: `seconds`, or an `http-date`.
        home_status: The status of a successful `POST /homes`.
        homes_of_user: How many homes a user may be a member of.
        homes_exceeded: The answer to one more.
        member_status: The status of a successful `POST /homes/{id}/members`.
        member_unknown: The answer to a new member whom the project does not know; MODE would send an invitation.
        member_exists: The answer to a new member who is one already.
        last_owner: The answer where a home would be left without an owner.
        owners_only: The answer to a member who is no owner and changes the members of the home, or deletes it.
        first_device_id: The id of the first device of an empty database.
        session_lifetime_s: Seconds until a user's session key expires.
        timestamp_digits: Fractional digits of timestamps: 0, 3 or 9.
        key_missing: The answer where a key is needed and none was sent.
        key_refused: The answer to a key that is not, or no longer, valid.
        key_unsuitable: The answer to a valid key of the wrong kind, for instance a device's on `GET /homes`.
        login_refused: The answer to a wrong project, app, email or password.
        not_member: The answer to a user who is not a member of the home.
        other_device: The answer to a device that asks about, or speaks for, another one.
        not_found: The answer where there is no such home, device or path.
        max_body_size: The largest request body in bytes.
    """

    redeem_status: int = 201
    provisioning_status: int = 200
    on_demand_refused: Refusal = Refusal(403, "PERMISSION_DENIED")
    class_unknown: Refusal = Refusal(400, "INVALID_PARAMETER")
    token_lifetime_s: float = 900.0
    token_single_use: bool = True
    token_length: int = 120
    token_unknown: Refusal = Refusal(403, "INVALID_TOKEN")
    token_expired: Refusal = Refusal(403, "INVALID_TOKEN")
    token_used: Refusal = Refusal(403, "INVALID_TOKEN")
    tag_echoed: bool = True
    registration_invalid_status: int = 403
    claim_longest_s: int = 24 * 3600
    claim_off: str = "empty"
    claim_status: int = 201
    claim_code_unknown: Refusal = Refusal(404, "NOT_FOUND")
    claim_not_possible: Refusal = Refusal(403, "DEVICE_NOT_CLAIMABLE")
    claim_in_home: Refusal = Refusal(403, "DEVICE_ALREADY_IN_HOME")
    removed_device_kept: bool = True
    event_without_home_taken: bool = True
    device_offline: Refusal = Refusal(409, "DEVICE_OFFLINE")
    connections_of_device: int = 5
    connections_refused: Refusal = Refusal(429, "RATE_LIMIT_EXCEEDED")
    connection_events_of_each: bool = False
    requests_of_device: int = 600
    requests_of_user: int = 1500
    requests_of_project_key: int = 3000
    requests_of_project: int = 6000
    retry_after_form: str = "seconds"
    home_status: int = 201
    homes_of_user: int = 100
    homes_exceeded: Refusal = Refusal(403, "EXCEEDED_MAX_HOMES")
    member_status: int = 201
    member_unknown: Refusal = Refusal(404, "NOT_FOUND")
    member_exists: Refusal = Refusal(403, "MEMBER_EXISTS")
    last_owner: Refusal = Refusal(403, "LAST_OWNER")
    owners_only: Refusal = Refusal(403, "PERMISSION_DENIED")
    first_device_id: int = 1001
    session_lifetime_s: float = 30 * 24 * 3600.0
    timestamp_digits: int = 9
    key_missing: Refusal = Refusal(401, "AUTHORIZATION_REQUIRED")
    key_refused: Refusal = Refusal(401, "UNAUTHENTICATED_CLIENT")
    key_unsuitable: Refusal = Refusal(403, "PERMISSION_DENIED")
    login_refused: Refusal = Refusal(401, "UNAUTHENTICATED_CLIENT")
    not_member: Refusal = Refusal(403, "MEMBERS_ONLY")
    other_device: Refusal = Refusal(403, "MATCHING_DEVICE_ONLY")
    not_found: Refusal = Refusal(404, "NOT_FOUND")
    max_body_size: int = 64 * 1024

    def __post_init__(self) -> None:
        allowed = {
            "redeem_status": self.redeem_status in (200, 201),
            "provisioning_status": self.provisioning_status in (200, 201),
            "token_lifetime_s": 0 <= self.token_lifetime_s <= 10 * 365 * 24 * 3600,
            "token_length": 16 <= self.token_length <= 8192,
            "registration_invalid_status": self.registration_invalid_status in (400, 403),
            "claim_longest_s": 1 <= self.claim_longest_s <= 10 * 365 * 24 * 3600,
            "claim_off": self.claim_off in ("empty", "time", "nothing"),
            "claim_status": self.claim_status in (200, 201),
            "connections_of_device": self.connections_of_device >= 0,
            "requests_of_device": self.requests_of_device >= 0,
            "requests_of_user": self.requests_of_user >= 0,
            "requests_of_project_key": self.requests_of_project_key >= 0,
            "requests_of_project": self.requests_of_project >= 0,
            "retry_after_form": self.retry_after_form in ("seconds", "http-date"),
            "home_status": self.home_status in (200, 201),
            "homes_of_user": self.homes_of_user >= 0,
            "member_status": self.member_status in (200, 201),
            "first_device_id": 0 <= self.first_device_id <= MAX_ID,
            "session_lifetime_s": 0 <= self.session_lifetime_s <= 10 * 365 * 24 * 3600,
            "timestamp_digits": self.timestamp_digits in (0, 3, 9),
            "max_body_size": 0 <= self.max_body_size <= 16 * 1024 * 1024,
        }
        for name, fine in allowed.items():
            if not fine:
                raise UsageError(f"the setting {name} cannot be {getattr(self, name)!r}")

    @classmethod
    def load(cls, values: Mapping[str, Any]) -> Self:
        """Make settings from a JSON object, or from the texts of `--set name=value`.

        Args:
            values: Setting names and values; texts are converted to the setting's type.

        Raises:
            UsageError: There is no such setting, or it cannot have that value.
        """
        types = {field.name: type(field.default) for field in dataclasses.fields(cls)}
        unknown = sorted(values.keys() - types.keys())
        if unknown:
            raise UsageError(f"no such setting: {', '.join(unknown)} (there are {', '.join(types)})")
        return cls(**{name: _convert(name, value, types[name]) for name, value in values.items()})


def _convert(name: str, value: object, wanted: type) -> Any:  # noqa: ANN401 - an instance of `wanted`
    problem = UsageError(f"the setting {name} cannot be {value!r}")
    if wanted is bool:
        truth = {True: True, "true": True, "1": True, False: False, "false": False, "0": False}
        if not isinstance(value, bool | str) or value not in truth:
            raise problem
        return truth[value]
    if wanted is Refusal:
        if not isinstance(value, str):
            raise problem
        return Refusal.parse(value)
    if wanted is str:
        if not isinstance(value, str):
            raise problem
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise problem
    if wanted is int and isinstance(value, float):
        raise problem
    try:
        number = wanted(value)
    except (ValueError, OverflowError) as e:
        raise problem from e
    if not math.isfinite(number):
        raise problem
    return number
