"""Hypothesis strategies for everything that the protocol can say."""

from hypothesis import strategies as st

from bletoken.protocol import wire
from bletoken.protocol.wire import CoarseState, Request, Status

printable = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
u16 = st.integers(0, 2**16 - 1)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
references = st.none() | st.binary(min_size=16, max_size=16)
states = st.sampled_from(CoarseState)
shares = st.binary(min_size=32, max_size=32)


def texts(longest: int) -> st.SearchStrategy[str]:
    """Texts of at most so many UTF-8 octets."""
    return st.text(max_size=longest).filter(lambda text: len(text.encode()) <= longest)


requests: st.SearchStrategy[Request] = st.one_of(
    st.builds(wire.Provision, st.text(printable, min_size=1, max_size=wire.LONGEST_TOKEN), u32, u64),
    st.builds(wire.Claim, st.integers(60, 900)),
    st.just(wire.Identify()),
    st.just(wire.AskStatus()),
    st.just(wire.Unlock()),
)

statuses: st.SearchStrategy[Status] = st.one_of(
    st.builds(wire.Accepted, u32, references),
    st.builds(wire.Redeeming, u32, references),
    st.builds(wire.Stored, u32, references),
    st.builds(wire.Provisioned, u32, references, u64),
    st.builds(wire.Claimable, u32, references, claim_code=st.text(printable, min_size=1, max_size=128), until=u64),
    st.builds(wire.Failed, u32, references, st.sampled_from(wire.FailureCode), texts(wire.LONGEST_REASON), u32),
    st.builds(wire.Idle, u32, references, states),
    st.builds(wire.Done, u32, references),
)

clear_statuses = st.builds(
    wire.ClearStatus,
    st.sampled_from(wire.ClearCode),
    states,
    st.integers(0, wire.LONGEST_WAIT_S),
    st.binary(min_size=8, max_size=8),
)

offers = st.builds(
    wire.Offer,
    versions=st.sampled_from([(1,), (0, 1), (1, 2)]),
    sid=st.binary(min_size=16, max_size=16),
    shares=st.dictionaries(st.sampled_from([1, 2]), shares, min_size=1, max_size=2),
    actions=st.sets(st.integers(1, 5), min_size=1, max_size=5).map(lambda found: tuple(sorted(found))),
    state=states,
    largest_message=u16,
    device_class=texts(60),
)
