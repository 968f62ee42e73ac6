"""What counts as tried when a hand-off does not come to the call that it was to be killed at."""

from collections.abc import Callable
from pathlib import Path

import pytest
from torture import killed
from torture.killed import Kill
from torture.plan import NotPossibleError, Plan
from torture.report import Result, Trial
from torture.trace import Call

Hit = Callable[[Kill, Path], Call | None]


def written(folder: Path, number: int) -> Call:
    return Call("write", number, (folder / "journal",), number_there=number)


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> list[Kill]:
    made = [Kill("device", "before", written(Path("recorded"), number)) for number in range(1, 11)]

    async def kills(_: Plan) -> list[Kill]:
        return made

    monkeypatch.setattr(killed, "_kills", kills)
    return made


def hitting(monkeypatch: pytest.MonkeyPatch, hit: Hit, result: Result = Result.SURVIVED) -> None:
    async def run(_: Plan, kill: Kill, folder: Path) -> tuple[Call | None, Trial | None]:
        call = hit(kill, folder)
        return call, call and Trial(str(Kill(kill.who, kill.moment, call)), result)

    monkeypatch.setattr(killed, "_device_killed", run)


async def tried(plan: Plan) -> list[str]:
    return [trial.fault async for trial in killed.trials(plan)]


async def test_what_was_hit_counts(kills: list[Kill], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hitting(monkeypatch, lambda kill, folder: written(folder, kill.call.number))
    assert sorted(await tried(plan := Plan(tmp_path))) == sorted(map(str, kills))
    assert plan.remarks == []


@pytest.mark.parametrize("instead", ["another", "a library", "nothing"])
async def test_what_no_hand_off_came_to_is_told(
    instead: str, kills: list[Kill], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hit(kill: Kill, folder: Path) -> Call | None:
        if kill.call.number < 10:
            return written(folder, kill.call.number)
        library = Call("openat", 10, (Path("/usr/lib/libc.so.6"),), flags="O_RDONLY", number_there=10)
        return {"another": written(folder, 11), "a library": library}.get(instead)

    hitting(monkeypatch, hit)
    faults = await tried(plan := Plan(tmp_path))
    others = ["device killed before write 11 of journal"] if instead == "another" else []
    assert sorted(faults) == sorted([*map(str, kills[:-1]), *others])
    assert plan.remarks == [f"1 of 10 calls came in no other hand-off: {kills[-1]}"]


async def test_where_too_much_is_missed_not_all_was_tried(
    kills: list[Kill], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hitting(monkeypatch, lambda kill, folder: written(folder, kill.call.number) if kill.call.number < 5 else None)
    plan = Plan(tmp_path)
    with pytest.raises(NotPossibleError, match="6 of 10 calls came in no other hand-off"):
        await tried(plan)
    assert plan.remarks == []


async def test_what_was_not_survived_is_told_whatever_was_hit(
    kills: list[Kill], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hitting(monkeypatch, lambda _, folder: written(folder, 1), Result.LOST)
    trial = await anext(killed.trials(Plan(tmp_path)))
    assert trial == Trial("device killed before write 1 of journal", Result.LOST)
