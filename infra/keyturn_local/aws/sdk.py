"""Access to the local AWS: account and region, environment variables for SDKs, and boto3 clients."""

from typing import Any

import boto3
import botocore.session
from botocore.config import Config

ACCOUNT = "123456789012"  # moto's default
REGION = "us-east-1"
CREDENTIAL = "testing"


def environment(endpoint_url: str) -> dict[str, str]:
    """Return the variables that make AWS's own tools and SDKs use a local endpoint."""
    return {
        "AWS_ENDPOINT_URL": endpoint_url,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": CREDENTIAL,
        "AWS_SECRET_ACCESS_KEY": CREDENTIAL,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def client(service: str, endpoint_url: str, access_key: str = CREDENTIAL, secret_key: str = CREDENTIAL) -> Any:
    """Build a boto3 client for a local endpoint. The client ignores the user's own AWS settings and proxies.

    If ``access_key`` is the number of an account, the emulator treats it as the root user of this account.
    """
    without_profile = botocore.session.Session({"profile": (None, None, None, None)})  # ignores AWS_PROFILE
    session = boto3.session.Session(access_key, secret_key, region_name=REGION, botocore_session=without_profile)
    return session.client(service, endpoint_url=endpoint_url, config=Config(proxies={}))
