"""What each endpoint of the local MODE may answer at all, with the default settings: statuses and reasons.

Statuses and reasons are those of MODE's documents and SDKs; where they are silent, those of `Settings`, whose docstring
says so. An endpoint that is not in this table is a defect.
"""

from dataclasses import fields
from typing import Final

from bletoken.sim.cloud.settings import Refusal, Settings

Answer = tuple[int, str | None]
"""A status and a reason; None where the answer is no refusal."""

_SETTINGS: Final = Settings()


def _set(*names: str) -> set[Answer]:
    refusals = [getattr(_SETTINGS, name) for name in names]
    assert all(isinstance(refusal, Refusal) for refusal in refusals)
    return {(refusal.status, refusal.reason) for refusal in refusals}


def _done(*statuses: int) -> set[Answer]:
    return {(status, None) for status in statuses}


_TOO_OFTEN: Final[set[Answer]] = {(429, "RATE_LIMIT_EXCEEDED")}
_BAD_DATA: Final[set[Answer]] = {(400, "INVALID_PARAMETER"), (400, "MISSING_PARAMETERS")}
_BAD_ID: Final[set[Answer]] = {(400, "INVALID_PARAMETER")}
_TOO_LARGE: Final[set[Answer]] = {(413, "REQUEST_TOO_LARGE")}
_KEY: Final = _set("key_missing", "key_refused", "key_unsuitable") | _TOO_OFTEN
_HOME: Final = _KEY | _BAD_ID | _set("not_found", "not_member")
_OWNER: Final = _HOME | _set("owners_only")
_DEVICE: Final = _HOME | _set("other_device")
_ITSELF: Final = _KEY | _BAD_ID | _set("other_device")

_MODE: Final[dict[str, set[Answer]]] = {
    "POST /auth/user": _done(200) | _BAD_DATA | _set("login_refused"),
    # A key that is no good is no error there.
    "GET /auth": _done(200) | _TOO_OFTEN,
    "GET /userSession/websocket": _done(101) | _KEY,
    "GET /homes": _done(200) | _KEY | _BAD_DATA,
    "POST /homes": _done(201) | _KEY | _BAD_DATA | _set("homes_exceeded"),
    "GET /homes/{id}": _done(200) | _HOME,
    "PATCH /homes/{id}": _done(204) | _HOME | _BAD_DATA,
    "DELETE /homes/{id}": _done(204) | _OWNER,
    "POST /homes/{id}/deviceProvisioning": _done(200) | _HOME | _BAD_DATA | _set("on_demand_refused", "class_unknown"),
    "GET /homes/{id}/members": _done(200) | _HOME,
    "POST /homes/{id}/members": _done(201) | _OWNER | _BAD_DATA | _set("member_unknown", "member_exists"),
    "PATCH /homes/{id}/members/{userId}": _done(204) | _OWNER | _BAD_DATA | _set("last_owner"),
    "DELETE /homes/{id}/members/{userId}": _done(204) | _OWNER | _set("last_owner"),
    # Its page in MODE's reference knows 200, 401, 403, 500 and 503 only.
    "POST /deviceRegistration": _done(200)
    | _KEY
    | {(403, reason) for _, reason in _BAD_DATA}
    | _set("other_device", "claim_in_home"),
    "GET /devices": _done(200) | _HOME | _BAD_DATA,
    "POST /devices": _done(201)
    | _HOME
    | _BAD_DATA
    | _set("token_unknown", "token_expired", "token_used", "claim_code_unknown", "claim_not_possible", "claim_in_home"),
    # Whoever has a good key may ask.
    "GET /devices/{id}": _done(200) | _DEVICE - _set("key_unsuitable"),
    "PATCH /devices/{id}": _done(204) | _DEVICE | _BAD_DATA,
    "DELETE /devices/{id}": _done(204) | _DEVICE,
    "PUT /devices/{id}/event": _done(204) | _ITSELF | _BAD_DATA,
    "PUT /devices/{id}/command": _done(204) | _DEVICE | _BAD_DATA | _set("device_offline"),
    "GET /devices/{id}/command": _done(101) | _ITSELF | _set("connections_refused"),
}

_SIM: Final[dict[str, set[Answer]]] = {
    "POST /_sim/seed": _done(200) | _BAD_DATA,
    "GET /_sim/faults": _done(200),
    "PUT /_sim/faults": _done(200) | _BAD_DATA,
    "DELETE /_sim/faults": _done(204),
    "POST /_sim/release": _done(200) | _BAD_DATA,
    "GET /_sim/requests": _done(200),
    "DELETE /_sim/requests": _done(204),
    "GET /_sim/devices": _done(200),
    "POST /_sim/devices": _done(201) | _BAD_DATA,
}

DOCUMENTED: Final[dict[str, set[Answer]]] = {
    **{name: answers | _TOO_LARGE for name, answers in (_MODE | _SIM).items()},
    # No such path, or no such method there.
    "UNKNOWN": _set("not_found") | {(405, "METHOD_NOT_ALLOWED")} | _TOO_LARGE,
}

_ALL: Final[set[Answer]] = {answer for answers in DOCUMENTED.values() for answer in answers}

UNSEEN_SETTINGS: Final = {
    field.name
    for field in fields(Settings)
    if isinstance(field.default, Refusal) and (field.default.status, field.default.reason) not in _ALL
}
"""Refusals that no endpoint is said to give; there should be none."""
