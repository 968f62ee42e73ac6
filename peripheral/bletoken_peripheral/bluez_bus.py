"""A connection to the system bus (D-Bus): calls with a time limit, and errors of one type. Only Linux imports it.

It is dbus-next's with workarounds on top, each marked `HACK` like those in `bluez`. It knows nothing of Bluetooth.
"""

import asyncio
import contextlib
import logging
from typing import Any, Final

from dbus_next.aio import MessageBus
from dbus_next.constants import MessageType
from dbus_next.message import Message

_log = logging.getLogger(__name__)

DBUS: Final = "org.freedesktop.DBus"

CALL_TIMEOUT_S: Final = 10
"""Seconds for one call; bluetoothd answers in milliseconds unless it hangs."""

_LONGEST_AUTH_LINE: Final = 4096

_LONGEST_TEXT: Final = 200
"""Characters of somebody else's error text that are passed on."""


class RefusedError(Exception):
    """A call that failed: the error's name and its text."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text[:_LONGEST_TEXT]}" if name else text[:_LONGEST_TEXT])
        self.name = name


class Bus(MessageBus):  # type: ignore[misc] # dbus-next has no types
    """dbus-next's connection, one that can be closed and logs no secrets."""

    def _setup_socket(self) -> None:
        try:
            super()._setup_socket()
        except BaseException:
            # HACK: dbus-next 0.2.3 leaves the socket open when there is nobody to connect to.
            self._close_socket()
            raise

    def _on_message(self, message: Message) -> None:
        # HACK: dbus-next 0.2.3 logs a traceback on the root logger for each call that is answered with an error.
        try:
            self._process_message(message)
        except Exception as e:  # noqa: BLE001 whatever anybody on the bus sends must not end the connection
            _log.debug("a D-Bus message was not understood: %s", type(e).__name__)

    async def _auth_readline(self) -> str:
        # HACK: dbus-next 0.2.3 reads on for ever, and lets nothing else run, when the bus hangs up at this point.
        line = b""
        while not line.endswith(b"\r\n"):
            octets = await self._loop.sock_recv(self._sock, 1)
            if not octets or len(line) > _LONGEST_AUTH_LINE:
                raise EOFError("the bus hung up")
            line += octets
        return line[:-2].decode()

    def close(self) -> None:
        """Close the connection.

        HACK: dbus-next 0.2.3 never closes its socket, and bless 0.3.0 never ends its connection: BlueZ keeps what was
        registered on it. Goes when bless's `stop` does it.
        """
        self._user_disconnect = True
        self._finalize(None)
        self._close_socket()

    def _close_socket(self) -> None:
        for thing in (getattr(self, "_stream", None), getattr(self, "_sock", None)):
            if thing is not None:
                with contextlib.suppress(OSError):
                    thing.close()

    async def ask(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        *body: object,
        takes: str = "",
        returns: str = "",
    ) -> list[Any]:
        """Call a method.

        Args:
            destination: Whose.
            path: Of which object.
            interface: Of which of its interfaces.
            member: The method.
            body: Its arguments.
            takes: Their signature.
            returns: The signature that the answer must have.

        Raises:
            RefusedError: It failed, for whatever reason, or the answer has another signature.
        """
        message = Message(
            destination=destination, path=path, interface=interface, member=member, signature=takes, body=list(body)
        )
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                reply = await self.call(message)
        except TimeoutError as e:
            raise RefusedError("", f"{member} was not answered within {CALL_TIMEOUT_S} s") from e
        except Exception as e:
            # Whatever ended the connection.
            raise RefusedError("", f"the system bus is gone: {type(e).__name__}") from e
        if reply is None:
            raise RefusedError("", "the system bus is gone")
        if reply.message_type is MessageType.ERROR:
            raise RefusedError(reply.error_name, str(reply.body[0]) if reply.body else "")
        if reply.signature != returns:
            raise RefusedError("", f"{member} was answered with {reply.signature[:20]!r}")
        return list(reply.body)

    async def ask_bus(self, member: str, *body: object, takes: str, returns: str = "") -> list[Any]:
        """Call a method of the bus itself; see `ask`."""
        return await self.ask(DBUS, "/org/freedesktop/DBus", DBUS, member, *body, takes=takes, returns=returns)
