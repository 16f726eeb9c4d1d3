"""Back-off, token bucket, adaptive limiter, single flight, bounded map: pure asyncio, no AWS and no Kubernetes."""
