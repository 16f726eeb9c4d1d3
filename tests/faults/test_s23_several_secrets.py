"""S23: one of several AWS secrets of a Secret fails. The keys that do not need it go on, even if the receiver dies."""

import json
from contextlib import suppress

import pytest

from keyturn_contract.message import Notification
from keyturn_local.aws.rotation import rotate
from support.cluster_state import data_of
from support.fault_env import FaultEnv
from support.fault_proxy import Call, Fault, Hang, Reply
from support.manifests import secret, workload
from support.wait import eventually

DATA = "keyturn.dev/data"
SECRETS = "keyturn.dev/secrets"
MARK = "revision.keyturn.dev/several"
THROTTLED = Reply(400, {"__type": "ThrottlingException"}, {"Content-Type": "application/x-amz-json-1.1"})
LINES = "PASSWORD: db.password\nURL: join('@', [db.password, host.address])\nHOST: host.address\n"


class Several:
    """A Secret that is filled from the AWS secrets db and host, and a Deployment for each of its keys."""

    def __init__(self, env: FaultEnv) -> None:
        self._env = env
        self.values = {"db": {"password": env.new_value("p1")}, "host": {"address": env.new_value("h1")}}
        for name, value in self.values.items():
            env.client.create_secret(Name=f"{env.namespace}/{name}", SecretString=json.dumps(value))
        bound = secret(env.namespace, "several", **{DATA: LINES})
        bound["metadata"]["labels"] = {"keyturn.dev/bind": "true"}
        bound["metadata"]["annotations"][SECRETS] = f"db: {env.namespace}/db\nhost: {env.namespace}/host\n"
        env.cluster.create([bound])
        eventually(lambda: self.data() == self.whole(), 60)
        for key in ("PASSWORD", "URL", "HOST"):
            reads = [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "several", "key": key}}}]
            env.cluster.create([workload(env.namespace, key.lower(), {"container": {"env": reads}})])
        eventually(lambda: all(MARK in self._metadata(name).get("annotations", {}) for name in self.readers), 60)

    readers = ("password", "url", "host")

    def whole(self) -> dict[str, str]:
        password, address = self.values["db"]["password"], self.values["host"]["address"]
        return {"PASSWORD": password, "URL": f"{password}@{address}", "HOST": address}

    def data(self) -> dict[str, str]:
        return {k: v.decode() for k, v in data_of(self._env.cluster, self._env.namespace, "several").items()}

    def rotate_to(self, name: str, **value: str) -> Notification:
        """Rotate one of the two AWS secrets, and return the notification."""
        self.values[name] = value
        return self._env.notification_of(
            name, rotate(self._env.client, f"{self._env.namespace}/{name}", json.dumps(value))
        )

    def restarts(self) -> dict[str, int]:
        """Return how often each reader has been restarted."""
        marks = {name: self._env.history.marks(name, "several") for name in self.readers}
        return {name: sum(mark is not None for mark in each) for name, each in marks.items()}

    def assert_restarts(self, **expected: int) -> None:
        with suppress(AssertionError):
            eventually(lambda: self.restarts() == expected, 30)
        assert self.restarts() == expected

    def _metadata(self, name: str) -> dict:
        return self._env.cluster.get("deployment", name, self._env.namespace)["metadata"]


@pytest.mark.fault("S23")
@pytest.mark.parametrize("fault", [Hang(), THROTTLED], ids=["hangs", "throttled"])
def test_one_of_several_secrets_that_fails_holds_up_only_its_own_keys(env: FaultEnv, fault: Fault) -> None:
    """AWS hangs or throttles for one of two AWS secrets of a Secret, and the receiver is killed meanwhile. A rotation
    of the other one reaches its keys and their readers at once. The keys that need the failing one keep their last good
    values. Each reader restarts once for each change of its key."""
    env.receiver()
    several = Several(env)
    before = several.data()

    def fault_for(call: Call) -> Fault:
        return fault if call.action and call.about("/host") else None

    env.aws_proxy.fault_for = fault_for
    told = several.rotate_to("db", password=env.new_value("p2"))
    assert env.send(told).outcome == "applied"
    assert several.data() == {**before, "PASSWORD": several.values["db"]["password"]}
    assert "URL, HOST keep their last values" in env.status("several")
    several.assert_restarts(password=1, url=0, host=0)
    env.stop_receivers()  # by SIGKILL
    env.aws_proxy.fault_for = fault_for  # again, because stop_receivers has healed the proxies
    env.receiver()
    told = several.rotate_to("db", password=env.new_value("p3"))
    assert env.send_until_accepted(told).outcome in ("applied", "retrying", "unchanged")
    eventually(lambda: several.data() == {**before, "PASSWORD": several.values["db"]["password"]}, 30)
    several.assert_restarts(password=2, url=0, host=0)
    env.aws_proxy.heal()
    eventually(lambda: several.data() == several.whole(), 60)
    eventually(lambda: env.status("several") == "ok", 30)
    several.assert_restarts(password=2, url=1, host=0)
    env.assert_no_value_leaked()
