"""A lamp that gets its MODE credentials over Bluetooth LE and shines all the while: the device's side as a library.

bletoken-peripheral init --config lamp.toml && python lamp.py lamp.toml
"""

import asyncio
import sys
from pathlib import Path

from bletoken.console import until_signalled
from bletoken.errors import BletokenError
from bletoken_peripheral import config
from bletoken_peripheral.device import Device


async def shine() -> None:
    """The lamp's own work, whether it has an owner or not."""
    while True:
        print("shining", flush=True)
        await asyncio.sleep(60)


async def talk_to_mode(device: Device) -> None:
    """What needs the credentials waits for them; without Bluetooth the lamp is still a lamp."""
    try:
        credentials = await device.credentials()
        print(f"device {credentials.device_id} at {credentials.mode_url}", flush=True)
    except BletokenError as error:
        print(f"no owner: {error}. {error.advice}", flush=True)


async def main() -> None:
    """Do both until a signal ends it: a request to MODE that is under way is finished first."""
    async with Device(config.load(Path(sys.argv[1]))) as device, asyncio.TaskGroup() as tasks:
        tasks.create_task(shine())
        tasks.create_task(talk_to_mode(device))


asyncio.run(until_signalled(main()))
