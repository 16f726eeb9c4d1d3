"""Telemetry: metrics for Prometheus, logs as JSON lines, traces. None of it contains a secret value."""
