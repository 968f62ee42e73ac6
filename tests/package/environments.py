"""The built distribution, and virtual environments that hold it with the libraries of one extra and nothing else."""

import email
import importlib.metadata
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import Distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]

FROM_INDEX = "BLETOKEN_TEST_INDEX"
"""Set to 1, the libraries are installed by pip as a stranger would; else they are linked from where the tests run."""


@dataclass(frozen=True)
class Wheel:
    """A built wheel."""

    path: Path

    @cached_property
    def names(self) -> list[str]:
        """The files in it."""
        with zipfile.ZipFile(self.path) as archive:
            return archive.namelist()

    def text(self, suffix: str) -> str:
        """The content of the one file whose name ends so."""
        [name] = [name for name in self.names if name.endswith(suffix)]
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(name).decode()

    @property
    def requirements(self) -> list[str]:
        """What it needs, extras and all."""
        return email.message_from_string(self.text(".dist-info/METADATA")).get_all("Requires-Dist") or []

    def libraries(self, *extras: str) -> dict[str, Distribution]:
        """All that it needs with these extras, and what that needs in turn, as installed here."""
        found: dict[str, Distribution] = {}
        open_: list[tuple[str, frozenset[str]]] = [(text, frozenset(extras)) for text in self.requirements]
        seen = set(open_)
        while open_:
            text, wanted = open_.pop()
            requirement = Requirement(text)
            if requirement.marker and not any(requirement.marker.evaluate({"extra": e}) for e in wanted or {""}):
                continue
            distribution = importlib.metadata.distribution(requirement.name)
            assert requirement.specifier.contains(distribution.version, prereleases=True), requirement
            found[canonicalize_name(requirement.name)] = distribution
            for inner in distribution.requires or []:
                if (needed := (inner, frozenset(requirement.extras))) not in seen:
                    seen.add(needed)
                    open_.append(needed)
        return found


def build(folder: Path, source: Path = ROOT) -> tuple[Wheel, Path]:
    """Build wheel and sdist; returns both."""
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=120)
    [wheel], [sdist] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Wheel(wheel), sdist


@dataclass(frozen=True)
class Environment:
    """A virtual environment."""

    path: Path

    @property
    def bin(self) -> Path:
        return self.path / ("Scripts" if os.name == "nt" else "bin")

    def command(self, *words: str) -> list[str]:
        """A command line of one of its programs."""
        return [str(self.bin / words[0]), *words[1:]]

    def run(self, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run one of its programs, from outside the source, to its end."""
        return subprocess.run(
            self.command(*words),
            cwd=cwd or self.path,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def clean_environment() -> dict[str, str]:
    """The environment variables without those that lead Python elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COLUMNS"))}


def make_environment(path: Path, wheel: Wheel, *extras: str) -> Environment:
    """A virtual environment with the wheel and what it needs with these extras."""
    venv.EnvBuilder(with_pip=False, symlinks=os.name != "nt").create(path)
    environment = Environment(path)
    pip = [sys.executable, "-m", "pip", "--python", str(path), "install", "--quiet", "--disable-pip-version-check"]
    if os.environ.get(FROM_INDEX) == "1":
        wanted = f"{wheel.path}[{','.join(extras)}]" if extras else str(wheel.path)
        pip += ["--constraint", str(ROOT / "constraints.txt"), wanted]
    else:
        pip += ["--no-deps", "--no-index", str(wheel.path)]
        purelib = environment.run("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout
        for distribution in wheel.libraries(*extras).values():
            for source, name in _files(distribution):
                target = Path(purelib.strip()) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(source)
    subprocess.run(pip, check=True, timeout=300)
    return environment


def _files(distribution: Distribution) -> Iterator[tuple[Path, str]]:
    for file in distribution.files or []:
        # Programs of libraries stand outside, and nobody needs them here.
        if ".." not in file.parts and not file.is_absolute() and file.suffix != ".pyc":
            yield Path(str(file.locate())), str(file)
