"""S12: what a cluster admin has written on a namespace counts for that namespace. It does not count for a later
namespace of the same name, even while the watch of namespaces shows nothing."""

import threading
from typing import Any

import pytest

from support.cluster_state import data_of
from support.fault_env import FaultEnv
from support.fault_proxy import Call, Edit, Fault, Hang
from support.manifests import secret
from support.wait import eventually

ALLOW = "keyturn.dev/allow-secrets"


class Blindness:
    """A fault that keeps back the events of the watches whose path ends in ``resource`` while ``blind`` is set. Once
    ``blind`` is cleared, they arrive all at once, together with the next event and before it."""

    def __init__(self, resource: str) -> None:
        self._resource = resource
        self.blind = threading.Event()

    def __call__(self, call: Call) -> Fault:
        if not call.watch or not call.path.endswith(self._resource):
            return None
        held: list[bytes] = []

        def edit(line: bytes) -> bytes | None:
            held.append(line)
            if self.blind.is_set():
                return None
            events = b"".join(held)
            held.clear()
            return events

        return Edit(edit)


def namespace(name: str, allow: str | None) -> dict[str, Any]:
    annotations = {} if allow is None else {ALLOW: allow}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "annotations": annotations}}


def asked(env: FaultEnv, about: str) -> list[str]:
    return [call.action for call in env.aws_proxy.calls if call.action and call.about(about)]


@pytest.mark.fault("S12")
@pytest.mark.parametrize("allow", [None, "latter/*"])
def test_namespace_that_is_created_again_is_not_judged_by_the_former_one(env: FaultEnv, allow: str | None) -> None:
    """A namespace that may read a secret is deleted and created again, with another policy or none, while its watch is
    blind. No Secret of the new one is filled, and AWS is not asked. The late events of the former namespace change
    nothing. Once the new one may read the secret, its Secrets are filled."""
    blindness = Blindness("/namespaces")
    env.kubernetes_proxy.fault_for = blindness
    name, bound = f"{env.namespace}-other", f"{env.namespace}/db"
    env.create_aws_secret("db")
    env.create_objects(namespace(name, f"{env.namespace}/*"))
    env.create_aws_secret("own")
    receiver = env.receiver(KEYTURN_POLL_INTERVAL_SECONDS="1")
    env.cluster.create([secret(name, "db", bound), secret(env.namespace, "own", f"{env.namespace}/own")])
    for where, each in ((name, "db"), (env.namespace, "own")):
        eventually(lambda where=where, each=each: data_of(env.cluster, where, each))

    blindness.blind.set()
    env.cluster.delete([namespace(name, None)])
    env.cluster.create([namespace(name, allow)])
    env.aws_proxy.calls.clear()
    env.cluster.create([secret(name, "db", bound), secret(name, "other", bound)])
    for each in ("db", "other"):
        assert env.status(each, name).startswith("NotAllowed"), each
    # The watch works again. The events that were kept back arrive together with the next event.
    blindness.blind.clear()
    env.cluster.kubectl("annotate", "namespace", env.receiver_namespace, "example.com/next=event")
    env.cluster.create([secret(name, "later", bound)])
    assert env.status("later", name).startswith("NotAllowed")
    sweeps = receiver.metric("keyturn_sweeps_total")
    eventually(lambda: receiver.metric("keyturn_sweeps_total") >= sweeps + 2)
    assert asked(env, bound) == []
    assert all(data_of(env.cluster, name, each) == {} for each in ("db", "other", "later"))

    env.cluster.kubectl("annotate", "--overwrite", "namespace", name, f"{ALLOW}={env.namespace}/*")
    for each in ("db", "other", "later"):
        eventually(lambda each=each: data_of(env.cluster, name, each) == {"value": env.aws_value().encode()})
    env.assert_no_value_leaked()


@pytest.mark.fault("S12")
def test_namespace_is_read_once_and_rotations_read_it_no_more(env: FaultEnv) -> None:
    """Ten Secrets are made at once, and each is rotated three times. Their namespace is read a few times for the new
    Secrets, and not once for their rotations."""
    receiver = env.receiver()
    for number in range(10):
        env.create_aws_secret(f"s{number}")
    for number in range(10):
        env.bind_secret(f"s{number}")
    eventually(lambda: all(env.is_current(f"s{number}") for number in range(10)), 60)

    def reads() -> int:
        return len(env.kubernetes_proxy.matching("GET", rf"/namespaces/{env.namespace}$"))

    first = reads()
    assert 1 <= first <= 10
    for _ in range(3):
        told = [env.rotate(f"s{number}") for number in range(10)]
        assert env.send_until_accepted(*told).outcome == "applied"
    assert reads() == first
    assert receiver.metric("keyturn_failing_bindings") == 0
    env.wait_converged()


@pytest.mark.fault("S12")
def test_secret_that_is_created_again_is_not_filled_by_the_former_ones_binding(env: FaultEnv) -> None:
    """A Secret is deleted and created again under its name, bound to another AWS secret, while the watch of Secrets is
    blind. A rotation of the former AWS secret brings none of its values into the new Secret, which gets the value of
    the other AWS secret."""
    blindness = Blindness("/secrets")
    env.kubernetes_proxy.fault_for = blindness
    env.create_aws_secret("former")
    env.create_aws_secret("latter")
    env.receiver()
    env.cluster.create([secret(env.namespace, "db", f"{env.namespace}/former")])
    eventually(lambda: data_of(env.cluster, env.namespace, "db"))
    blindness.blind.set()
    env.cluster.kubectl("delete", "secret", "db", "-n", env.namespace)
    env.cluster.create([secret(env.namespace, "db", f"{env.namespace}/latter")])
    env.send(env.rotate("former"))
    latter = env.client.get_secret_value(SecretId=f"{env.namespace}/latter")["SecretString"]
    assert data_of(env.cluster, env.namespace, "db") in ({}, {"value": latter.encode()})
    blindness.blind.clear()
    env.cluster.kubectl("annotate", "secret", "db", "-n", env.namespace, "example.com/next=event")
    eventually(lambda: data_of(env.cluster, env.namespace, "db") == {"value": latter.encode()})
    env.assert_no_value_leaked()


@pytest.mark.fault("S12")
@pytest.mark.parametrize("silent", [1, 99], ids=["one watch", "all watches"])
def test_policy_that_is_taken_back_while_watches_are_silent_is_noticed_by_their_deadlines(
    env: FaultEnv, silent: int
) -> None:
    """A namespace loses its permission while the watch of namespaces is silent. At the deadline of this watch, the next
    watch begins, and shows the change. If all watches are silent, a list shows the change."""
    watches: list[Call] = []

    def silence(call: Call) -> Fault:
        if not call.watch or not call.path.endswith("/namespaces"):
            return None
        watches.append(call)
        return Hang() if len(watches) <= silent else None

    env.kubernetes_proxy.fault_for = silence
    name, bound = f"{env.namespace}-other", f"{env.namespace}/db"
    env.create_aws_secret("db")
    env.create_objects(namespace(name, f"{env.namespace}/*"))
    env.receiver(KEYTURN_WATCH_SECONDS="8")
    env.cluster.create([secret(name, "db", bound)])
    eventually(lambda: data_of(env.cluster, name, "db"))
    env.cluster.kubectl("annotate", "namespace", name, f"{ALLOW}-")
    eventually(lambda: env.status("db", name).startswith("NotAllowed"), 60)
    assert len(watches) > min(silent, 1)
    assert data_of(env.cluster, name, "db") == {"value": env.aws_value().encode()}  # the Secret keeps its value
