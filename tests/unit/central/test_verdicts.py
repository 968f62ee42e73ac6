"""What a device says becomes one error each, with its own exit code."""

import secrets

import pytest

from bletoken import errors
from bletoken.errors import BletokenError
from bletoken.protocol.wire import ClearCode, ClearStatus, CoarseState, Failed, FailureCode
from bletoken_central import handoff

FAILURES: dict[FailureCode, type[BletokenError]] = {
    FailureCode.TOKEN_REFUSED: errors.TokenRefusedError,
    FailureCode.TOKEN_EXPIRED: errors.TokenRefusedError,
    FailureCode.CLOUD_UNREACHABLE: errors.DeviceOfflineError,
    FailureCode.CLOUD_ERROR: errors.DeviceCloudError,
    FailureCode.CLOCK_WRONG: errors.ClockWrongError,
    FailureCode.STORAGE_FAILED: errors.DeviceStorageError,
    FailureCode.BUSY: errors.DeviceBusyError,
    FailureCode.ALREADY_PROVISIONED: errors.AlreadyProvisionedError,
    FailureCode.NOT_ALLOWED: errors.NotAllowedError,
    FailureCode.OUTCOME_UNKNOWN: errors.OutcomeUnknownError,
    FailureCode.CREDENTIALS_REFUSED: errors.DeviceRemovedError,
    FailureCode.CLAIM_REFUSED: errors.ClaimRefusedError,
    FailureCode.REQUEST_INVALID: errors.RemoteProtocolError,
}
CLEAR: dict[ClearCode, type[BletokenError]] = {
    # These two are tried again on a new connection before anybody hears of them.
    ClearCode.STALE_OFFER: errors.RadioError,
    ClearCode.MALFORMED: errors.RemoteProtocolError,
    ClearCode.TOO_LARGE: errors.RemoteProtocolError,
    ClearCode.UNSUPPORTED_VERSION: errors.UnsupportedVersionError,
    ClearCode.LOCKED: errors.PinLockedError,
    ClearCode.BUSY: errors.DeviceBusyError,
    ClearCode.NOT_AUTHENTIC: errors.CodeRefusedError,
    ClearCode.STORAGE_FAILED: errors.DeviceStorageError,
}


@pytest.mark.parametrize("code", list(FailureCode))
def test_each_failure_is_an_error_of_its_own(code: FailureCode) -> None:
    failure = handoff.failure_of(Failed(0, secrets.token_bytes(16), code=code, reason="WHY"))
    assert isinstance(failure, FAILURES[code])


@pytest.mark.parametrize("code", list(ClearCode))
def test_each_clear_status_is_an_error_of_its_own(code: ClearCode) -> None:
    with pytest.raises(BletokenError) as caught:
        handoff._refused_in_clear(ClearStatus(code, CoarseState.READY, 5))
    assert isinstance(caught.value, CLEAR[code])


def test_a_refused_token_carries_modes_reason() -> None:
    failure = handoff.failure_of(Failed(0, code=FailureCode.TOKEN_REFUSED, reason="INVALID_TOKEN"))
    assert isinstance(failure, errors.TokenRefusedError)
    assert failure.reason == "INVALID_TOKEN"
    assert "INVALID_TOKEN" in str(failure)


def test_a_locked_pin_tells_how_long_or_that_it_takes_an_unlock() -> None:
    with pytest.raises(errors.PinLockedError, match="for 40 s") as caught:
        handoff._refused_in_clear(ClearStatus(ClearCode.LOCKED, CoarseState.READY, 40))
    assert caught.value.wait_s == 40
    with pytest.raises(errors.PinLockedError, match="until it is unlocked") as caught:
        handoff._refused_in_clear(ClearStatus(ClearCode.LOCKED, CoarseState.READY, 0))
    assert caught.value.wait_s is None


def test_every_error_says_what_happened_and_what_to_do_next() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, BletokenError)]
    assert len(classes) > 20
    for cls in classes:
        first, _, rest = (cls.__doc__ or "").partition("\n")
        assert first.endswith("."), cls
        assert rest.strip(), cls


def test_no_two_outcomes_of_a_hand_off_share_an_exit_code_without_meaning_the_same() -> None:
    by_code: dict[int, set[str]] = {}
    for cls in {*FAILURES.values(), *CLEAR.values(), errors.DeviceNotFoundError, errors.RadioUnavailableError}:
        by_code.setdefault(cls.exit_code, set()).add(cls.__name__)
    assert all(len(names) == 1 for names in by_code.values()), by_code
