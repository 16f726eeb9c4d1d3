"""S12: an AWS role is used only for the ServiceAccount that names it, and never for another ServiceAccount of the same
name."""

from collections.abc import Callable
from typing import Any

import pytest

from support.cluster_state import data_of
from support.fault_env import FaultEnv
from support.manifests import secret
from support.tenant_roles import Sts, account, role
from support.wait import eventually

AS_APP = {"keyturn.dev/service-account": "app"}


@pytest.mark.fault("S12")
def test_role_goes_with_the_service_account_that_named_it(make_env: Callable[..., FaultEnv]) -> None:
    """A ServiceAccount gets a role that cannot be assumed, loses its role, is deleted, and is created again with
    another role, as when another team takes over the namespace. From the first of these changes on, nothing is read
    with the former role."""
    env = make_env(tenantRoles={"enabled": True})
    sts = Sts(env)
    env.create_aws_secret("db")
    env.create_objects(account(env.namespace, "app", role("former")))
    receiver = env.receiver(KEYTURN_TENANT_ROLES="true", KEYTURN_POLL_INTERVAL_SECONDS="1")
    bound = f"{env.namespace}/db"
    env.cluster.create([secret(env.namespace, "former", bound, **AS_APP)])
    eventually(lambda: data_of(env.cluster, env.namespace, "former"))
    assert sts.readers(env, bound) == {role("former")}

    changes: dict[str, tuple[Callable[[], Any], str]] = {
        "changed": (lambda: annotate(f"eks.amazonaws.com/role-arn={role('broken')}"), "SourceRefused: AWS role"),
        "taken": (lambda: annotate("eks.amazonaws.com/role-arn-"), "InvalidBinding: ServiceAccount"),
        "deleted": (lambda: delete(), "InvalidBinding: ServiceAccount"),
        "anew": (lambda: env.create_objects(account(env.namespace, "app", role("latter"))), "ok"),
    }

    def annotate(annotation: str) -> None:
        env.cluster.kubectl("annotate", "--overwrite", "serviceaccount", "app", "-n", env.namespace, annotation)

    def delete() -> None:
        env.cluster.kubectl("delete", "serviceaccount", "app", "-n", env.namespace)

    env.client.put_secret_value(SecretId=bound, SecretString=env.new_value("later"))
    for name, (change, status) in changes.items():
        change()
        env.aws_proxy.calls.clear()
        env.cluster.create([secret(env.namespace, name, bound, **AS_APP)])
        assert env.status(name).startswith(status), name
        sweeps = receiver.metric("keyturn_sweeps_total")
        eventually(lambda before=sweeps: receiver.metric("keyturn_sweeps_total") >= before + 2, 30)
        readers = {role("latter")} if status == "ok" else set()
        assert sts.readers(env, bound) <= readers, name
        wanted = {"value": env.aws_value().encode()} if status == "ok" else {}
        assert data_of(env.cluster, env.namespace, name) == wanted
    env.assert_no_value_leaked()
