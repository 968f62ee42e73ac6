"""The journal never lets a token that may have left be redeemed again."""

import itertools

import pytest

from bletoken.protocol.wire import (
    Accepted,
    CoarseState,
    Failed,
    FailureCode,
    Provision,
    Provisioned,
    Redeeming,
    Stored,
    token_ref,
)
from bletoken_peripheral import redemption
from bletoken_peripheral.redemption import TRANSITIONS, Event, Failure, Journal, Phase

REQUEST = Provision("token-1", 600, 1_700_000_000)
OTHER = Provision("token-2", 600, 1_700_000_000)


def journal_in(phase: Phase) -> Journal:
    received = Journal.begin(REQUEST)
    sending = received.after(Event.SENDING)
    stored = sending.after(Event.CREDENTIALS_STORED, device_id=7)
    return {
        Phase.RECEIVED: received,
        Phase.REDEEMING: sending,
        Phase.STORED: stored,
        Phase.ANNOUNCED: stored.after(Event.ANNOUNCED),
        Phase.FAILED: sending.after(Event.REFUSED, failure=Failure(FailureCode.TOKEN_REFUSED, "NO")),
        Phase.OUTCOME_UNKNOWN: sending.after(Event.UNANSWERED, failure=Failure(FailureCode.OUTCOME_UNKNOWN)),
    }[phase]


@pytest.mark.parametrize(("phase", "event"), list(itertools.product(Phase, Event)))
def test_an_event_moves_the_journal_as_the_table_says_and_otherwise_raises(phase: Phase, event: Event) -> None:
    journal = journal_in(phase)
    device_id = 7 if event is Event.CREDENTIALS_STORED else None
    if event in TRANSITIONS[phase]:
        assert journal.after(event, device_id=device_id).phase is TRANSITIONS[phase][event]
    else:
        with pytest.raises(ValueError, match="cannot happen"):
            journal.after(event, device_id=device_id)


def test_no_path_leads_from_a_request_that_may_have_left_to_another_one_but_its_proven_failure() -> None:
    leads_to_sending = {phase for phase in Phase if Event.SENDING in TRANSITIONS[phase]}
    assert leads_to_sending == {Phase.RECEIVED}
    back = {event for event, phase in TRANSITIONS[Phase.REDEEMING].items() if phase is Phase.RECEIVED}
    assert back == {Event.NOT_TAKEN}


@pytest.mark.parametrize("phase", list(Phase))
def test_the_token_is_kept_only_while_it_may_be_needed(phase: Phase) -> None:
    assert (journal_in(phase).token is not None) == (phase in (Phase.RECEIVED, Phase.REDEEMING))


@pytest.mark.parametrize("has_credentials", [False, True])
@pytest.mark.parametrize("phase", list(Phase))
def test_the_same_token_again_changes_nothing(phase: Phase, *, has_credentials: bool) -> None:
    journal = journal_in(phase)
    assert redemption.take(journal, REQUEST, has_credentials=has_credentials) is journal


@pytest.mark.parametrize(
    ("phase", "has_credentials", "answer"),
    [
        (None, False, Phase.RECEIVED),
        (None, True, FailureCode.ALREADY_PROVISIONED),
        (Phase.RECEIVED, False, FailureCode.BUSY),
        (Phase.REDEEMING, False, FailureCode.BUSY),
        # The credentials of this very token can be on disk before the journal says so.
        (Phase.REDEEMING, True, FailureCode.BUSY),
        (Phase.STORED, True, FailureCode.ALREADY_PROVISIONED),
        (Phase.ANNOUNCED, True, FailureCode.ALREADY_PROVISIONED),
        (Phase.FAILED, False, Phase.RECEIVED),
        (Phase.FAILED, True, FailureCode.ALREADY_PROVISIONED),
        (Phase.OUTCOME_UNKNOWN, False, Phase.RECEIVED),
    ],
)
def test_another_token_is_taken_only_when_the_last_one_ended_and_no_credentials_would_be_lost(
    phase: Phase | None, answer: Phase | FailureCode, *, has_credentials: bool
) -> None:
    taken = redemption.take(journal_in(phase) if phase else None, OTHER, has_credentials=has_credentials)
    assert (taken.phase if isinstance(taken, Journal) else taken) is answer
    if isinstance(taken, Journal):
        assert taken.token == OTHER.token


@pytest.mark.parametrize("phase", [Phase.STORED, Phase.ANNOUNCED])
def test_a_removed_device_says_so_of_any_token_until_mode_knows_it_again(phase: Phase) -> None:
    removed = journal_in(phase).after(Event.KEY_REFUSED, failure=Failure(FailureCode.CREDENTIALS_REFUSED))
    assert (removed.phase, removed.was_removed, removed.device_id) == (phase, True, 7)
    assert redemption.take(removed, OTHER, has_credentials=True) is FailureCode.CREDENTIALS_REFUSED
    told = removed.status(0)
    assert isinstance(told, Failed)
    assert told.code is FailureCode.CREDENTIALS_REFUSED
    assert redemption.coarse_state(removed, has_credentials=True) is CoarseState.PROVISIONED
    assert removed.after(Event.KEY_ACCEPTED) == journal_in(phase)


def test_a_token_that_failed_is_no_removed_device() -> None:
    assert not journal_in(Phase.FAILED).was_removed
    assert not journal_in(Phase.OUTCOME_UNKNOWN).was_removed


@pytest.mark.parametrize("phase", [p for p in Phase if p is not Phase.REDEEMING])
def test_a_restart_leaves_every_phase_as_it_is_but_redeeming(phase: Phase) -> None:
    journal = journal_in(phase)
    assert redemption.resume(journal, None) is journal


def test_a_restart_while_redeeming_without_credentials_means_outcome_unknown_and_no_token() -> None:
    resumed = redemption.resume(journal_in(Phase.REDEEMING), None)
    assert resumed is not None
    assert (resumed.phase, resumed.token) == (Phase.OUTCOME_UNKNOWN, None)


def test_a_restart_while_redeeming_with_credentials_means_stored() -> None:
    resumed = redemption.resume(journal_in(Phase.REDEEMING), 7)
    assert resumed is not None
    assert (resumed.phase, resumed.device_id, resumed.token) == (Phase.STORED, 7, None)


def test_a_restart_without_a_journal_has_none() -> None:
    assert redemption.resume(None, None) is None


@pytest.mark.parametrize(
    ("phase", "status"),
    [
        (Phase.RECEIVED, Accepted),
        (Phase.REDEEMING, Redeeming),
        (Phase.STORED, Stored),
        (Phase.ANNOUNCED, Provisioned),
        (Phase.FAILED, Failed),
        (Phase.OUTCOME_UNKNOWN, Failed),
    ],
)
def test_a_companion_is_told_the_phase_and_which_token_it_is_about(phase: Phase, status: type) -> None:
    told = journal_in(phase).status(3)
    assert type(told) is status
    assert (told.re, told.token_ref) == (3, token_ref("token-1"))


def test_a_refusal_carries_modes_reason() -> None:
    told = journal_in(Phase.FAILED).status(0)
    assert isinstance(told, Failed)
    assert (told.code, told.reason) == (FailureCode.TOKEN_REFUSED, "NO")


@pytest.mark.parametrize(
    ("phase", "state"),
    [
        (None, CoarseState.READY),
        (Phase.RECEIVED, CoarseState.WORKING),
        (Phase.REDEEMING, CoarseState.WORKING),
        (Phase.STORED, CoarseState.PROVISIONED),
        (Phase.ANNOUNCED, CoarseState.PROVISIONED),
        (Phase.FAILED, CoarseState.READY),
        (Phase.OUTCOME_UNKNOWN, CoarseState.OUTCOME_UNKNOWN),
    ],
)
def test_anybody_may_know_the_coarse_state(phase: Phase | None, state: CoarseState) -> None:
    assert redemption.coarse_state(journal_in(phase) if phase else None, has_credentials=False) is state


def test_credentials_without_a_journal_mean_provisioned() -> None:
    assert redemption.coarse_state(None, has_credentials=True) is CoarseState.PROVISIONED


def test_no_repr_shows_the_token() -> None:
    assert "token-1" not in repr(journal_in(Phase.RECEIVED))
    assert token_ref("token-1").hex() not in repr(journal_in(Phase.RECEIVED))


def test_a_token_of_unknown_outcome_is_never_redeemed_again_whatever_came_after_it() -> None:
    lost = journal_in(Phase.OUTCOME_UNKNOWN)
    second = redemption.take(lost, OTHER, has_credentials=False)
    assert isinstance(second, Journal)
    assert redemption.take(second, REQUEST, has_credentials=False) is FailureCode.OUTCOME_UNKNOWN
    refused = second.after(Event.SENDING).after(Event.REFUSED, failure=Failure(FailureCode.TOKEN_REFUSED))
    assert redemption.take(refused, REQUEST, has_credentials=False) is FailureCode.OUTCOME_UNKNOWN
    third = redemption.take(refused, Provision("token-3"), has_credentials=False)
    assert isinstance(third, Journal)
    assert redemption.take(third, REQUEST, has_credentials=False) is FailureCode.OUTCOME_UNKNOWN
    assert isinstance(redemption.take(refused, OTHER, has_credentials=False), Journal)
