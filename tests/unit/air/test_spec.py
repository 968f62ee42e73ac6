import pytest

from bletoken.errors import UsageError
from bletoken.sim.air.spec import Endpoint, RadioSpec


@pytest.mark.parametrize(
    "text", ["air:unix:/run/air.sock", "air:tcp:127.0.0.1:4242", "air:tcp:localhost:0", "air:unix:/a b:c?mtu=23"]
)
def test_a_spec_is_read_and_written_back(text: str) -> None:
    assert str(RadioSpec.parse(text)) == text


def test_a_spec_may_name_the_mtu() -> None:
    assert RadioSpec.parse("air:unix:/a?mtu=48") == RadioSpec(Endpoint("unix", path="/a"), att_mtu=48)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hci0",
        "air:",
        "air:/run/air.sock",
        "air:unix:",
        "air:tcp:4242",
        "air:tcp:127.0.0.1:70000",
        "air:tcp:192.0.2.1:4242",
        "air:tcp:0.0.0.0:4242",
        "air:unix:/a?mtu=22",
        "air:unix:/a?mtu=518",
        "air:unix:/a?mtu=",
        "air:unix:/a?speed=1",
    ],
)
def test_anything_else_is_refused_with_words_for_a_person(text: str) -> None:
    with pytest.raises(UsageError, match=r"use|loopback"):
        RadioSpec.parse(text)
