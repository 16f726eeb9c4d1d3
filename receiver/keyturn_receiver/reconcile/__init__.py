"""Makes bindings true: observes, fills, restarts and reports. It also restarts the consumers of watched Secrets. No
other package decides to change bound Secrets, watched Secrets or workloads. ``cluster`` makes the calls."""
