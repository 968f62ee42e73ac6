"""What the model says a power cut may leave: everything that is not promised, and nothing that is excluded."""

from pathlib import Path

from torture.disk import Disk
from torture.trace import Call

FOLDER = Path("/state")


def disk(*calls: Call, **files: bytes) -> Disk:
    made = Disk(FOLDER, files, seed=1)
    for call in calls:
        assert made.carry_out(call)
    return made


def make(name: str) -> Call:
    return Call("openat", 1, (FOLDER / name,), result=3, flags="O_CREAT")


def write(name: str, octets: bytes) -> Call:
    return Call("write", 1, (FOLDER / name,), octets, len(octets))


def sync(name: str = "") -> Call:
    return Call("fsync", 1, (FOLDER / name,), result=0)


def rename(old: str, new: str) -> Call:
    return Call("rename", 1, (FOLDER / old, FOLDER / new), result=0)


def remove(name: str) -> Call:
    return Call("unlink", 1, (FOLDER / name,), result=0)


def left(made: Disk) -> set[frozenset[tuple[str, bytes]]]:
    return {frozenset((name, file.content(file.octets)) for name, file in state) for state in made.after_a_cut()}


def test_what_is_synced_in_a_synced_folder_is_all_that_can_be_left() -> None:
    assert left(disk(make("a"), write("a", b"12"), sync("a"), sync())) == {frozenset({("a", b"12")})}


def test_what_is_not_synced_may_be_there_in_part_or_as_zeros_or_not_at_all() -> None:
    expected = {frozenset({("a", content)}) for content in (b"", b"12", b"1", b"\0\0", b"1\0")}
    assert left(disk(make("a"), sync(), write("a", b"12"))) == expected


def test_a_name_is_not_there_for_sure_before_its_folder_is_synced() -> None:
    assert left(disk(make("a"), write("a", b"12"), sync("a"))) == {frozenset(), frozenset({("a", b"12")})}


def test_a_rename_leaves_the_old_content_or_the_new_and_nothing_between() -> None:
    replaced = disk(make("new"), write("new", b"2"), sync("new"), sync(), rename("new", "a"), a=b"1")
    assert left(replaced) == {frozenset({("a", b"1"), ("new", b"2")}), frozenset({("a", b"2")})}
    replaced.carry_out(sync())
    assert left(replaced) == {frozenset({("a", b"2")})}


def test_a_rename_of_what_was_not_synced_may_leave_an_empty_file() -> None:
    assert frozenset({("a", b"")}) in left(disk(make("new"), write("new", b"2"), rename("new", "a"), a=b"1"))


def test_of_two_names_that_changed_either_may_be_as_before() -> None:
    states = left(disk(remove("a"), remove("b"), a=b"1", b=b"2"))
    assert states == {frozenset({*a, *b}) for a in ((), [("a", b"1")]) for b in ((), [("b", b"2")])}


def test_a_folder_may_be_gone_with_all_that_is_synced_in_it() -> None:
    made = disk(Call("mkdir", 1, (FOLDER / "in",), result=0), make("in/a"), write("in/a", b"1"), sync("in/a"))
    made.carry_out(sync("in"))
    assert left(made) == {frozenset(), frozenset({("in/a", b"1")})}


def test_a_call_that_failed_or_is_about_another_folder_changes_nothing() -> None:
    made = Disk(FOLDER, {"a": b"1"}, seed=1)
    assert not made.carry_out(Call("unlink", 1, (FOLDER / "a",), result=-1))
    assert not made.carry_out(Call("unlink", 1, (Path("/other") / "a",), result=0))
    assert left(made) == {frozenset({("a", b"1")})}
