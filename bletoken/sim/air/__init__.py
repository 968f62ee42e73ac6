"""The virtual radio: Bluetooth LE between processes on one machine, with a link model that can misbehave."""
