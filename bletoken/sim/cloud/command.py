"""`bletoken-sim cloud`: the local MODE as a program; heavy libraries are imported only when it runs."""

import argparse
import asyncio
import json
import signal
import time
from collections.abc import Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

from bletoken.errors import UsageError
from bletoken.sim.cloud import developer_console

if TYPE_CHECKING:
    from bletoken.sim.cloud.settings import Settings


def run(args: argparse.Namespace) -> int:
    """Run the local MODE until SIGINT or SIGTERM, or the command of the Developer Console that was chosen.

    Returns:
        The exit code.

    Raises:
        UsageError: An option or setting is not usable.
        StorageError: The database cannot be used.
    """
    if args.console is not None:
        return developer_console.run(args)
    return asyncio.run(_serve(args, _settings(args)))


async def _serve(args: argparse.Namespace, settings: "Settings") -> int:
    from bletoken.sim.cloud.admin import plant
    from bletoken.sim.cloud.records import Seed
    from bletoken.sim.cloud.server import serve

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stop.set)

    # Not the loop's own handlers: Windows has none.
    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        async with serve(settings, db=args.db, host=args.host, port=args.port) as server:
            seed = plant(server.store, Seed(), settings, now_ns=time.time_ns()) if args.seed else None
            _announce(server.url, seed, as_json=args.json)
            await stop.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 0


def _announce(url: str, seed: Mapping[str, Any] | None, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"event": "listening", "url": url, "seed": seed}), flush=True)
        return
    lines = [url, *(f"  {name}: {value}" for name, value in (seed or {}).items())]
    print("\n".join(lines), flush=True)


def _settings(args: argparse.Namespace) -> "Settings":
    from bletoken.sim.cloud.settings import Settings

    values: dict[str, Any] = {}
    if args.settings is not None:
        try:
            values = json.loads(args.settings.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as e:
            raise UsageError(f"cannot read the settings in {args.settings}: {e}") from e
        if not isinstance(values, dict):
            raise UsageError(f"{args.settings} is not a JSON object")
    for assignment in args.assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set takes NAME=VALUE, not {assignment!r}")
        values[name] = value
    return Settings.load(values)
