"""`bletoken-sim air`: runs the hub of a virtual radio until it is told to stop. Imports nothing heavy by itself."""

import argparse
import asyncio
import contextlib
import json
import logging
import signal
import tempfile
from types import FrameType
from typing import Final

_QUIET: Final = ("bumble", "asyncio")


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
