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
    CloudError,
    CloudNoAnswerError,
    CloudRefusedError,
    NotClaimableError,
    NotSignedInError,
)
from bletoken.mode import reasons

if TYPE_CHECKING:
    from bletoken.mode.models import Device
    from bletoken.mode.user_api import UserApi

_ATTEMPTS: Final = 3
_PAUSE_S: Final = 0.5

_NOT_ABOUT_THE_CODE: Final = frozenset(
    {reasons.MEMBERS_ONLY, reasons.PERMISSION_DENIED, reasons.AUTHORIZATION_REQUIRED}
)


async def claim(
    api: "UserApi", home_id: int, claim_code: str, *, known: Set[int], until: datetime | None = None
) -> "Device":
    """Claim a device into a home.

    Asking again is harmless, so a request without an answer is repeated. From then on no refusal counts before the home
    was looked into: the first request may have had its effect.

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
        CloudNoAnswerError: MODE gave no answer, and the home does not tell what became of the request.
        CloudError: MODE could not be asked, or refused for a reason that has nothing to do with the code.
    """
    unanswered: CloudNoAnswerError | None = None
    for attempt in range(_ATTEMPTS):
        try:
            return await api.claim_device(home_id, claim_code)
        except CloudNoAnswerError as e:
            unanswered = e
            if attempt + 1 < _ATTEMPTS:
                await asyncio.sleep(_PAUSE_S * (attempt + 1))
        except NotSignedInError:
            raise
        except CloudError as e:
            if unanswered is not None:
                break
            meaning = _meaning_of(e, until)
            if meaning is e:
                raise
            raise meaning from e
    assert unanswered is not None, "only after a request without an answer is there more to find out"
    unknown = f"MODE gave no answer to the claim; look whether the device is in home {home_id} before you try again"
    try:
        newcomers = [device for device in await api.devices(home_id) if device.id not in known]
    except NotSignedInError:
        raise
    except CloudError as e:
        # That this request had no effect says nothing about the one before.
        raise CloudNoAnswerError(unknown, status=unanswered.status) from e
    if len(newcomers) == 1:
        return newcomers[0]
    raise CloudNoAnswerError(unknown, status=unanswered.status) from unanswered


def _meaning_of(error: CloudError, until: datetime | None) -> BletokenError:
    """What a refusal says about the device, where it does."""
    if not isinstance(error, CloudRefusedError) or error.reason in _NOT_ABOUT_THE_CODE:
        return error
    if error.reason == reasons.ALREADY_IN_HOME:
        return AlreadyProvisionedError("MODE says that the device is in a home already")
    if error.reason == reasons.NOT_CLAIMABLE:
        if until is not None and datetime.now(UTC) >= until:
            return ClaimExpiredError("the device's claim mode has ended")
        return NotClaimableError("MODE says that the device's claim mode is off")
    reason = error.reason or f"HTTP {error.status}"
    return ClaimCodeRefusedError(f"MODE does not accept the claim code: {reason}", reason=error.reason)
