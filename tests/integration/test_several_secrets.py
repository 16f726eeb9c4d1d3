"""A Secret of several AWS secrets on the real API server: rotations, restarts, stages, the policy, the poller."""

import json
from typing import Any
from uuid import uuid4

from keyturn_local.aws.rotation import rotate
from keyturn_local.stack import Stack
from support.cluster_state import annotations_of, data_of
from support.manifests import secret, workload
from support.wait import eventually

DATA = "keyturn.dev/data"
SECRETS = "keyturn.dev/secrets"
MARK = "revision.keyturn.dev/db"
LINES = (
    "PASSWORD: db.password\n"
    "URL: join('', ['postgres://', db.username, ':', url_encode(db.password), '@', host.address, '/app'])\n"
    "CACHE: cache\n"
)


def bind(stack: Stack, namespace: str, aliases: dict[str, str], lines: str, **annotations: str) -> None:
    """Create a Secret that is bound to several AWS secrets."""
    bound = secret(namespace, "db", **{DATA: lines, **annotations})
    bound["metadata"]["labels"] = {"keyturn.dev/bind": "true"}
    bound["metadata"]["annotations"][SECRETS] = "".join(f"{alias}: {line}\n" for alias, line in aliases.items())
    stack.cluster.create([bound])


def bind_three(stack: Stack, namespace: str) -> None:
    values = {"db": {"username": "u", "password": "p/1"}, "host": {"address": "h1"}, "cache": "redis://c1"}
    for name, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value)
        stack.aws.secrets_manager().create_secret(Name=f"{namespace}/{name}", SecretString=text)
    bind(stack, namespace, {name: f"{namespace}/{name}" for name in values}, LINES)
    eventually(lambda: data(stack, namespace) == {"PASSWORD": "p/1", "URL": url("p%2F1", "h1"), "CACHE": "redis://c1"})


def url(password: str, host: str) -> str:
    return f"postgres://u:{password}@{host}/app"


def data(stack: Stack, namespace: str) -> dict[str, str]:
    return {key: value.decode() for key, value in data_of(stack.cluster, namespace, "db").items()}


def status(stack: Stack, namespace: str) -> str:
    return " ".join(annotations_of(stack.cluster, "secret", namespace, "db").get("keyturn.dev/status", "").split())


def rotate_to(stack: Stack, namespace: str, name: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return rotate(stack.aws.secrets_manager(), f"{namespace}/{name}", text)


def mark_of(stack: Stack, namespace: str, name: str) -> str:
    template = stack.cluster.get("deployment", name, namespace)["spec"]["template"]["metadata"]
    return (template.get("annotations") or {}).get(MARK, "")


def test_rotation_of_one_of_three_restarts_the_readers_of_its_keys(stack: Stack, namespace: str) -> None:
    bind_three(stack, namespace)
    readers = {"password": "PASSWORD", "url": "URL", "cache": "CACHE"}
    for name, key in readers.items():
        env = [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "db", "key": key}}}]
        stack.cluster.create([workload(namespace, name, {"container": {"env": env}})])
    for name in readers:
        eventually(lambda name=name: MARK in annotations_of(stack.cluster, "deployment", namespace, name))
    version_id = rotate_to(stack, namespace, "host", {"address": "h2"})
    eventually(lambda: data(stack, namespace)["URL"] == url("p%2F1", "h2"))
    eventually(lambda: version_id in stack.aws.notifier_log.delivered())
    marks = {name: mark_of(stack, namespace, name) for name in readers}
    assert {name for name, mark in marks.items() if mark} == {"url"}
    version_id = rotate_to(stack, namespace, "db", {"username": "u", "password": "p2"})
    eventually(lambda: version_id in stack.aws.notifier_log.delivered())
    assert data(stack, namespace) == {"PASSWORD": "p2", "URL": url("p2", "h2"), "CACHE": "redis://c1"}
    assert mark_of(stack, namespace, "password")
    assert mark_of(stack, namespace, "url") != marks["url"]
    assert not mark_of(stack, namespace, "cache")
    versions = json.loads(annotations_of(stack.cluster, "secret", namespace, "db")["keyturn.dev/version-ids"])
    assert len(versions) == 3
    assert version_id in versions.values()
    assert status(stack, namespace) == "ok"


def test_deleted_one_holds_up_only_the_keys_that_need_it(stack: Stack, namespace: str) -> None:
    bind_three(stack, namespace)
    stack.aws.secrets_manager().delete_secret(SecretId=f"{namespace}/host", ForceDeleteWithoutRecovery=True)
    rotate_to(stack, namespace, "db", {"username": "u", "password": "p2"})
    rotate_to(stack, namespace, "cache", "redis://c2")
    kept = {"PASSWORD": "p2", "URL": url("p%2F1", "h1"), "CACHE": "redis://c2"}
    eventually(lambda: data(stack, namespace) == kept)
    eventually(lambda: status(stack, namespace).startswith("SourceNotFound: "))
    assert f"{namespace}/host" in status(stack, namespace)
    assert "URL keeps its last value" in status(stack, namespace)
    stack.aws.secrets_manager().create_secret(Name=f"{namespace}/host", SecretString='{"address": "h2"}')
    stack.cluster.kubectl("annotate", "secret", "db", "-n", namespace, "keyturn.dev/reconcile=now")
    eventually(lambda: data(stack, namespace) == {**kept, "URL": url("p2", "h2")})
    eventually(lambda: status(stack, namespace) == "ok")


def test_each_alias_has_its_own_stage(stack: Stack, namespace: str) -> None:
    client = stack.aws.secrets_manager()
    client.create_secret(Name=f"{namespace}/db", SecretString="one")
    client.put_secret_value(
        SecretId=f"{namespace}/db", SecretString="two", VersionStages=["blue"], ClientRequestToken=str(uuid4())
    )
    aliases = {"now": f"{namespace}/db", "blue": f"{{id: {namespace}/db, stage: blue}}"}
    bind(stack, namespace, aliases, "NOW: now\nBLUE: blue\n")
    eventually(lambda: data(stack, namespace) == {"NOW": "one", "BLUE": "two"})


def test_policy_holds_for_each_of_several_secrets(stack: Stack, namespace: str) -> None:
    foreign = f"foreign-{uuid4().hex[:6]}"
    stack.aws.secrets_manager().create_secret(Name=foreign, SecretString="theirs")
    stack.aws.secrets_manager().create_secret(Name=f"{namespace}/db", SecretString="ours")
    bind(stack, namespace, {"db": f"{namespace}/db", "other": foreign}, "DB: db\nOTHER: other\n")
    eventually(lambda: status(stack, namespace).startswith("NotAllowed: "))
    assert foreign in status(stack, namespace)
    assert data(stack, namespace) == {}  # the first fill is whole or not at all
    allowed = f"{namespace}/*,{foreign}"
    stack.cluster.kubectl("annotate", "namespace", namespace, "--overwrite", f"keyturn.dev/allow-secrets={allowed}")
    eventually(lambda: data(stack, namespace) == {"DB": "ours", "OTHER": "theirs"})
    stack.cluster.kubectl("annotate", "namespace", namespace, "--overwrite", f"keyturn.dev/allow-secrets={namespace}/*")
    eventually(lambda: "OTHER keeps its last value: remove it from" in status(stack, namespace))
    rotate_to(stack, namespace, "db", "ours 2")
    eventually(lambda: data(stack, namespace) == {"DB": "ours 2", "OTHER": "theirs"})


def test_faulty_aliases_are_told_with_what_to_write(stack: Stack, namespace: str) -> None:
    stack.aws.secrets_manager().create_secret(Name=f"{namespace}/db", SecretString="{}")
    bind(stack, namespace, {"db": f"{namespace}/db"}, "A: dbs.password\nB: '@'\n")
    eventually(lambda: status(stack, namespace).startswith("InvalidBinding: "))
    for words in ("key A: dbs is no alias in keyturn.dev/secrets: use one of db", "key B: its expression takes all"):
        assert words in status(stack, namespace)
