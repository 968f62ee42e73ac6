"""Brings a device into a MODE home over Bluetooth LE: the companion's side as a library.

BLETOKEN_SESSION_KEY=... python onboard.py lamp-class label.png [RADIO [MODE_URL]]
"""

import asyncio
import os
import sys
from pathlib import Path

from bletoken.errors import BletokenError, DeviceNotFoundError, OutcomeUnknownError, TokenRefusedError
from bletoken_central import qr
from bletoken_central.handoff import Progress
from bletoken_central.onboarding import DEFAULT_MODE_URL, Companion


def report(progress: Progress) -> None:
    """Say what goes on."""
    print(f"  {progress.step.value}", flush=True)


async def main(device_class: str, label: str, radio: str = "system", mode_url: str = DEFAULT_MODE_URL) -> str | None:
    """Provision the device with this label; returns what went wrong."""
    key = os.environ["BLETOKEN_SESSION_KEY"]
    try:
        async with Companion(radio, session_key=key, mode_url=mode_url, report=report) as companion:
            onboarded = await companion.provision(qr.read(Path(label)), device_class=device_class)
    except DeviceNotFoundError:
        return "Is the device switched on, and near?"
    except TokenRefusedError as error:
        return f"MODE did not take it: {error.reason}"
    except OutcomeUnknownError:
        return "Look into the home: the device may be there, or not."
    except BletokenError as error:
        return f"{error}. {error.advice}"
    print(f"device {onboarded.device_id} is in home {onboarded.home_id}")
    return None


sys.exit(asyncio.run(main(*sys.argv[1:])))
