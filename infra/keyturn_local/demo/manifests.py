"""Objects of the demo: AWS secrets, the Secrets that are bound to them, and workloads that read these in different
ways."""

import hashlib
import json
import secrets
import urllib.parse
from collections.abc import Mapping
from typing import Any

NAMESPACE = "keyturn-demo"
ALLOWED = "demo/*"
IMAGE = "busybox:stable"

DATABASE = "demo/database"  # JSON
API_TOKEN = "demo/api-token"

# For each workload: the key of the Secret that its processes read, and the shell expression for the value of this key.
READS = {
    "web": ("DATABASE_URL", "$DATABASE_URL"),
    "queue": ("PASSWORD", "$(cat /etc/password/password)"),
    "agent": ("value", "$value"),
}
# Each process logs a digest of the value that it uses, because no output may contain a value. A digest of a guessable
# value would reveal the value, but the values here are random.
USES = "uses "
SALT = "keyturn-demo "
SLEEP = "trap exit TERM; sleep 86400 & wait"

DATABASE_URL = "join('', ['postgres://', username, ':', url_encode(password), '@', host, '/app'])"


def database(owner: str, password: str | None = None) -> dict[str, str]:
    """Return a value for the AWS secret DATABASE. If no password is given, it has a new one."""
    return {
        "username": "app",
        "password": password or secrets.token_urlsafe(12) + "%#?",  # a URL has to encode these characters
        "host": "db.internal",
        "owner": owner,
    }


def database_secret(value: Mapping[str, str]) -> dict[str, str]:
    """Return the data that the Secret `database` must have if this is the value of DATABASE."""
    password = urllib.parse.quote(value["password"], safe="")
    return {
        "PASSWORD": value["password"],
        "DATABASE_URL": f"postgres://{value['username']}:{password}@{value['host']}/app",
        "OWNER": value["owner"],
    }


def bindings() -> list[Any]:
    """Return the Secrets in the form in which the author of a chart ships them: a label and annotations, but no
    data."""
    data = {"PASSWORD": "password", "DATABASE_URL": DATABASE_URL, "OWNER": "owner"}
    lines = "".join(f"{key}: {expression}\n" for key, expression in data.items())
    return [
        _secret("database", {"keyturn.dev/secret-id": DATABASE, "keyturn.dev/data": lines}),
        _secret("api-token", {"keyturn.dev/secret-id": API_TOKEN}),
    ]


def digest(app: str, data: Mapping[str, str]) -> str:
    """Return the digest of the value that the workload ``app`` reads. ``data`` is the data of the Secret.

    The workload's processes log this digest while they use this value.
    """
    key, _ = READS[app]
    return hashlib.sha256(f"{SALT}{data[key]}".encode()).hexdigest()


def workloads(image: str = IMAGE) -> list[Any]:
    """Return three workloads that read the Secrets (by env, by a volume, by envFrom), and one workload that reads no
    Secret."""
    password = {"secretName": "database", "items": [{"key": "PASSWORD", "path": "password"}]}
    return [
        _workload("Deployment", "web", image, 2, env=[_key("DATABASE_URL", "database", "DATABASE_URL")]),
        _workload("StatefulSet", "queue", image, 1, volumes=[{"name": "password", "secret": password}]),
        _workload("DaemonSet", "agent", image, None, env_from=[{"secretRef": {"name": "api-token"}}]),
        _workload("Deployment", "bystander", image, 1),
    ]


def _secret(name: str, annotations: Mapping[str, str]) -> dict[str, Any]:
    metadata = {
        "name": name,
        "namespace": NAMESPACE,
        "labels": {"keyturn.dev/bind": "true"},
        "annotations": dict(annotations),
    }
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata}


def _key(variable: str, secret: str, key: str) -> dict[str, Any]:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def _workload(
    kind: str,
    name: str,
    image: str,
    replicas: int | None,
    env: list[Any] | None = None,
    env_from: list[Any] | None = None,
    volumes: list[Any] | None = None,
) -> dict[str, Any]:
    mounts = [{"name": volume["name"], "mountPath": f"/etc/{volume['name']}"} for volume in volumes or []]
    container = {
        "name": "main",
        "image": image,
        "command": ["sh", "-c", _script(name)],
        "env": env or [],
        "envFrom": env_from or [],
        "volumeMounts": mounts,
    }
    spec: dict[str, Any] = {
        "selector": {"matchLabels": {"app": name}},
        "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [container], "volumes": volumes or [], "terminationGracePeriodSeconds": 1},
        },
    }
    if replicas is not None:
        spec["replicas"] = replicas
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


def _script(app: str) -> str:
    if app not in READS:
        return SLEEP
    _, value = READS[app]
    return f'echo "{USES}$(printf %s "{SALT}{value}" | sha256sum)"; {SLEEP}'


def value_text(value: Mapping[str, str] | str) -> str:
    """Return a value as AWS stores it."""
    return value if isinstance(value, str) else json.dumps(dict(value))
