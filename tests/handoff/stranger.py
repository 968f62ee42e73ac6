"""A companion in the hands of a test: it writes whatever it likes, and hears everything."""

from bleak import BleakClient, BleakScanner
from handoff.bench import Bench, until

from bletoken.protocol import frames
from bletoken.protocol.wire import (
    HELLO_UUID,
    SERVICE_UUID,
    STATUS_UUID,
    TOKEN_UUID,
    ClearCode,
    ClearStatus,
    MessageType,
)
from bletoken.sim.air.bleak_backend import backends


class Stranger:
    """A companion that writes whatever it likes."""

    def __init__(self, client: BleakClient) -> None:
        self.client = client
        self.heard: list[bytes] = []
        self._reassembler = frames.Reassembler()

    @classmethod
    async def connect(cls, bench: Bench) -> "Stranger":
        scanner, client = backends(f"{bench.hub.radio}?mtu=247")
        device = await BleakScanner.find_device_by_filter(
            lambda *_: True, service_uuids=[SERVICE_UUID], backend=scanner
        )
        assert device is not None
        self = cls(BleakClient(device, backend=client))
        await self.client.connect()
        await self.client.start_notify(STATUS_UUID, self._notified)
        return self

    def _notified(self, _: object, frame: bytearray) -> None:
        message = self._reassembler.receive(bytes(frame), 0)
        if message is not None:
            self.heard.append(message)

    async def hello(self) -> bytes:
        return bytes(await self.client.read_gatt_char(HELLO_UUID))

    async def write(self, *frame_list: bytes) -> None:
        for frame in frame_list:
            await self.client.write_gatt_char(TOKEN_UUID, frame, response=True)

    async def refused_with(self) -> ClearCode:
        await until(lambda: self.heard)
        assert self.heard[0][0] == MessageType.CLEAR_STATUS
        return ClearStatus.decode(self.heard.pop(0)).code

    async def flood(self, frame_list: list[bytes]) -> None:
        """Write without waiting for any answer."""
        for frame in frame_list:
            await self.client.write_gatt_char(TOKEN_UUID, frame, response=False)
