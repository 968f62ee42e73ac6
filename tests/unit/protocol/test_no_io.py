import json
import subprocess
import sys

PROGRAM = """
import importlib, json, pkgutil, sys
import bletoken.protocol
names = [m.name for m in pkgutil.walk_packages(bletoken.protocol.__path__, "bletoken.protocol.")]
for name in names:
    importlib.import_module(name)
print(json.dumps([names, sorted(sys.modules)]))
"""


def test_the_protocol_imports_nothing_that_does_io() -> None:
    # cryptography and cbor2 pull in none of these by themselves, so there is no exception to make for them.
    run = subprocess.run([sys.executable, "-I", "-c", PROGRAM], capture_output=True, text=True, check=True)
    names, loaded = json.loads(run.stdout)
    assert "bletoken.protocol.device" in names
    forbidden = {"asyncio", "socket", "ssl", "select", "selectors", "subprocess", "secrets"}
    forbidden |= {"httpx", "httpcore", "anyio", "bleak", "bless", "bumble", "bletoken.sim", "bletoken.mode"}
    assert forbidden & set(loaded) == set()
