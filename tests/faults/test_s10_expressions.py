"""S10: whatever a tenant writes into its own namespace, the bindings of other tenants keep working."""

import json
from uuid import uuid4

import pytest

from support.background import ObjectEditor
from support.fault_env import FaultEnv
from support.manifests import secret
from support.wait import eventually

DATA = "keyturn.dev/data"
DELIVERIES = 5
SECRETS = 40  # of the hostile tenant
NUMBERS = 2000  # the length of the list in the hostile AWS secret

# The expressions of each case are together about as long or as costly as the validation and the cost bound allow:
# just within a limit, or slightly over it.
HOSTILE = {
    "dear to parse and weigh": ["[?" * 6 + "[" + ",".join("@" * 230) + "]" + "]" * 6] * 30,
    "refused for its number of parts": ["[?" * 6 + "[" + ",".join("@" * 1900) + "]" + "]" * 6] * 16,
    "dear to evaluate": ["numbers[?@==@]|[?@==@]|[?@==@]|[?@==@]|[?@==@]|length(@)"] * 4,
    "cheap, but sixteen thousand characters of them": [f"[a{n},b{n}]|[0]||'none'" for n in range(700)],
}


def hostile_namespace(env: FaultEnv, expressions: list[str]) -> str:
    """Create a namespace with Secrets that have these expressions, and return its name."""
    name = f"hostile-{uuid4().hex[:6]}"
    env.client.create_secret(Name=f"{name}/db", SecretString=json.dumps({"numbers": list(range(NUMBERS))}))
    annotations = {"keyturn.dev/allow-secrets": f"{name}/*"}
    env.create_objects(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "annotations": annotations}}
    )
    data = "\n".join(f"K{number}: '{each.replace(chr(39), chr(39) * 2)}'" for number, each in enumerate(expressions))
    env.create_objects(*(secret(name, f"s{number}", f"{name}/db", **{DATA: data}) for number in range(SECRETS)))
    return name


def stage(number: int) -> str:
    """Return the annotation for the edit with this number. Its text changes with each round over the Secrets, but means
    the same."""
    return f"keyturn.dev/version-stage={'AWSCURRENT' if number // SECRETS % 2 else ' AWSCURRENT'}"


@pytest.mark.fault("S10")
@pytest.mark.parametrize("case", HOSTILE)
def test_expressions_of_one_tenant_delay_nobody_else(env: FaultEnv, case: str) -> None:
    """A tenant binds 40 Secrets with expressions that are expensive to parse, to check or to evaluate, and edits them
    all the time. The receiver still answers each delivery of another tenant with 200, and stays alive and ready."""
    receiver = env.receiver()
    env.create_bound_secret("db")
    eventually(lambda: env.is_current("db"))
    hostile = hostile_namespace(env, HOSTILE[case])
    secrets = [f"secret/s{number}" for number in range(SECRETS)]
    with ObjectEditor(env.cluster, hostile, secrets, stage, pause=0.2):
        for _ in range(DELIVERIES):
            reply = env.send(env.rotate("db"))  # 503 if it takes more than the receiver's deadline of 8 s
            assert reply.status == 200, reply
            assert env.is_current("db")
            assert receiver.alive()[0] == receiver.ready()[0] == 200
    env.wait_converged()
