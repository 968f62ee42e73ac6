"""The wheel alone: what is in it, and what works with each extra and without any."""

import ast
import importlib.metadata
import json
import re
import signal
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from package.environments import ROOT, Environment, Wheel, build, clean_environment, make_environment

from bletoken.console import EXTRAS

PACKAGES = ("bletoken", "bletoken_peripheral", "bletoken_central")
SOURCES = (ROOT / "bletoken", ROOT / "peripheral/bletoken_peripheral", ROOT / "central/bletoken_central")

IMPORT_ALL = """
import ast, importlib, json, pkgutil, sys
missing = {}
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    modules = [module]
    for inner in pkgutil.walk_packages(getattr(module, "__path__", []), name + "."):
        modules.append(importlib.import_module(inner.name))
    for module in modules:
        # What functions import counts as well.
        for node in ast.walk(ast.parse(open(module.__file__, encoding="utf-8").read())):
            wanted = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            wanted += [node.module] if isinstance(node, ast.ImportFrom) else []
            for want in wanted:
                try:
                    # A module of Python's own that is not here is another platform's.
                    if not want.startswith("bletoken") and want not in sys.stdlib_module_names:
                        importlib.import_module(want)
                except ModuleNotFoundError as e:
                    missing[want] = module.__name__
print(json.dumps({"missing": missing, "loaded": sorted({name.partition(".")[0] for name in sys.modules})}))
"""

ALWAYS = (
    "bletoken.errors",
    "bletoken.console",
    "bletoken.files",
    "bletoken.records",
    "bletoken.mode",
    "bletoken.protocol",
)
IMPORTS = {
    "none": (*ALWAYS, "bletoken_peripheral.store", "bletoken_peripheral.cli"),
    "peripheral": (*ALWAYS, "bletoken_peripheral"),
    "central": (*ALWAYS, "bletoken_central"),
    "sim": (*ALWAYS, "bletoken.sim"),
}
"""What is importable with an extra, every module in it and every library that it names."""

NOT_NEEDED = {
    "none": {"bleak", "bless", "bumble", "keyring", "rich", "segno", "starlette", "uvicorn", "zxingcpp"},
    "peripheral": {"bumble", "keyring", "PIL", "rich", "starlette", "uvicorn", "zxingcpp"},
    "central": {"bless", "bumble", "segno", "starlette", "uvicorn"},
    "sim": {"keyring", "PIL", "segno", "zxingcpp"},
}
"""What is not even there with an extra. That bleak comes with bless, and rich with nothing else, is their affair."""


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory, wheel: Wheel) -> Callable[[str], Environment]:
    """An environment with one extra, or with `none`; each is made once."""
    made: dict[str, Environment] = {}

    def of(extra: str) -> Environment:
        if extra not in made:
            extras = () if extra == "none" else (extra,)
            made[extra] = make_environment(tmp_path_factory.mktemp("env") / extra, wheel, *extras)
        return made[extra]

    return of


Of = Callable[[str], Environment]


# What is in it ------------------------------------------------------------------------------------------------------


def test_the_wheel_holds_the_packages_typed_and_the_license_and_nothing_else(wheel: Wheel) -> None:
    roots = {name.partition("/")[0] for name in wheel.names}
    assert roots == {*PACKAGES, "bletoken-0.1.0.dist-info", "bletoken-0.1.0.data"}
    shared = {name.partition("data/share/bletoken/")[2] for name in wheel.names if ".data/" in name}
    assert shared == {
        f"{folder}/{path.name}"
        for folder in ("systemd", "examples")
        for path in (ROOT / "peripheral" / folder).iterdir()
        if path.is_file()
    }
    assert {f"{name}/py.typed" for name in PACKAGES} <= set(wheel.names)
    assert any(name.endswith("licenses/LICENSE") for name in wheel.names)
    modules = {f"{s.name}/{p.relative_to(s).as_posix()}" for s in SOURCES for p in s.rglob("*.py")}
    assert {name for name in wheel.names if name.endswith(".py") and ".data/" not in name} == modules


def test_the_sdist_builds_the_same_wheel(built: tuple[Wheel, Path], tmp_path: Path) -> None:
    wheel, sdist = built
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    [source] = (tmp_path / "source").iterdir()
    again, _ = build(tmp_path / "dist", source)
    assert again.path.read_bytes() == wheel.path.read_bytes()


def test_the_sdist_holds_what_tests_and_people_need(built: tuple[Wheel, Path]) -> None:
    with tarfile.open(built[1]) as archive:
        tops = {Path(name).parts[1] for name in archive.getnames()}
    assert {"tests", "scripts", "constraints.txt", "CHANGELOG.md", "CONTRIBUTING.md", "README.md", "LICENSE"} <= tops
    assert tops.isdisjoint({".venv", ".ci", ".git", "dist"})


def test_the_changelog_knows_the_version() -> None:
    version = importlib.metadata.version("bletoken")
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_map_in_contributing_names_every_module_where_it_is() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    folders: list[tuple[int, str]] = []
    drawn: set[str] = set()
    for indent, name in re.findall(r"^    ( *)([\w/]+/|\w+\.py)\s", text, flags=re.MULTILINE):
        folders = [(depth, folder) for depth, folder in folders if depth < len(indent)]
        if name.endswith("/"):
            folders.append((len(indent), name))
        else:
            drawn.add("".join(folder for _, folder in folders) + name)
    there = {path.relative_to(ROOT).as_posix() for source in SOURCES for path in source.rglob("*.py")}
    assert drawn == {path for path in there if not path.endswith("__init__.py")}


# What each extra brings ---------------------------------------------------------------------------------------------


def _imported() -> set[str]:
    """The top-level modules that our source imports, anywhere."""
    names: set[str] = set()
    for path in (path for source in SOURCES for path in source.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return names - set(PACKAGES)


def test_every_library_we_import_is_in_the_base_or_has_an_extra_that_the_error_names(wheel: Wheel) -> None:
    homes = importlib.metadata.packages_distributions()
    base = wheel.libraries()
    foreign = {name for name in _imported() if name in homes and not {_normal(d) for d in homes[name]} & set(base)}
    assert foreign <= set(EXTRAS)
    for module, extra in EXTRAS.items():
        assert {_normal(d) for d in homes[module]} & set(wheel.libraries(extra)), module


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


@pytest.mark.parametrize("extra", IMPORTS)
def test_an_extra_brings_all_that_its_modules_import_and_not_what_others_do(environment: Of, extra: str) -> None:
    run = environment(extra).run("python", "-I", "-c", IMPORT_ALL, *IMPORTS[extra])
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    if extra != "none":
        assert told["missing"] == {}
    absent = "import importlib.util as u, sys; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    assert environment(extra).run("python", "-I", "-c", absent, *NOT_NEEDED[extra]).stdout.strip() == "[]"


@pytest.mark.parametrize("extra", IMPORTS)
def test_every_program_helps_with_any_extra(environment: Of, extra: str) -> None:
    for name in ("bletoken-peripheral", "bletoken-central", "bletoken-sim"):
        run = environment(extra).run(name, "--help")
        assert (run.returncode, run.stderr) == (0, "")


# What works with one ------------------------------------------------------------------------------------------------


@pytest.fixture
def lamp(tmp_path: Path) -> Path:
    """A device's configuration."""
    path = tmp_path / "lamp.toml"
    path.write_text('device_class = "lamp"\nstate = "state"\n')
    return path


def test_a_device_gets_its_label_with_the_peripheral_extra(environment: Of, lamp: Path) -> None:
    of = environment("peripheral")
    for words in (["init"], ["label"], ["label", "--svg", "label.svg", "--png", "label.png"], ["status"]):
        run = of.run("bletoken-peripheral", *words, "--config", str(lamp), cwd=lamp.parent)
        assert (run.returncode, run.stderr) == (0, ""), words
    assert (lamp.parent / "label.png").read_bytes().startswith(b"\x89PNG")


def test_a_companion_asks_the_radio_with_the_central_extra(environment: Of) -> None:
    run = environment("central").run("bletoken-central", "scan", "--seconds", "0.1", "--json")
    # Without Bluetooth that is what it says; with it, it scans.
    assert run.returncode in (0, 9), run.stdout + run.stderr


@pytest.mark.parametrize("command", ["air", "cloud"])
def test_the_simulator_runs_with_the_sim_extra(environment: Of, command: str) -> None:
    words = environment("sim").command("bletoken-sim", command, "--json")
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=clean_environment(), text=True) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["event"] == "listening"
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


# What is told without one -------------------------------------------------------------------------------------------


def names_extra(run: subprocess.CompletedProcess[str], extra: str) -> bool:
    return run.returncode == 2 and f"pip install 'bletoken[{extra}]'" in run.stdout + run.stderr


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("central", ["bletoken-central", "scan"]),
        ("sim", ["bletoken-sim", "air"]),
        ("sim", ["bletoken-sim", "cloud"]),
        ("peripheral", ["bletoken-peripheral", "label", "--config", "CONFIG"]),
        ("peripheral", ["bletoken-peripheral", "run", "--config", "CONFIG"]),
    ],
)
def test_a_command_without_its_extra_names_it(environment: Of, lamp: Path, extra: str, words: list[str]) -> None:
    of = environment("none")
    assert of.run("bletoken-peripheral", "init", "--config", str(lamp)).returncode == 0
    run = of.run(*(str(lamp) if word == "CONFIG" else word for word in words))
    assert names_extra(run, extra), run
    assert "Traceback" not in run.stderr
    run = of.run(*(str(lamp) if word == "CONFIG" else word for word in words), "--json")
    assert json.loads(run.stdout.splitlines()[-1])["exit_code"] == 2


def test_the_virtual_radio_without_the_sim_extra_names_it(environment: Of, lamp: Path) -> None:
    run = environment("central").run("bletoken-central", "scan", "--radio", "air:unix:/nowhere")
    assert names_extra(run, "sim"), run
    lamp.write_text(lamp.read_text() + 'radio = "air:unix:/nowhere"\n')
    assert environment("peripheral").run("bletoken-peripheral", "init", "--config", str(lamp)).returncode == 0
    run = environment("peripheral").run("bletoken-peripheral", "run", "--config", str(lamp))
    assert names_extra(run, "sim"), run
