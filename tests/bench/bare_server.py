"""The least that a device can be: bless as it is, with one service and three characteristics like ours, and no more.

A companion reads the first, writes to the second, and hears from the third when it has written a frame that is a
message's last. It runs until SIGTERM.
"""

import asyncio
import signal
from typing import Any

from bless import BlessServer, GATTAttributePermissions, GATTCharacteristicProperties

SERVICE = "5f0a0000-7f4c-4d51-9c35-2ad0c9d5a1b7"
READ = "5f0a0001-7f4c-4d51-9c35-2ad0c9d5a1b7"
WRITTEN = "5f0a0002-7f4c-4d51-9c35-2ad0c9d5a1b7"
NOTIFIED = "5f0a0003-7f4c-4d51-9c35-2ad0c9d5a1b7"

_LAST = 0x40


async def serve() -> None:
    """Advertise, answer, and stop when asked to."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    server = BlessServer("bare")
    server.read_request_func = lambda characteristic, **_: characteristic.value

    def write(_: Any, value: bytearray, **__: Any) -> None:
        if value[0] & _LAST:
            server.get_characteristic(NOTIFIED).value = bytearray(60)
            server.update_value(SERVICE, NOTIFIED)

    server.write_request_func = write
    properties, permissions = GATTCharacteristicProperties, GATTAttributePermissions
    await server.add_new_service(SERVICE)
    for uuid, can, may, value in (
        (READ, properties.read, permissions.readable, bytearray(180)),
        (WRITTEN, properties.write, permissions.writeable, None),
        (NOTIFIED, properties.read | properties.notify, permissions.readable, None),
    ):
        await server.add_new_characteristic(SERVICE, uuid, can, value, may)
    await server.start()
    await stopped.wait()
    await server.stop()


if __name__ == "__main__":
    asyncio.run(serve())
