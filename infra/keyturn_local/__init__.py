"""Keyturn on one machine, for `make demo`, `make bench` and the tests. Nothing here ships.

Real parts stand in for EKS and AWS wherever possible: the stock Kubernetes control plane, moto's servers, the
notifier's own handler. A part of our own says so.

toolchain/ gets the programs, processes/ runs them; kubernetes/, node/ and aws/ are the surroundings; notifier/ and
receiver/ are Keyturn itself; stack.py joins all of it. demo/, bench/ and docs/ are what `make` calls.
"""
