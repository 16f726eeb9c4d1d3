"""Telemetry: Prometheus metrics, logs as JSON lines, and traces. None of them contains a secret value."""
