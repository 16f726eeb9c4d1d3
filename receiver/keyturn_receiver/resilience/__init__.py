"""Resilience patterns in plain asyncio: back-off, token bucket, adaptive limiter, single flight and bounded map."""
