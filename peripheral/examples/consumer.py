"""A device's own program: tells MODE what happens and does what it is told, whatever becomes of the connection.

It needs the credentials file and no radio, so it runs beside `bletoken-peripheral`, even as another user: systemd's
`LoadCredential=bletoken:/var/lib/bletoken/credentials.json` hands the file over. By hand:

python consumer.py --wait /var/lib/bletoken/credentials.json
"""

import asyncio
import os
import sys
from pathlib import Path

from bletoken.command_line import parser
from bletoken.console import printable, run_command, say, until_signalled
from bletoken.errors import CloudError
from bletoken.mode import credentials
from bletoken.mode.device_connection import DeviceConnection


async def consume(path: Path, *, wait: bool) -> None:
    """Say "started", then answer each command with an event; ends only when MODE does not know the device any more."""
    async with DeviceConnection(await load(path, wait=wait), on_change=show) as mode:
        await tell(mode, "started")
        async for command in mode.commands():
            say(f"command {printable(command.action)} with {len(command.parameters)} parameters")
            await tell(mode, "commanded", {"action": command.action})


async def load(path: Path, *, wait: bool) -> credentials.Credentials:
    """The credentials; there are none before the device is onboarded, and what starts with the device may wait."""
    is_waiting = False
    while True:
        try:
            return credentials.load(path)
        except credentials.NotOnboardedError as error:
            if not wait:
                raise
            if not is_waiting:
                say(f"waiting: {error}")
        is_waiting = True
        await asyncio.sleep(2)


async def tell(mode: DeviceConnection, what: str, more: dict[str, object] | None = None) -> None:
    """Trigger an event. One that gets lost is no reason to end: the next may get through."""
    try:
        await mode.trigger_event(what, more)
    except CloudError as error:
        say(f"not told that it {what}: {error}")


def show(error: CloudError | None) -> None:
    """Say what became of the connection."""
    say("connected" if error is None else f"not connected: {error}")


def main() -> int:
    """Run until a signal comes; errors and exit codes are as `bletoken-peripheral` has them."""
    handed_over = os.environ.get("CREDENTIALS_DIRECTORY")
    default = f"{handed_over}/bletoken" if handed_over else "/var/lib/bletoken/credentials.json"
    arguments = parser("consumer.py", "A device's own program, for after its onboarding.")
    arguments.add_argument("file", type=Path, nargs="?", default=default, help="the credentials (default: %(default)s)")
    arguments.add_argument("--wait", action="store_true", help="wait for the file where it is not there yet")
    given = arguments.parse_args()

    def run() -> int:
        asyncio.run(until_signalled(consume(given.file, wait=given.wait)))
        return 0

    return run_command(run, as_json=False)


sys.exit(main())
