"""Benchmarks: `make bench` (the receiver, and the memory of its pod) and `make bench-notifier` (the notifier)."""
