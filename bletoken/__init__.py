"""bletoken hands a MODE provisioning token to a device over Bluetooth LE.

This package is what both sides share; `bletoken_peripheral` is the device and `bletoken_central` the companion.
"""
