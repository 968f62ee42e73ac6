"""Every error bletoken raises, in one tree. It imports nothing.

The docstring's first line of each class says what happened and its rest what a person can do about it: the command
lines print both. `exit_code` is the status a command ends with, so raising is choosing the exit code.
"""

from typing import ClassVar


class BletokenError(Exception):
    """Something went wrong.

    Run the command again with --verbose to see more.
    """

    exit_code: ClassVar[int] = 1

    @property
    def advice(self) -> str:
        """What a person can do next: the second paragraph of the class's docstring, on one line."""
        return " ".join((type(self).__doc__ or "").partition("\n\n")[2].partition("\n\n")[0].split())


class UsageError(BletokenError):
    """The command line, a configuration file or an argument is not usable.

    Correct it as the message says and run the command again.
    """

    exit_code = 2


class SetupCodeError(UsageError):
    """This is not a bletoken setup code.

    Check it against the label: the QR text starts with BLETOKEN1, a PIN has nine digits.
    """


# Protocol -----------------------------------------------------------------------------------------------------------


class ProtocolError(BletokenError):
    """The hand-off protocol was broken.

    Try again; if it goes on, the two sides may run incompatible versions.
    """

    exit_code = 12


class LocalProtocolError(ProtocolError):
    """Our own side asked for something that the protocol does not allow now.

    This is a defect of the program that uses bletoken.
    """


class RemoteProtocolError(ProtocolError):
    """The other side sent something that the protocol does not allow.

    Try again; if it goes on, somebody may be interfering, or the two sides run incompatible versions.

    Attributes:
        att_error_hint: The ATT application error (0x80 to 0x9F) a GATT server may answer the write with. A hint only:
            platforms drop or change it.
    """

    def __init__(self, message: str, *, att_error_hint: int = 0x80) -> None:
        super().__init__(message)
        self.att_error_hint = att_error_hint


class UnsupportedVersionError(ProtocolError):
    """The device and this program share no protocol version.

    Update the older of the two. No lower version is ever used instead.
    """

    exit_code = 13


# Radio --------------------------------------------------------------------------------------------------------------


class RadioError(BletokenError):
    """The Bluetooth link failed.

    Move closer to the device and try again.
    """

    exit_code = 14


class RadioUnavailableError(RadioError):
    """Bluetooth cannot be used here.

    Switch Bluetooth on, check that this user may use it, or name another adapter: --radio, on a device the key `radio`.
    """

    exit_code = 9


class DeviceNotFoundError(RadioError):
    """No matching device was found.

    Check that the device has power, is near, and is waiting to be set up, then try again.
    """

    exit_code = 3


class DeviceAmbiguousError(RadioError):
    """Several bletoken devices are near, and a PIN does not tell which is meant.

    Name one with --device: the strongest is probably the nearest, and `identify` shows it. Or use the QR code.

    Attributes:
        addresses: The devices, the strongest signal first.
    """

    exit_code = 23

    def __init__(self, message: str, addresses: "list[str]") -> None:
        super().__init__(message)
        self.addresses = addresses


class LinkLostError(RadioError):
    """The connection to the device was lost and could not be restored.

    Move closer to the device and run the same command again: nothing is redeemed twice.
    """


# Storage ------------------------------------------------------------------------------------------------------------


class StorageError(BletokenError):
    """A file could not be read or written safely.

    Check that the folder exists, belongs to this user, and has space; the previous content is intact.
    """

    exit_code = 15


class ExistsError(StorageError):
    """There is something by this name already.

    Choose another name, or remove what is there.
    """


class InUseError(StorageError):
    """Another process uses this folder.

    Stop it first.
    """


class NoKeyringError(StorageError):
    """This system has no keyring that works.

    Keep the session in a file with --session-file, or give the key with --session-key-file.
    """


# Cloud --------------------------------------------------------------------------------------------------------------


class CloudError(BletokenError):
    """MODE could not do what was asked.

    Try again in a moment.
    """

    exit_code = 16


class CloudUnreachableError(CloudError):
    """MODE cannot be reached; the request provably never left.

    Check the network connection and the MODE URL, then try again.

    Attributes:
        certificate_time: True when TLS failed only because MODE's certificate is not valid at this clock's time.
    """

    exit_code = 7

    def __init__(self, message: str, *, certificate_time: bool = False) -> None:
        super().__init__(message)
        self.certificate_time = certificate_time


class CloudNoAnswerError(CloudError):
    """MODE gave no usable answer; the request may or may not have taken effect.

    Check in the MODE home whether it took effect before trying again.

    Attributes:
        status: The HTTP status, where there was one.
    """

    exit_code = 8

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class CloudRetryLaterError(CloudError):
    """MODE asks to come back later; the request had no effect.

    Wait a little and try again.

    Attributes:
        status: The HTTP status, 429 or 503.
        reason: MODE's reason code, or an empty string.
        retry_after_s: Seconds MODE asked to wait, or None when it did not say.
    """

    exit_code = 7

    def __init__(self, message: str, *, status: int, reason: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s


class CloudRefusedError(CloudError):
    """MODE refused the request.

    The reason is MODE's own; check the session, the home and the device class.

    Attributes:
        status: The HTTP status, a 4xx.
        reason: MODE's reason code (an open set of strings), or an empty string.
    """

    def __init__(self, message: str, *, status: int, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class TokenDeniedError(CloudRefusedError):
    """MODE gives no provisioning token for this home and device class.

    Check that the project has On-demand Device Provisioning enabled (Developer Console, Settings, Advanced), that the
    device class exists, and that this user is a member of the home. A pre-provisioned device is claimed instead:
    `bletoken-central claim`.
    """

    exit_code = 30


class NotSignedInError(CloudRefusedError):
    """MODE does not accept this session or API key.

    Sign in again.
    """

    exit_code = 17


# The outcome of a hand-off, as the companion sees it ----------------------------------------------------------------


class HandoffError(BletokenError):
    """The device did not take the token.

    Try again.
    """


class CodeRefusedError(HandoffError):
    """The device does not accept this setup code.

    Check that the code belongs to this device and was typed correctly.
    """

    exit_code = 4


class PinLockedError(HandoffError):
    """The device takes no PIN at the moment, because wrong ones were tried.

    Wait as long as the message says, or use the QR code: it is never locked.

    Attributes:
        wait_s: Seconds until the device takes a PIN again; None when it must be unlocked on the device.
    """

    exit_code = 5

    def __init__(self, message: str, *, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class TokenRefusedError(HandoffError):
    """MODE refused the provisioning token; the device is ready for another.

    Get a new token and try again; the reason is MODE's own.

    Attributes:
        reason: MODE's reason code, or an empty string.
    """

    exit_code = 6

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class DeviceOfflineError(HandoffError):
    """The device cannot reach MODE.

    Check the device's own network connection, then run the same command again. A token that was handed over was not
    used, and the device has forgotten it: `push` needs a new one.
    """

    exit_code = 7


class OutcomeUnknownError(HandoffError):
    """Nobody can tell whether MODE created the device.

    Look in the home whether a new device is there before you try again.
    """

    exit_code = 8


class DeviceBusyError(HandoffError):
    """The device is working for another companion, or on another token.

    Wait until that is done, then try again.
    """

    exit_code = 10


class AlreadyProvisionedError(HandoffError):
    """The device already belongs to a home.

    Remove it from that home and run `bletoken-peripheral reset` on the device if it is to be set up again. For a
    pre-provisioned device `bletoken-peripheral open` is enough.
    """

    exit_code = 11


class DeviceRemovedError(HandoffError):
    """MODE does not accept the device's key any more: the device was removed.

    Run `bletoken-peripheral reset` on the device, then try again. A pre-provisioned device needs an id and a key that
    MODE knows: `reset --erase-key`, then `init`.
    """

    exit_code = 21


class NotInHomeError(HandoffError):
    """The device says that it is provisioned, but MODE does not list it in the home.

    Look in the home again in a moment; if the device stays away, reset it and try again.
    """

    exit_code = 22


class DeviceStorageError(HandoffError):
    """The device cannot store what it needs to.

    Check the device's storage (full, read-only or defective), then try again.
    """

    exit_code = 15


class ClockWrongError(HandoffError):
    """The device's clock is wrong, so it cannot check MODE's certificate.

    Set the device's clock (or wait until it has got the time from the network), then try again.
    """

    exit_code = 18


class NotAllowedError(HandoffError):
    """The device does not allow this now.

    Open the device's window on the device itself (a button, or `bletoken-peripheral open`), then try again.
    """

    exit_code = 19


class WrongMechanismError(NotAllowedError):
    """The device does not take part in this mechanism of MODE's.

    A pre-provisioned device is claimed (`bletoken-central claim`); any other takes a token (`bletoken-central
    provision`).
    """


class DeviceCloudError(HandoffError):
    """The device reached MODE, and MODE failed.

    Run the same command again in a moment; `push` needs a new token.
    """

    exit_code = 16


class HandoffTimeoutError(HandoffError, TimeoutError):
    """The device did not answer in time.

    Run the same command again: nothing is redeemed twice.
    """

    exit_code = 20


class ClaimRefusedError(HandoffError):
    """MODE does not let the device turn its claim mode on.

    The reason is MODE's own. MATCHING_DEVICE_ONLY: the device's API key belongs to another device id; run
    `bletoken-peripheral reset --erase-key` and `init` on the device, with the id and the key that belong together.

    Attributes:
        reason: MODE's reason code, or an empty string.
    """

    exit_code = 29

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


# Claiming with MODE -------------------------------------------------------------------------------------------------


class ClaimExpiredError(BletokenError):
    """The device's claim mode ended before the device was claimed.

    Turn it on again (over Bluetooth: run the same command again; on the device: `bletoken-peripheral claim`), and claim
    the device before it ends.
    """

    exit_code = 26


class NotClaimableError(BletokenError):
    """MODE says that the device's claim mode is off: it was never turned on, has ended, or was switched off again.

    Turn it on (over Bluetooth: `bletoken-central claim` with the setup code; on the device: `bletoken-peripheral
    claim`), and claim the device before it ends.
    """

    exit_code = 27


class ClaimCodeRefusedError(BletokenError):
    """MODE does not know this claim code.

    Check it against the device's own, letter by letter, and that the device belongs to this app's project.

    Attributes:
        reason: MODE's reason code, or an empty string.
    """

    exit_code = 28

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


# On the device itself -----------------------------------------------------------------------------------------------


class NotRunningError(BletokenError):
    """There is no running device in this state folder.

    Start it with `bletoken-peripheral run` (or its service); its window opens then.
    """

    exit_code = 24


class IdentifyError(BletokenError):
    """The command that shows which device this is did not work.

    Correct `identify_command` in the configuration; `bletoken-peripheral identify` tries it.
    """

    exit_code = 25
