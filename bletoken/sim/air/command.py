"""`bletoken-sim air`: runs the hub of a virtual radio until it is told to stop. Imports nothing heavy by itself."""

import argparse
import asyncio
import contextlib
import json
import logging
import signal
import tempfile
from pathlib import Path
from types import FrameType
from typing import Final

_QUIET: Final = ("bumble", "asyncio")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options to its parser."""
    parser.add_argument(
        "--listen",
        metavar="ENDPOINT",
        help="where programs join: unix:/path/to/air.sock or tcp:127.0.0.1:4242; by default a fresh socket",
    )
    parser.add_argument(
        "--adapters",
        metavar="N",
        type=int,
        default=0,
        help="make N adapters of this machine that are on the air, for BlueZ (root only)",
    )
    parser.add_argument("--btsnoop", metavar="FILE", type=Path, help="record all HCI packets; Wireshark opens the file")
    parser.add_argument(
        "--interval-ms", metavar="MS", type=float, default=15.0, help="connection interval; 0 for none (default 15)"
    )
    parser.add_argument("--delay-ms", metavar="MS", type=float, default=0.0, help="more delay on connections")
    parser.add_argument(
        "--control-delay-ms", metavar="MS", type=float, default=0.0, help="more delay for link control (BlueZ: 100)"
    )
    parser.add_argument("--jitter-ms", metavar="MS", type=float, default=0.0, help="random delay up to this much")
    parser.add_argument(
        "--advertising-loss", metavar="SHARE", type=float, default=0.0, help="advertisements missed, 0 to 1"
    )
    parser.add_argument(
        "--drop-after", metavar="N", type=int, help="every connection breaks after N packets (default never)"
    )
    parser.add_argument(
        "--drop-share", metavar="SHARE", type=float, default=0.0, help="connections that break by themselves, 0 to 1"
    )
    parser.add_argument(
        "--drop-within", metavar="N", type=int, default=20, help="those break after fewer packets than N (default 20)"
    )
    parser.add_argument(
        "--supervision-timeout-s", metavar="S", type=float, default=0.42, help="a silent peer is lost after (0.42)"
    )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="everything random comes from it")
    parser.add_argument("--json", action="store_true", help="print one JSON object when ready")


def run(args: argparse.Namespace) -> int:
    """Run the hub until SIGTERM or SIGINT.

    Returns:
        The exit status.

    Raises:
        UsageError: An option is not usable.
    """
    # Bumble reports every oddity of every host; here that is what the packet log is for.
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    asyncio.run(_serve(args))
    return 0


async def _serve(args: argparse.Namespace) -> None:
    from bletoken.sim.air.hub import Hub
    from bletoken.sim.air.link import LinkModel

    model = LinkModel(
        connection_interval_s=args.interval_ms / 1000,
        delay_s=args.delay_ms / 1000,
        control_delay_s=args.control_delay_ms / 1000,
        jitter_s=args.jitter_ms / 1000,
        advertising_loss=args.advertising_loss,
        drop_after=args.drop_after,
        drop_share=args.drop_share,
        drop_within=args.drop_within,
        supervision_timeout_s=args.supervision_timeout_s,
        seed=args.seed,
    )
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stop.set)

    with contextlib.ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM):
            # Not the loop's own handlers: Windows has none.
            stack.callback(signal.signal, number, signal.signal(number, on_signal))
        listen = args.listen
        if listen is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bletoken-air-"))
            listen = f"unix:{folder}/air.sock"
        async with Hub.open(listen, model=model, btsnoop=args.btsnoop) as hub:
            radios = [hub.radio, *[f"system:{await hub.plug_in()}" for _ in range(args.adapters)]]
            if args.json:
                ready = {
                    "event": "listening",
                    "radio": hub.radio,
                    "control": str(hub.endpoint),
                    "adapters": list(hub.adapters),
                }
                print(json.dumps(ready), flush=True)
            else:
                print(f"The virtual radio is on: use --radio {' or '.join(radios)}", flush=True)
            await stop.wait()
