"""When to send a call again that may be repeated. It never decides for a call that may have taken effect."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from bletoken.errors import CloudError, CloudRetryLaterError, CloudUnreachableError
from bletoken.frozen import frozen

_T = TypeVar("_T")

_LARGEST_EXPONENT: Final = 32
"""Keeps a long-lived back-off a finite number; every limit is reached long before."""


@frozen
class RetryPolicy:
    """How long and how often to try: exponential back-off with jitter, and MODE's `Retry-After` where it is longer.

    Attributes:
        first_delay_s: Seconds of the first back-off, before jitter; it doubles each time.
        longest_delay_s: Seconds that the back-off does not exceed. `Retry-After` may.
        deadline_s: No attempt begins later than this many seconds after the first.
    """

    first_delay_s: float = 0.5
    longest_delay_s: float = 8.0
    deadline_s: float = 20.0

    def delay_s(self, error: CloudError, *, failures: int, elapsed_s: float, jitter: float) -> float | None:
        """How long to wait before the next attempt.

        Args:
            error: How the last attempt ended.
            failures: How many attempts have failed, this one included.
            elapsed_s: Seconds since the first attempt began.
            jitter: A random number from 0 to 1.

        Returns:
            Seconds; None when the call ends with this error.
        """
        never_arrived = isinstance(error, CloudUnreachableError) and not error.certificate_time
        if not never_arrived and not isinstance(error, CloudRetryLaterError):
            # The call may have taken effect, was refused, or meets a certificate that will not change by waiting.
            return None
        delay_s = self.pause_s(error, failures=failures, jitter=jitter)
        return delay_s if elapsed_s + delay_s <= self.deadline_s else None

    def pause_s(self, error: CloudError, *, failures: int, jitter: float) -> float:
        """How many seconds to pause after this error, were there another attempt; for those who decide that themselves.

        Args:
            error: How the last attempt ended.
            failures: How many attempts have failed, this one included.
            jitter: A random number from 0 to 1.
        """
        told_s = (error.retry_after_s or 0.0) if isinstance(error, CloudRetryLaterError) else 0.0
        backoff_s = min(self.first_delay_s * 2.0 ** min(failures - 1, _LARGEST_EXPONENT), self.longest_delay_s)
        # Those who were told the same time come back spread out, and none comes earlier.
        return max(told_s, backoff_s / 2) + jitter * backoff_s / 2


async def retrying(
    policy: RetryPolicy,
    call: Callable[[], Awaitable[_T]],
    *,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
    jitter: Callable[[], float] = random.random,
) -> _T:
    """Await `call()` until it succeeds or the policy says that it is over.

    Args:
        policy: How long and how often.
        call: Makes one attempt. Only for calls whose repetition does no harm after it had no effect.
        sleep: Waits so many seconds.
        clock: Seconds that never go back.
        jitter: A random number from 0 to 1; no secret hangs on it.

    Raises:
        CloudError: How the last attempt ended.
    """
    began_at = clock()
    failures = 0
    while True:
        try:
            return await call()
        except CloudError as e:
            failures += 1
            delay_s = policy.delay_s(e, failures=failures, elapsed_s=clock() - began_at, jitter=jitter())
            if delay_s is None:
                raise
        await sleep(delay_s)
