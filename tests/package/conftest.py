from pathlib import Path

import pytest
from package.environments import Wheel, build


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Wheel, Path]:
    """The wheel and the sdist."""
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def wheel(built: tuple[Wheel, Path]) -> Wheel:
    return built[0]
