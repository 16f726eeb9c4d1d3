"""Clients for AWS.

boto3 is imported only when ``client`` is called, because this import takes longer than all other imports together.
"""

from typing import Any

from keyturn_notifier.proxy import Proxy

CONNECT_SECONDS = 1
READ_SECONDS = 3
ATTEMPTS = 2  # number of attempts, including the first one


def client(name: str, proxy: Proxy | None) -> Any:
    """Return a client. Its calls time out well before the end of the invocation. The caller has to annotate the
    client's type."""
    import boto3
    from botocore.config import Config

    retries: Any = {"mode": "standard", "total_max_attempts": ATTEMPTS}
    config = Config(connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, retries=retries)
    made = boto3.client(name, config=config)
    if proxy is None or not proxy.serves(made.meta.endpoint_url):
        return made
    # botocore chooses the endpoint. So a client has to be built first, to see whether it needs the proxy.
    proxies = {"http": proxy.url, "https": proxy.url}
    return boto3.client(name, config=config.merge(Config(proxies=proxies)))
