"""Keyturn on one machine, for `make demo`, `make bench` and the tests. None of this is shipped.

Existing software stands in for EKS and AWS where it can: the stock Kubernetes control plane and moto's server. Our own
code stands in for the rest, such as label events (aws/label_events.py) and Lambda (notifier/event_source.py).

toolchain/ gets the programs, and processes/ runs them. kubernetes/, node/ and aws/ provide the surroundings. notifier/
and receiver/ run Keyturn itself, and stack.py connects all of these. `make` calls demo/, bench/ and docs/.
"""
