"""MODE's reason codes that a program acts on (its own SDKs name them). Any other may come, and is shown as it is."""

from typing import Final

ALREADY_IN_HOME: Final = "DEVICE_ALREADY_IN_HOME"
NOT_CLAIMABLE: Final = "DEVICE_NOT_CLAIMABLE"
MEMBERS_ONLY: Final = "MEMBERS_ONLY"
PERMISSION_DENIED: Final = "PERMISSION_DENIED"
AUTHORIZATION_REQUIRED: Final = "AUTHORIZATION_REQUIRED"
