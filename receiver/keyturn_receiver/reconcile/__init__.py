"""Makes one binding true: observes, fills, restarts and reports. Nothing else changes Secrets or workloads."""
