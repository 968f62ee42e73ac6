"""The hand-off protocol, version 1, without I/O.

Three rules hold in this package:

1. Every state and every transition of both sides stands in one table, `states.TRANSITIONS`.
2. Time and randomness are arguments; nothing here reads a clock, a file, a socket or the system's entropy.
3. Octets from the peer either parse or raise `RemoteProtocolError`, never anything else.
"""
