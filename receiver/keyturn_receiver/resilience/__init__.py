"""Resilience patterns in plain asyncio, such as back-off, token bucket, adaptive limiter, single flight and bounded
map."""
