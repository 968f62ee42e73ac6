import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from package.environments import ROOT

SOURCES = {
    "bletoken": ROOT / "bletoken",
    "bletoken_peripheral": ROOT / "peripheral" / "bletoken_peripheral",
    "bletoken_central": ROOT / "central" / "bletoken_central",
}


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_tested_is_what_is_meant(name: str) -> None:
    """The installed wheel under `scripts/test --wheel`, else the source; in the tests' programs too."""
    here = importlib.import_module(name).__file__
    program = f"import {name}; print({name}.__file__)"
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    for file in (here, there):
        assert file is not None
        if os.environ.get("BLETOKEN_TEST_WHEEL") == "1":
            assert Path(file).is_relative_to(sys.prefix)
            assert "site-packages" in Path(file).parts
        else:
            assert Path(file).parent == SOURCES[name]
