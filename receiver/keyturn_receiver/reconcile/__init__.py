"""Makes one binding true: observes, fills, restarts and reports. No other package changes Secrets or workloads."""
