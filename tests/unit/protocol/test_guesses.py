import math

import pytest

from bletoken.protocol.guesses import GuessRecord

DELAYS_S = [0, 0, 0, 5, 10, 20, 40, 80, 160, *[300] * 11]
"""Seconds to wait after so many failures; from the twentieth on the PIN is stopped."""


@pytest.mark.parametrize(("failures", "delay_s"), list(enumerate(DELAYS_S)))
def test_the_delay_after_so_many_failures(failures: int, delay_s: float) -> None:
    record = GuessRecord(failures, since=1000)
    assert record.wait_s(1000) == delay_s
    assert record.wait_s(1000 + delay_s) == 0
    assert record.wait_s(10**9) == 0
    if delay_s:
        assert record.wait_s(1000 + delay_s - 0.25) == 0.25


@pytest.mark.parametrize("failures", [20, 21, 1000])
def test_at_twenty_failures_the_pin_stops_for_good(failures: int) -> None:
    assert GuessRecord(failures, since=0).wait_s(10**12) == math.inf
    assert GuessRecord.after_boot(failures, 10**12).wait_s(10**12) == math.inf


def test_the_table_ends_where_the_pin_stops() -> None:
    assert len(DELAYS_S) == 20


@pytest.mark.parametrize(("failures", "delay_s"), list(enumerate(DELAYS_S)))
def test_a_reboot_restarts_the_delay_in_full(failures: int, delay_s: float) -> None:
    almost_over = GuessRecord(failures, since=0)
    rebooted = GuessRecord.after_boot(almost_over.failures, now=7)
    assert rebooted.wait_s(7) == delay_s


def test_an_attempt_counts_before_it_is_known_to_be_wrong() -> None:
    assert GuessRecord(4, since=3).attempted(50) == GuessRecord(5, since=50)


def test_an_attacker_who_never_waits_too_little_gets_twenty_guesses_in_an_hour() -> None:
    record, now, guesses = GuessRecord(0, since=0), 0.0, 0
    while (wait_s := record.wait_s(now)) < math.inf:
        now += wait_s
        record = record.attempted(now)
        guesses += 1
    assert guesses == 20
    assert now == sum(DELAYS_S)


def test_a_clock_that_goes_back_shortens_no_delay() -> None:
    assert GuessRecord(5, since=100).wait_s(50) >= 20
