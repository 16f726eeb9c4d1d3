"""Keyturn on one machine, for `make demo`, `make bench` and the tests. Nothing here ships.

Existing software replaces EKS and AWS where it can: the stock Kubernetes control plane and moto's server. Code of our
own replaces the rest, such as label events (aws/label_events.py) and Lambda (notifier/event_source.py).

toolchain/ gets the programs, and processes/ runs them. kubernetes/, node/ and aws/ provide the surroundings; notifier/
and receiver/ run Keyturn itself; stack.py connects all of them. `make` calls demo/, bench/ and docs/.
"""
