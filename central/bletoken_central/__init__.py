"""The companion's side: finds the device, hands it a provisioning token, and learns the authenticated outcome."""
