"""Claiming a pre-provisioned device with MODE: what became of the request, also where no answer came. No radio."""

import asyncio
from collections.abc import Set
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from bletoken.errors import (
    AlreadyProvisionedError,
    BletokenError,
    ClaimCodeRefusedError,
    ClaimExpiredError,
    CloudNoAnswerError,
    CloudRefusedError,
    NotClaimableError,
    NotSignedInError,
)

if TYPE_CHECKING:
    from bletoken.mode.models import Device
    from bletoken.mode.user_api import UserApi

_ATTEMPTS: Final = 3
_PAUSE_S: Final = 0.5

_IN_HOME: Final = "DEVICE_ALREADY_IN_HOME"
_NOT_ABOUT_THE_CODE: Final = frozenset({"MEMBERS_ONLY", "PERMISSION_DENIED", "AUTHORIZATION_REQUIRED"})
"""MODE's reasons (its own SDKs name them)."""


async def claim(
    api: "UserApi", home_id: int, claim_code: str, *, known: Set[int], until: datetime | None = None
) -> "Device":
    """Claim a device into a home.

    Asking again is harmless, so a request without an answer is repeated: MODE then says that the device is in a home.

    Args:
        api: MODE, for a user who is a member of the home.
        home_id: The home.
        claim_code: The device's claim code. A secret.
        known: The devices that were in the home before.
        until: When the claim mode ends, where that is known.

    Raises:
        ClaimExpiredError: The claim mode has ended.
        NotClaimableError: The claim mode is off.
        AlreadyProvisionedError: The device is in a home.
        ClaimCodeRefusedError: MODE knows no such claim code.
        CloudError: MODE could not be asked, or refused for a reason that has nothing to do with the code.
    """
    unanswered: CloudNoAnswerError | None = None
    for attempt in range(_ATTEMPTS):
        try:
            return await api.claim_device(home_id, claim_code)
        except CloudNoAnswerError as e:
            unanswered = e
            await asyncio.sleep(_PAUSE_S * (attempt + 1))
        except NotSignedInError:
            raise
        except CloudRefusedError as e:
            if unanswered is not None and e.reason == _IN_HOME:
                return await _newcomer(api, home_id, known)
            raise _refusal(e, until) from e
    assert unanswered is not None, "only a request without an answer is repeated"
    raise unanswered


async def _newcomer(api: "UserApi", home_id: int, known: Set[int]) -> "Device":
    """The device that a request without an answer brought."""
    newcomers = [device for device in await api.devices(home_id) if device.id not in known]
    if len(newcomers) == 1:
        return newcomers[0]
    raise AlreadyProvisionedError(
        f"MODE gave no answer at first, and says now that the device is in a home; look whether it is in home {home_id}"
    )


def _refusal(error: CloudRefusedError, until: datetime | None) -> BletokenError:
    reason = error.reason or f"HTTP {error.status}"
    match error.reason:
        case "DEVICE_NOT_CLAIMABLE" if until is not None and datetime.now(UTC) >= until:
            return ClaimExpiredError("the device's claim mode has ended")
        case "DEVICE_NOT_CLAIMABLE":
            return NotClaimableError("MODE says that the device's claim mode is off")
        case "DEVICE_ALREADY_IN_HOME":
            return AlreadyProvisionedError("MODE says that the device is in a home already")
        case other if other in _NOT_ABOUT_THE_CODE:
            return error
        case _:
            return ClaimCodeRefusedError(f"MODE does not accept the claim code: {reason}", reason=error.reason)
