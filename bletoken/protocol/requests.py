"""Which request a device grants, in which state, by which method: one table, and no I/O."""

from collections.abc import Mapping, Set
from typing import Final

from bletoken.protocol.setup_code import Method
from bletoken.protocol.wire import Action, CoarseState, FailureCode

_ANY_STATE: Final = frozenset(CoarseState)
_BOTH: Final = frozenset(Method)

GRANTED: Final[Mapping[Action, tuple[Set[CoarseState], Set[Method]]]] = {
    # A token is also taken while another is in work or done: the same one gets the same answer, never a second
    # redemption, and the journal refuses any other.
    Action.PROVISION: (_ANY_STATE - {CoarseState.PRE_PROVISIONED}, _BOTH),
    Action.CLAIM: (frozenset({CoarseState.PRE_PROVISIONED}), _BOTH),
    Action.IDENTIFY: (_ANY_STATE, _BOTH),
    Action.STATUS: (_ANY_STATE, _BOTH),
    # Who guesses the PIN must not be able to give the PIN more guesses; nor does a photographed label for ever.
    Action.UNLOCK: (_ANY_STATE - {CoarseState.PROVISIONED}, frozenset({Method.QR})),
}
"""Per action the states and the methods in which it is granted."""


def refusal(action: Action, state: CoarseState, method: Method) -> FailureCode | None:
    """Why a request is refused before it is looked into; None when it is granted."""
    states, methods = GRANTED[action]
    if method not in methods or state not in states:
        return FailureCode.NOT_ALLOWED
    return None
