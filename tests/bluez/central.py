"""A central in the hands of a test: it sends any ATT request, and hears adverts octet for octet."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from bluez.bus import WAIT_S
from bumble import att, core, hci
from bumble.device import Connection, Peer

from bletoken.sim.air.hub import Hub
from bletoken.sim.air.radio import Radio
from bletoken.sim.air.spec import RadioSpec


@dataclass
class Heard:
    """The adverts of one address: octets, and when each came."""

    advert: list[bytes] = field(default_factory=list)
    scan_response: list[bytes] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [octets[2:].decode() for octets in self.scan_response]


class Central:
    """One host on the air of a hub."""

    def __init__(self, radio: Radio) -> None:
        self.radio = radio
        self.connection: Connection | None = None
        self.notified: list[bytes] = []
        self.gone = asyncio.Event()
        self._characteristics: dict[core.UUID, Any] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, hub: Hub, *, mtu: int = 517) -> AsyncIterator["Central"]:
        """Join a hub; `mtu` is the largest ATT MTU to agree to."""
        radio = await Radio.open(RadioSpec.parse(hub.radio).endpoint, name="central")
        radio.device.gatt_server.max_mtu = mtu
        try:
            yield cls(radio)
        finally:
            await radio.close()

    async def connect(self, adapter: hci.Address) -> None:
        """Connect, and look for all there is."""
        async with asyncio.timeout(WAIT_S):
            self.connection = connection = await self.radio.device.connect(adapter)
            self.gone.clear()
            connection.once(Connection.EVENT_DISCONNECTION, lambda _: self.gone.set())
            peer = Peer(connection)
            for service in await peer.discover_services():
                for characteristic in await service.discover_characteristics():
                    self._characteristics[characteristic.uuid] = characteristic

    async def disconnect(self) -> None:
        assert self.connection is not None
        await self.radio.operations.run(self.radio.disconnect(self.connection))

    def handle(self, uuid: str) -> int:
        return self._characteristics[core.UUID(uuid)].handle

    async def read(self, uuid: str) -> bytes:
        """Read a whole value, in as many parts as it takes."""
        assert self.connection is not None
        async with asyncio.timeout(WAIT_S):
            return bytes(await self.connection.gatt_client.read_value(self.handle(uuid)))

    async def write(self, uuid: str, value: bytes) -> int:
        """Write; returns the ATT error, 0 for none."""
        return await self.ask(att.ATT_Write_Request(attribute_handle=self.handle(uuid), attribute_value=value))

    async def command(self, uuid: str, value: bytes) -> None:
        assert self.connection is not None
        command = att.ATT_Write_Command(attribute_handle=self.handle(uuid), attribute_value=value)
        self.connection.gatt_client.send_gatt_pdu(bytes(command))

    async def long_write(self, uuid: str, *parts: tuple[int, bytes]) -> int:
        """Prepare parts, each with its offset, and execute them; returns the ATT error, 0 for none."""
        for offset, value in parts:
            prepared = att.ATT_Prepare_Write_Request(
                attribute_handle=self.handle(uuid), value_offset=offset, part_attribute_value=value
            )
            assert await self.ask(prepared) == 0
        return await self.ask(att.ATT_Execute_Write_Request(flags=1))

    async def read_part(self, uuid: str, offset: int) -> bytes | int:
        """One part of a long read, or the ATT error."""
        answer = await self._answer(att.ATT_Read_Blob_Request(attribute_handle=self.handle(uuid), value_offset=offset))
        return answer.error_code if isinstance(answer, att.ATT_Error_Response) else bytes(answer.part_attribute_value)

    async def ask(self, request: Any) -> int:
        """Send any request; returns the ATT error, 0 for none."""
        answer = await self._answer(request)
        return answer.error_code if isinstance(answer, att.ATT_Error_Response) else 0

    async def _answer(self, request: Any) -> Any:
        assert self.connection is not None
        async with asyncio.timeout(WAIT_S):
            return await self.connection.gatt_client.send_request(request)

    async def subscribe(self, uuid: str) -> None:
        characteristic = self._characteristics[core.UUID(uuid)]
        async with asyncio.timeout(WAIT_S):
            await characteristic.discover_descriptors()
            await characteristic.subscribe(lambda value: self.notified.append(bytes(value)))

    async def listen(self, adapter: hci.Address, seconds: float) -> Heard:
        """Scan for so long, and hear what an adapter says."""
        heard = Heard()

        def on_report(report: hci.HCI_LE_Advertising_Report_Event.Report) -> None:
            if report.address != adapter:
                return
            kinds = hci.HCI_LE_Advertising_Report_Event.EventType
            if report.event_type == kinds.SCAN_RSP:
                heard.scan_response.append(bytes(report.data))
            else:
                heard.advert.append(bytes(report.data))
                heard.times.append(time.monotonic())

        self.radio.device.host.on("advertising_report", on_report)
        await self.radio.device.start_scanning(active=True, filter_duplicates=False)
        await asyncio.sleep(seconds)
        await self.radio.device.stop_scanning()
        self.radio.device.host.remove_listener("advertising_report", on_report)
        return heard
