"""Adapters that Linux takes for hardware and whose controllers are on the virtual radio, so that BlueZ can be on it."""

import asyncio
import os
from typing import Final

from bumble.transport.common import ParserSource

from bletoken.errors import RadioUnavailableError

DEVICE: Final = "/dev/vhci"
"""Where Linux (its module hci_vhci) takes virtual controllers."""

_VENDOR_PACKET: Final = 0xFF
_PRIMARY_CONTROLLER: Final = 0x00
_LONGEST_PACKET: Final = 4096


class VirtualAdapter(ParserSource):
    """One adapter: the source of packets from the kernel, and the sink of those for it.

    Attributes:
        name: What the kernel calls it, such as `hci0`; empty until `plug_in`.

    Raises:
        RadioUnavailableError: This machine takes no virtual controllers, or none from this user.
    """

    def __init__(self) -> None:
        super().__init__()
        self.name = ""
        self._loop = asyncio.get_running_loop()
        self._named: asyncio.Future[str] = self._loop.create_future()
        try:
            self._file = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise RadioUnavailableError(
                f"no adapter can be made with {DEVICE}: {error.strerror}; it needs root and `modprobe hci_vhci`"
            ) from error
        self._is_open = True
        self._loop.add_reader(self._file, self._on_readable)

    async def plug_in(self) -> None:
        """Show the adapter to the kernel, which talks to its controller at once."""
        self.on_packet(bytes([_VENDOR_PACKET, _PRIMARY_CONTROLLER]))
        self.name = await self._named

    def pull_out(self) -> None:
        """Make the adapter go away; does nothing twice."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._named.cancel()

    def on_packet(self, packet: bytes) -> None:
        """Hand a packet to the kernel, which takes one a write."""
        if self._is_open:
            os.write(self._file, packet)

    def _on_readable(self) -> None:
        packet = os.read(self._file, _LONGEST_PACKET)
        if packet[0] == _VENDOR_PACKET:
            self._named.set_result(f"hci{int.from_bytes(packet[2:4], 'little')}")
        else:
            self.parser.feed_data(packet)
