"""The torture's own tests: time jumps in its worlds, the same seed gives the same, and a missing defence is noticed."""

import asyncio
from pathlib import Path

import pytest
from torture import cloud, link, soak, warp
from torture.plan import Family, Plan
from torture.report import Result, Row, Trial, table
from torture.workers import Case, Workers


async def tried(family: Family, plan: Plan) -> list[Trial]:
    return [trial async for trial in family.trials(plan)]


# Worlds in which time jumps ------------------------------------------------------------------------------------------


def test_hours_pass_at_once() -> None:
    async def world() -> float:
        began_at = asyncio.get_running_loop().time()
        await asyncio.gather(*(asyncio.sleep(hours * 3600) for hours in range(9)))
        return asyncio.get_running_loop().time() - began_at

    assert warp.run(world(), seed=0) == pytest.approx(8 * 3600)


def test_what_waits_for_nothing_that_can_happen_is_noticed() -> None:
    async def world() -> None:
        await asyncio.Event().wait()

    with pytest.raises(warp.StandstillError, match="everybody waits"):
        warp.run(world(), seed=0)


def test_what_runs_in_circles_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def world() -> None:
        while True:
            await asyncio.sleep(0)

    monkeypatch.setattr(warp, "MOST_TURNS", 1000)
    with pytest.raises(warp.StandstillError, match="in circles"):
        warp.run(world(), seed=0)


@pytest.mark.parametrize("settle_s", [0.0, 0.001])
def test_what_is_sent_arrives_before_time_jumps(settle_s: float) -> None:
    async def world() -> tuple[bytes, float]:
        loop = asyncio.get_running_loop()

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readline())
            await asyncio.sleep(60)
            writer.close()

        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
            writer.write(b"hello\n")
            async with asyncio.timeout(1):
                heard, heard_at = await reader.readline(), loop.time()
            assert await reader.read() == b""
            assert loop.time() - heard_at == pytest.approx(60)
            writer.close()
            return heard, heard_at

    heard, heard_at = warp.run(world(), seed=0, settle_s=settle_s)
    assert heard == b"hello\n"
    assert heard_at == warp.Clock().monotonic()


async def test_the_same_seed_gives_the_same_hand_off_to_the_last_digit(tmp_path: Path) -> None:
    times = []
    for _ in range(2):
        # Each time in a process of its own.
        async with Workers.started(Plan(tmp_path)) as workers:
            cases = [Case(f"seed {seed}", link.in_bad_weather, (seed,), seed) for seed in (3, 4)]
            times.append([trial async for trial in workers.trials(cases)])
    assert times[0] == times[1]
    assert all(trial.result is Result.SURVIVED for trial in times[0])
    assert len({trial.elapsed_s for trial in times[0]}) == 2


async def test_a_connection_may_break_at_each_packet_of_a_hand_off(tmp_path: Path) -> None:
    async with Workers.started(Plan(tmp_path)) as workers:
        takes = {mtu: await workers.call(link.calm, tmp_path, "token", mtu) for mtu in link.PACKETS}
    assert takes == link.PACKETS


# What is missed when it is taken out ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "only", "defence", "found"),
    [
        (cloud, "silence: no answer after", "time-out", {Result.LOST}),
        (cloud, "5xx: status 502", "sent-once", {Result.DOUBLED}),
        (cloud, "removed: half an answer, once", "recovery", {Result.DOUBLED}),
        (cloud, "removed all the same: home: no answer", "patience", {Result.LOST}),
        (link, "token, MTU 247: broken after packet 1", "retry", {Result.LOST}),
        (link, "token, MTU 247: broken after packet 1", "same-answer", {Result.LOST}),
        (soak, "claims", "hanging-up", {Result.LOST}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_missing_defence_is_noticed(
    tmp_path: Path, family: Family, only: str, defence: str, found: set[Result]
) -> None:
    # Neither the weather nor the harness is to blame: with the defence there is nothing to find.
    assert defence in family.DEFENCES
    for without, expected in ((None, set()), (defence, found)):
        plan = Plan(tmp_path, quick=family is soak, only=only, without=without)
        trials = await tried(family, plan)
        assert trials, "nothing was tried"
        assert {trial.result for trial in trials} - {Result.SURVIVED} == expected, trials


# The report ----------------------------------------------------------------------------------------------------------


def test_what_survived_and_has_a_figure_to_tell_tells_it_under_the_table() -> None:
    row = Row("link", 7, [Trial("calm", Result.SURVIVED, elapsed_s=1.0), Trial("rate", Result.SURVIVED, "all of them")])
    lost = Row("link", 7, [Trial("rate", Result.LOST, "none of them")])
    assert table([row]).splitlines()[-2:] == ["", "link: rate: all of them"]
    assert len(table([lost]).splitlines()) == 3
