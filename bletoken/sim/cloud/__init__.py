"""A local MODE: the part of MODE's cloud that provisioning needs, for tests, the demo and a developer's desk.

It never talks to the real MODE. What MODE's documentation does not say is a setting (`settings`), never a claim.
"""
