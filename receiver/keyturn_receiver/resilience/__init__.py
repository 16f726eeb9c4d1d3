"""Back-off, limiters, single flight, bounded maps: asyncio alone, no AWS and no Kubernetes."""
