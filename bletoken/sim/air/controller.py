"""One virtual Bluetooth LE controller: Bumble's, with what it gets wrong put right for Bumble hosts and for BlueZ."""

import asyncio
from typing import Final

from bumble import hci, ll
from bumble.controller import Controller, LegacyAdvertiser
from bumble.snoop import Snooper
from bumble.transport.common import TransportSink, TransportSource

from bletoken.sim.air.link import AirLink

_RSSI_DBM: Final = -50
_MIN_ADVERTISING_INTERVAL_S: Final = 0.020
_ADVERTISING_DELAY_S: Final = 0.010
"""Every advertising event comes up to this much later (Core 5.4 Vol 6 Part B 4.4.2.2.1)."""


class AirAdvertiser(LegacyAdvertiser):
    """Advertises at the interval the host asked for.

    HACK: Bumble 0.0.236 takes the interval, which counts 0.625 ms, for milliseconds, so that everything advertises at
    1.6 times its interval; and it has no random delay, so that two advertisers can collide for ever.
    """

    def _on_timer_fired(self) -> None:
        self.send_advertising_data()
        interval_s = max(self.advertising_interval_min * 0.000625, _MIN_ADVERTISING_INTERVAL_S)
        assert isinstance(self.controller, AirController)
        delay_s = self.controller.air.random.uniform(0.0, _ADVERTISING_DELAY_S)
        self.timer_handle = asyncio.get_running_loop().call_later(interval_s + delay_s, self._on_timer_fired)


class AirController(Controller):
    """A controller on an `AirLink`.

    HACK: the methods below stand in for Bumble 0.0.236's own, each for the reason it gives. LL privacy and extended
    advertising are switched off, because BlueZ as the host stumbles over Bumble's (google/bumble issue 841) and
    legacy advertising is all the product uses; ACL packets hold 251 octets instead of 27.

    Args:
        name: Unique on the link.
        air: The link.
        public_address: The controller's public address.
        source: Where packets from the host come from.
        sink: Where packets for the host go.
        snooper: Records everything between host and controller, or None.
    """

    le_acl_data_packet_length = 251
    supported_max_tx_octets = 251
    supported_max_rx_octets = 251
    le_features = Controller.le_features & ~(
        hci.LeFeatureMask.LL_PRIVACY
        | hci.LeFeatureMask.LE_EXTENDED_ADVERTISING
        | hci.LeFeatureMask.LE_PERIODIC_ADVERTISING
    )

    def __init__(
        self,
        name: str,
        air: AirLink,
        public_address: str,
        source: TransportSource,
        sink: TransportSink,
        snooper: Snooper | None = None,
    ) -> None:
        super().__init__(name, host_source=source, host_sink=sink, link=air, public_address=public_address)
        self.air = air
        self.le_legacy_advertiser = AirAdvertiser(self)
        self._snooper = snooper

    def power_off(self) -> None:
        """Fall silent, as when the host process died or the adapter was pulled out."""
        self.le_legacy_advertiser.stop()
        self.le_scan_enable = False
        self.pending_le_connection = None
        self.set_packet_sink(None)
        self.air.silence(self)

    # Host and controller ------------------------------------------------------------------------------------------

    def on_packet(self, packet: bytes) -> None:
        """Take a packet from the host."""
        if self._snooper:
            self._snooper.snoop(packet, Snooper.Direction.HOST_TO_CONTROLLER)
        super().on_packet(packet)

    def send_hci_packet(self, packet: hci.HCI_Packet) -> None:
        """Send a packet to the host."""
        if self._snooper and self.host:
            self._snooper.snoop(bytes(packet), Snooper.Direction.CONTROLLER_TO_HOST)
        super().send_hci_packet(packet)

    def on_hci_reset_command(self, command: hci.HCI_Reset_Command) -> hci.HCI_StatusReturnParameters:
        """Stop advertising, scanning and connecting; Bumble's forgets nothing."""
        self.le_legacy_advertiser.stop()
        self.le_scan_enable = False
        self.pending_le_connection = None
        return super().on_hci_reset_command(command)

    # Advertising and scanning -------------------------------------------------------------------------------------

    def on_advertisement(self, advertiser: Controller, pdu: ll.AdvInd) -> None:
        """Hear another controller: report it, and connect if the host waits for it.

        Bumble's own reports the advertising data once more as the scan response, so that no name ever arrives, and
        does so for passive scans too.
        """
        report = hci.HCI_LE_Advertising_Report_Event.EventType
        if self.le_scan_enable:
            self._report(report.ADV_IND, pdu.advertiser_address, pdu.data)
            is_active = self.le_scan_type == hci.HCI_LE_Set_Scan_Parameters_Command.ACTIVE_SCANNING
            scan_response = bytes(advertiser.le_legacy_advertiser.scan_response_data)
            if is_active and scan_response and not self.air.is_lost():
                self._report(report.SCAN_RSP, pdu.advertiser_address, scan_response)
        pending = self.pending_le_connection
        if pending is not None and pending.peer_address == pdu.advertiser_address:
            self.create_le_connection(pdu.advertiser_address)

    def _report(self, event_type: int, address: hci.Address, data: bytes) -> None:
        report = hci.HCI_LE_Advertising_Report_Event.Report(
            event_type=hci.HCI_LE_Advertising_Report_Event.EventType(event_type),
            address_type=address.address_type,
            address=address,
            data=data,
            rssi=_RSSI_DBM,
        )
        self.send_hci_packet(hci.HCI_LE_Advertising_Report_Event([report]))

    # Connections --------------------------------------------------------------------------------------------------

    def create_le_connection(self, peer_address: hci.Address) -> None:
        """Connect, unless the advertiser cannot hear us any more: then wait for its next advertisement.

        Bumble's own reports a connection that the other end knows nothing of, for ever.
        """
        assert self.pending_le_connection is not None
        own_address = (
            self.public_address
            if self.pending_le_connection.own_address_type == hci.OwnAddressType.PUBLIC
            else self.random_address
        )
        if peer_address not in self.le_connections and self.air.can_connect(own_address, peer_address):
            super().create_le_connection(peer_address)

    def on_hci_le_create_connection_cancel_command(
        self, _command: hci.HCI_LE_Create_Connection_Cancel_Command
    ) -> hci.HCI_StatusReturnParameters:
        """Give up connecting (Core 5.4 Vol 4 Part E 7.8.13). Bumble's own does nothing: its host waits for ever."""
        pending = self.pending_le_connection
        if pending is None:
            return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.COMMAND_DISALLOWED_ERROR)
        self.pending_le_connection = None
        cancelled = hci.HCI_LE_Connection_Complete_Event(
            status=hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR,
            connection_handle=0,
            role=hci.Role.CENTRAL,
            peer_address_type=pending.peer_address.address_type,
            peer_address=pending.peer_address,
            connection_interval=0,
            peripheral_latency=0,
            supervision_timeout=0,
            central_clock_accuracy=0,
        )
        asyncio.get_running_loop().call_soon(self.send_hci_packet, cancelled)
        return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.SUCCESS)

    def on_hci_disconnect_command(self, command: hci.HCI_Disconnect_Command) -> None:
        """Say goodbye and wait for the acknowledgement; Bumble's own is disconnected before the peer has heard it."""
        connection = self.find_le_connection_by_handle(command.connection_handle)
        if connection is None:
            self._send_hci_command_status(hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR, command.op_code)
            return
        self._send_hci_command_status(hci.HCI_COMMAND_STATUS_PENDING, command.op_code)
        connection.send_ll_control_pdu(ll.TerminateInd(command.reason))

    def allocate_connection_handle(self) -> int:
        """Return a handle that no controller on the air uses, so that one packet log of all hosts stays readable."""
        return self.air.allocate_handle()
