"""What the receiver tells of itself: metrics for Prometheus, logs as JSON lines, traces. Never a secret value."""
