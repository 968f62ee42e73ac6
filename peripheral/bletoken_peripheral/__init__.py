"""The device's side: takes a provisioning token over Bluetooth LE, redeems it with MODE and keeps what it gets."""
