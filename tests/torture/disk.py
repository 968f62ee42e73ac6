"""What a power cut may leave of a folder, by what POSIX promises and nothing more. It touches no disk.

What was written to a file and not synced may be there, or not, or in part. A name that was made, changed or removed
while its folder was not synced since may be as before or as after, whatever became of the other names; only a rename
changes both of its names at once. File systems keep better order than that, and none need to.
"""

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torture.trace import Call

_MOST = 48
"""How many ways out of one folder are looked at where there are more: a choice of them then."""


@dataclass(frozen=True)
class Left:
    """What is left of a file.

    Attributes:
        octets: What it would be whole.
        share: How much of its beginning is there.
        zeros: Whether it has its length, and zeros from there on.
    """

    octets: bytes = field(repr=False)
    share: float = 1
    zeros: bool = False

    def content(self, octets: bytes) -> bytes:
        """What is in the file if it would be this whole."""
        kept = octets[: int(self.share * len(octets))]
        return kept + bytes(len(octets) - len(kept)) if self.zeros else kept

    def __str__(self) -> str:
        shapes = {(1, False): "whole", (0, False): "empty", (0, True): "zeros", (0.5, False): "torn"}
        return shapes.get((self.share, self.zeros), "half zeros")


State = frozenset[tuple[str, Left]]
"""The files of a folder and the folders in it, by their names in it."""


@dataclass
class _File:
    synced: bytes = b""
    now: bytes = b""

    def ways(self) -> list[Left]:
        if self.now == self.synced:
            return [Left(self.now)]
        return [Left(self.synced), *(Left(self.now, *shape) for shape in ((1,), (0,), (0, True), (0.5,), (0.5, True)))]


@dataclass
class _Folder:
    synced: dict[str, "_File | _Folder"] = field(default_factory=dict)
    now: dict[str, "_File | _Folder"] = field(default_factory=dict)
    pending: list[dict[str, "_File | _Folder | None"]] = field(default_factory=list)

    def changed(self, names: dict[str, "_File | _Folder | None"]) -> None:
        self.pending.append(names)
        self.now = _with(self.now, names)

    def sync(self) -> None:
        self.synced, self.pending = dict(self.now), []

    def ways(self, choice: random.Random) -> Iterator[State]:
        for made in _some(list(itertools.product((False, True), repeat=len(self.pending))), choice):
            names = self.synced
            for change in itertools.compress(self.pending, made):
                names = _with(names, change)
            each = [
                [frozenset({(name, left)}) for left in node.ways()]
                if isinstance(node, _File)
                else [frozenset((f"{name}/{inner}", left) for inner, left in state) for state in node.ways(choice)]
                for name, node in names.items()
            ]
            for together in _some(list(itertools.product(*each)), choice):
                yield frozenset().union(*together)


class Disk:
    """A folder, as the calls of a program change it.

    Args:
        path: The folder.
        files: What was in it, and durable, before.
        seed: Where there are too many ways to look at, the choice comes from it.
    """

    def __init__(self, path: Path, files: Mapping[str, bytes], seed: int) -> None:
        nodes: dict[str, _File | _Folder] = {name: _File(octets, octets) for name, octets in files.items()}
        self._path = path
        self._root = _Folder(dict(nodes), dict(nodes))
        self._choice = random.Random(seed)

    def carry_out(self, call: Call) -> bool:
        """Do what the program did. Returns whether that changed anything, or made it last."""
        path = call.path
        if path is None or call.result is None or call.result < 0 or not path.is_relative_to(self._path):
            return False
        folder = self._node(path.parent) if path != self._path else None
        match call.name:
            case "openat" if "O_CREAT" in call.flags and path.name not in folder.now:
                folder.changed({path.name: _File()})
            case "openat" if "O_TRUNC" in call.flags:
                self._node(path).now = b""
            case "mkdir":
                folder.changed({path.name: _Folder()})
            case "write":
                self._node(path).now += call.octets
            case "unlink":
                folder.changed({path.name: None})
            case "rename":
                folder.changed({call.paths[0].name: None, path.name: self._node(call.paths[0])})
            case "fsync" if isinstance(node := self._node(path), _Folder):
                node.sync()
            case "fsync":
                node.synced = node.now
            case _:
                return False
        return True

    def after_a_cut(self) -> set[State]:
        """All that may be left now, or a choice of it."""
        return set(self._root.ways(self._choice))

    def _node(self, path: Path) -> "_File | _Folder":
        node: _File | _Folder = self._root
        for name in path.relative_to(self._path).parts:
            node = node.now[name]
        return node


def _with(names: Mapping[str, "_File | _Folder"], change: Mapping[str, "_File | _Folder | None"]) -> dict:
    return {name: node for name, node in {**names, **change}.items() if node is not None}


def _some(ways: list, choice: random.Random) -> list:
    """All of them, or the first, the last and a choice of the others."""
    return ways if len(ways) <= _MOST else [ways[0], *choice.sample(ways[1:-1], _MOST - 2), ways[-1]]
