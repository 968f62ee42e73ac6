import pytest

from bletoken.errors import LocalProtocolError
from bletoken.protocol.states import TRANSITIONS, Event, Machine, Role, State

TABLE = """
device     offering  first message opened   secured
device     offering  first message refused  offering
device     offering  request refused        offering
device     offering  timed out              dead
device     offering  disconnected           dead
device     secured   first message opened   secured
device     secured   first message refused  secured
device     secured   request opened         secured
device     secured   request refused        offering
device     secured   status sent            secured
device     secured   disconnected           dead
companion  start     offer read             offered
companion  start     offer refused          dead
companion  start     timed out              dead
companion  start     disconnected           dead
companion  offered   first message sent     waiting
companion  offered   offer refused          dead
companion  offered   timed out              dead
companion  offered   disconnected           dead
companion  waiting   status opened          secured
companion  waiting   status refused         dead
companion  waiting   clear status           dead
companion  waiting   timed out              dead
companion  waiting   disconnected           dead
companion  secured   request sent           secured
companion  secured   status opened          secured
companion  secured   status refused         dead
companion  secured   clear status           secured
companion  secured   timed out              dead
companion  secured   disconnected           dead
"""
"""Every transition there is, written down a second time on purpose."""


def expected() -> dict[tuple[Role, State, Event], State]:
    rows = [line.split(maxsplit=2) for line in TABLE.strip().splitlines()]
    return {
        (Role(role), State(state), Event(rest.rsplit(maxsplit=1)[0].strip())): State(rest.rsplit(maxsplit=1)[1])
        for role, state, rest in rows
    }


EVERYTHING = [(role, state, event) for role in Role for state in TRANSITIONS[role] for event in Event]


@pytest.mark.parametrize(("role", "state", "event"), EVERYTHING)
def test_every_state_takes_exactly_the_events_of_the_table(role: Role, state: State, event: Event) -> None:
    machine = Machine(role, state)
    to = expected().get((role, state, event))
    assert machine.allows(event) is (to is not None)
    if to is None:
        with pytest.raises(LocalProtocolError):
            machine.require(event)
        with pytest.raises(LocalProtocolError):
            machine.advance(event)
        assert machine.state is state
    else:
        machine.require(event)
        assert machine.state is state
        assert machine.advance(event) is to
        assert machine.state is to


def test_the_table_written_down_here_is_about_states_that_exist() -> None:
    assert set(expected()) <= set(EVERYTHING)
    assert len(expected()) == len(TABLE.strip().splitlines())


@pytest.mark.parametrize("role", Role)
def test_nothing_leaves_the_state_dead(role: Role) -> None:
    assert TRANSITIONS[role][State.DEAD] == {}


@pytest.mark.parametrize(("role", "start"), [(Role.DEVICE, State.OFFERING), (Role.COMPANION, State.START)])
def test_every_state_is_reached_from_the_first_and_reaches_the_last(role: Role, start: State) -> None:
    edges = {(state, to) for state, row in TRANSITIONS[role].items() for to in row.values()}
    reached, reaching = {start}, {State.DEAD}
    for _ in State:
        reached |= {to for state, to in edges if state in reached}
        reaching |= {state for state, to in edges if to in reaching}
    assert reached == reaching == set(TRANSITIONS[role])


@pytest.mark.parametrize(
    ("role", "events"), [(Role.DEVICE, {Event.FIRST_OPENED}), (Role.COMPANION, {Event.STATUS_OPENED})]
)
def test_only_what_was_authenticated_leads_to_secured(role: Role, events: set[Event]) -> None:
    into = {
        event
        for state, row in TRANSITIONS[role].items()
        for event, to in row.items()
        if to is State.SECURED and state is not State.SECURED
    }
    assert into == events
