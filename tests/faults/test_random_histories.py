"""Plays random histories of rotations, edits, crashes and faults, and checks each one with the oracle of
docs/faults.md.

``KEYTURN_HISTORIES=200`` plays two hundred histories. The number of a history determines its steps, but the receivers'
timing differs from run to run.
"""

import itertools
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, assume, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import UnsatisfiedAssumption
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from keyturn_contract.message import EventType, Notification
from keyturn_local.aws.server import LocalAws
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_receiver.core.binding import binding_hash
from keyturn_receiver.core.revision import BINDING_HASH, REVISIONS
from support.deliveries import notification
from support.fault_env import FaultEnv
from support.fault_proxy import Call, Cut, CutAfter, Edit, Fault, FaultProxy, Hang, Reply
from support.manifests import secret, workload
from support.model.aws_model import ALIVE, GONE, KINDS_OF_VALUE, SCHEDULED, AwsModel, text_of
from support.model.oracle import BINDINGS, HAND, ExpectedError, SecretOracle, check_consumer, lines_of, rendered
from support.sqs_like_sender import RetryingSender
from support.wait import eventually

HISTORIES = int(os.environ.get("KEYTURN_HISTORIES", "5"))
STEPS = 60
LONGEST_TROUBLE = 6  # in steps

AWS_NAMES = ("a", "b", "c")
STAYS = "c"  # this secret is never deleted for good, and bindings name it by its ARN
SECRETS = ("s0", "s1", "s2")
WORKLOADS = ("w0", "w1", "w2", "w3")
KEYS = ("PASSWORD", "USER", "URL", "password", "user", "value")
IMPATIENT = {
    "KEYTURN_POLL_INTERVAL_SECONDS": "1",
    "KEYTURN_DEADLINE_SECONDS": "4",
    "KEYTURN_WATCH_SECONDS": "2",
    "KEYTURN_RESYNC_SECONDS": "3",
}

Trouble = Callable[[Call], Fault]

STATUS = {"kind": "Status", "metadata": {}}
AWS_JSON = {"Content-Type": "application/x-amz-json-1.1"}
KUBERNETES_TROUBLES: Mapping[str, Trouble] = {
    "answers 503": lambda call: Reply(503, STATUS),
    "is cut off": lambda call: Cut(),
    "is cut off in place of its answer": lambda call: CutAfter(),
    "hangs": lambda call: Hang(),
    "refuses writes": lambda call: Reply(500, STATUS) if call.method != "GET" else None,
    "has no workloads": lambda call: Cut() if "/deployments" in call.path and not call.watch else None,
    "fails now and then": lambda call: random.choice((None, Cut(), CutAfter(), Reply(503, STATUS))),  # noqa: S311
}
AWS_TROUBLES: Mapping[str, Trouble] = {
    "answers 503": lambda call: Reply(503, b""),
    "throttles": lambda call: Reply(400, {"__type": "ThrottlingException"}, AWS_JSON),
    "hangs": lambda call: Hang(),
    "fails now and then": lambda call: random.choice((None, Cut(), CutAfter(), Reply(503, b""))),  # noqa: S311
}
LOST, STALE = "events of watches are lost", "AWS gives the version before"
TROUBLES = (
    *(f"Kubernetes {each}" for each in KUBERNETES_TROUBLES),
    *(f"AWS {each}" for each in AWS_TROUBLES),
    LOST,
    STALE,
)

ONE_HISTORY = settings(
    max_examples=1,
    stateful_step_count=STEPS,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
how_told = st.sampled_from(("at once", "at once", "at once to 0", "at once to 1", "twice", "later", "never"))
kinds_of_value = st.sampled_from(("new", "new", *KINDS_OF_VALUE))
aws_names, bindings = st.sampled_from(AWS_NAMES), st.sampled_from(tuple(BINDINGS))
reads = st.dictionaries(st.sampled_from(SECRETS), st.none() | st.sampled_from(KEYS), min_size=1, max_size=2)
replicas = st.sampled_from(((0,), (1,), (0, 1)))


class History(RuleBasedStateMachine):
    """Two receivers, each behind proxies of its own, and the steps of a history. The model consists of plain dicts."""

    def __init__(self, make_env: Callable[[], FaultEnv], stack: ExitStack, failures: list[Exception]) -> None:
        super().__init__()
        self.make_env = make_env
        self.stack = stack
        self.failures = failures
        self.steps: list[str] = []
        self.begun = time.monotonic()
        # The bindings and the consumers that users have created.
        self.bound: dict[str, dict[str, Any]] = {}
        self.reads: dict[str, dict[str, str | None]] = {}
        # Notifications that are still to be delivered late, and the troubles of the replicas.
        self.later: list[Notification] = []
        self.troubled: set[int] = set()
        self.dead: set[int] = set()
        self.deaf = [False, False]
        self.well_at = 0

    @initialize(number=st.integers(0, 2**32))
    def begin(self, number: int) -> None:
        assume(number)  # Hypothesis always begins with 0, its simplest example. That example is skipped.
        random.seed(number)
        self.env = env = self.make_env()
        self.aws = AwsModel(env.client, env.namespace, env.new_value)
        self.oracles = {name: SecretOracle(self.aws.versions, self.aws.order) for name in SECRETS}
        proxies = [
            [FaultProxy(url, ca_file) for _ in range(2)]
            for url, ca_file in ((env.cluster.url, env.cluster.ca_file), (env.aws.endpoint_url, None))
        ]
        for proxy in itertools.chain(*proxies):
            self.stack.callback(proxy.close)
        self.kubernetes, self.aws_proxies = proxies
        self.receivers = [
            env.receiver(proxies=behind, start=False, **IMPATIENT) for behind in zip(*proxies, strict=True)
        ]
        self.heal_all()
        for receiver in self.receivers:
            receiver.start()
        self.sender = RetryingSender(env.key, [receiver.url for receiver in self.receivers])
        self.stack.callback(self.sender.close)
        for name in AWS_NAMES:
            self.aws.create(name)
        for name, to, binding in zip(SECRETS, AWS_NAMES, BINDINGS, strict=False):
            self.bind(name, to, binding)
        self.deploy("w0", {"s0": None})
        self.deploy("w1", {"s0": "password", "s1": "PASSWORD"})
        self.deploy("w2", {"s1": None, "s2": "PASSWORD"})

    # AWS

    def revive(self, name: str) -> None:
        """Restore an AWS secret that is scheduled for deletion, or create it again if it has been deleted for good."""
        if self.aws.lifecycle[name] == SCHEDULED:
            self.delete_or_restore(name, "at once")
        elif self.aws.lifecycle[name] == GONE:
            self.destroy_or_recreate(name, "at once")

    def tell(self, name: str, how: str, kind: EventType = EventType.CHANGED) -> None:
        told = notification(self.aws.arns[name], self.aws.version_history(name)[-1], kind)
        if how == "later":
            self.later.append(told)
        elif how != "never":
            self.sender.send(told, first=int(how[-1]) if how[-1].isdigit() else None)
        if how == "twice":
            self.sender.send(told)

    @rule(name=aws_names, kind=kinds_of_value, how=how_told)
    def rotate(self, name: str, kind: str, how: str) -> None:
        self.revive(name)
        self.say(f"rotate {name} to a value that is {kind}, told {how}")
        self.aws.rotate(name, kind)
        self.tell(name, how)

    @rule(how=how_told)
    def rotate_everything(self, how: str) -> None:
        for name in AWS_NAMES:
            self.rotate(name, "new", how)

    @rule(name=aws_names, order=st.permutations(range(3)), first=st.integers(0, 1))
    def rotate_in_a_row(self, name: str, order: Sequence[int], first: int) -> None:
        self.revive(name)
        self.say(f"rotate {name} three times, told in the order {order} to both by turns, {first} first")
        for _ in order:
            self.aws.rotate(name)
        last = self.aws.version_history(name)[-3:]
        for turn, number in enumerate(order, first):
            self.sender.send(notification(self.aws.arns[name], last[number]), first=turn)

    @rule(name=aws_names, back=st.integers(1, 3), how=how_told)
    def roll_back(self, name: str, back: int, how: str) -> None:
        self.revive(name)
        if self.aws.roll_back(name, back):
            self.say(f"roll {name} back by {back}, told {how}")
            self.tell(name, how)

    @rule(name=aws_names, how=how_told)
    def delete_or_restore(self, name: str, how: str) -> None:
        if self.aws.lifecycle[name] == ALIVE:
            self.say(f"schedule {name} for deletion, told {how}")
            self.aws.schedule(name)
            self.tell(name, how, EventType.DELETED)
        elif self.aws.lifecycle[name] == SCHEDULED:
            self.say(f"restore {name}, told {how}")
            self.aws.restore(name)
            self.tell(name, how, EventType.RESTORED)

    @rule(name=st.sampled_from([each for each in AWS_NAMES if each != STAYS]), how=how_told)
    def destroy_or_recreate(self, name: str, how: str) -> None:
        if self.aws.lifecycle[name] == GONE:
            self.say(f"create {name} again, told {how}")
            self.aws.create(name)
            self.tell(name, how)
        else:
            self.say(f"delete {name} for good, told {how}")
            self.aws.destroy(name)
            self.tell(name, how, EventType.DELETED)

    # Deliveries and replicas

    @precondition(lambda self: self.later)
    @rule(number=st.integers(0, 10), to=st.integers(0, 1))
    def deliver_late(self, number: int, to: int) -> None:
        number %= len(self.later)
        self.say(f"deliver notification {number} of {len(self.later)} that were held back, to {to}")
        self.sender.send(self.later.pop(number), first=to)

    @rule(seconds=st.sampled_from((0.2, 0.5, 1.0, 2.0)))
    def wait(self, seconds: float) -> None:
        self.say(f"wait {seconds} s")
        time.sleep(seconds)  # waiting is a step like any other

    @rule(number=st.integers(0, 1))
    def kill(self, number: int) -> None:
        if number not in self.dead:
            self.say(f"kill {number} with -9")
            self.receivers[number].kill()
            self.dead.add(number)
            self.well_at = len(self.steps) + LONGEST_TROUBLE

    @precondition(lambda self: not self.troubled and not self.dead)
    @rule(
        number=st.integers(0, 1),
        name=st.sampled_from(SECRETS),
        at=st.sampled_from(("secrets", "deployments")),
        after=st.booleans(),
    )
    def kill_at_a_write(self, number: int, name: str, at: str, after: bool) -> None:
        name = self.bound[name]["to"] if name in self.bound else STAYS
        self.revive(name)
        self.say(f"rotate {name}, and kill {number} {'after' if after else 'before'} it writes one of the {at}")
        killed = threading.Event()

        def is_due(call: Call) -> bool:
            return call.method == "PATCH" and f"/{at}/" in call.path and not killed.is_set()

        def kill(call: Call, status: int = 0) -> None:
            if is_due(call):
                killed.set()
                self.receivers[number].kill()

        def trap(call: Call) -> Fault:
            if not is_due(call):
                return None
            if after:
                return CutAfter()
            kill(call)
            return Cut()

        self.let(number, trap)
        self.kubernetes[number].on_answered = kill
        self.aws.rotate(name)
        self.tell(name, f"at once to {number}")
        killed.wait(2)
        self.receivers[number].kill()  # needed if the receiver wrote nothing
        self.heal_all()
        self.dead.add(number)
        self.well_at = len(self.steps) + LONGEST_TROUBLE

    @rule(numbers=replicas, what=st.sampled_from(TROUBLES))
    def trouble(self, numbers: Sequence[int], what: str) -> None:
        self.say(f"for {numbers}: {what}")
        whose, _, kind = what.partition(" ")
        for number in numbers:
            if what == LOST:
                self.deaf[number] = True
            elif what == STALE:
                self.aws_proxies[number].fault_for = self.stale
            elif whose == "AWS":
                self.aws_proxies[number].fault_for = AWS_TROUBLES[kind]
            else:
                self.let(number, KUBERNETES_TROUBLES[kind])
        self.troubled |= set(numbers)
        self.well_at = len(self.steps) + LONGEST_TROUBLE
        if what == STALE:
            # While AWS returns old versions, the receiver cannot tell a late notification about one of them from a
            # timely one. So the order of the versions is no longer checked.
            for oracle in self.oracles.values():
                oracle.ordered = False

    @precondition(lambda self: self.troubled or self.dead)
    @rule()
    def get_well(self) -> None:
        self.steps.append("       heal everything, and start whoever is dead")
        self.heal_all()
        for number in sorted(self.dead):
            self.receivers[number].start()
        self.dead.clear()

    def heal_all(self) -> None:
        for number in range(2):
            self.aws_proxies[number].heal()
            self.kubernetes[number].heal()
            self.deaf[number] = False
            self.let(number)
        self.troubled.clear()

    def let(self, number: int, trouble: Trouble = lambda call: None) -> None:
        """Pass on a replica's requests to Kubernetes, except where ``trouble`` injects a fault. While the replica is
        deaf, drop the events of its watches."""

        def fault(call: Call) -> Fault:
            hears = Edit(lambda line: None if self.deaf[number] else line) if call.watch else None
            return trouble(call) or hears

        self.kubernetes[number].fault_for = fault

    def stale(self, call: Call) -> Fault:
        """Answer reads with the version that had the label before the label was last moved."""
        if call.action == "GetSecretValue":
            return Reply(200, self.version_before(call.content["SecretId"]), AWS_JSON)
        if call.action == "BatchGetSecretValue":
            values = [self.version_before(each) for each in call.content["SecretIdList"]]
            return Reply(200, {"SecretValues": values, "Errors": []}, AWS_JSON)
        return None

    def version_before(self, secret_id: str) -> dict[str, str]:
        version = self.aws.previous(secret_id)
        value = {"VersionId": version.version_id, "SecretString": text_of(version.value)}
        return {"ARN": version.arn, "Name": version.secret_id, **value}

    # The cluster

    def kubectl(self, *arguments: str) -> None:
        self.env.cluster.kubectl(*arguments, "-n", self.env.namespace)

    def named(self, name: str) -> str:
        """Return the name or ARN under which bindings name an AWS secret."""
        return self.aws.arns[name] if name == STAYS else self.aws.id_of(name)

    def bind(self, name: str, to: str, binding: str) -> None:
        more = {"keyturn.dev/data": binding} if binding else {}
        self.env.cluster.create([secret(self.env.namespace, name, self.named(to), **more)])
        self.bound[name] = {"to": to, "binding": binding, "label": True}

    def deploy(self, name: str, what: dict[str, str | None]) -> None:
        self.env.cluster.create([workload(self.env.namespace, name, {"container": container_of(what)})])
        self.reads[name] = what

    @rule(name=st.sampled_from(SECRETS), to=aws_names, binding=bindings)
    def bind_or_remove(self, name: str, to: str, binding: str) -> None:
        if name in self.bound:
            self.say(f"delete {name}")
            self.kubectl("delete", "secret", name)
            del self.bound[name]
        else:
            self.say(f"create {name}, bound to {to}: {binding!r}")
            self.bind(name, to, binding)

    @rule(name=st.sampled_from(SECRETS), binding=bindings)
    def edit(self, name: str, binding: str) -> None:
        if name in self.bound:
            self.say(f"edit the binding of {name}: {binding!r}")
            said = f"keyturn.dev/data={binding}" if binding else "keyturn.dev/data-"
            self.kubectl("annotate", "--overwrite", "secret", name, said)
            self.bound[name]["binding"] = binding

    @rule(name=st.sampled_from(SECRETS), to=aws_names)
    def point(self, name: str, to: str) -> None:
        if name in self.bound:
            self.say(f"point {name} to {to}")
            self.kubectl("annotate", "--overwrite", "secret", name, f"keyturn.dev/secret-id={self.named(to)}")
            self.bound[name]["to"] = to

    @rule(name=st.sampled_from(SECRETS))
    def relabel(self, name: str) -> None:
        if name in self.bound:
            there = self.bound[name]["label"]
            self.say(f"take the label off {name}" if there else f"put the label back on {name}")
            self.kubectl("label", "secret", name, "keyturn.dev/bind-" if there else "keyturn.dev/bind=true")
            self.bound[name]["label"] = not there

    @rule(name=st.sampled_from(SECRETS), key=st.sampled_from((*KEYS, "mine")), remove=st.booleans())
    def tamper(self, name: str, key: str, remove: bool) -> None:
        if name in self.bound:
            self.say(f"{'remove' if remove else 'write'} {key} of {name} by hand")
            edited = {"data": {key: None}} if remove else {"stringData": {key: self.env.new_value("by-hand")}}
            patch = {"metadata": {"annotations": {HAND: str(len(self.steps))}}, **edited}
            self.kubectl("patch", "secret", name, "--type=merge", "-p", text_of(patch))

    @rule(name=st.sampled_from(WORKLOADS), what=reads)
    def deploy_or_edit(self, name: str, what: dict[str, str | None]) -> None:
        if name in self.reads:
            self.say(f"let {name} read {what}")
            pod = workload(self.env.namespace, name, {"container": container_of(what)})["spec"]["template"]["spec"]
            patch = [{"op": "replace", "path": "/spec/template/spec/containers", "value": pod["containers"]}]
            self.kubectl("patch", "deployment", name, "--type=json", "-p", text_of(patch))
            self.reads[name] = what
        else:
            self.say(f"deploy {name}, which reads {what}")
            self.deploy(name, what)

    @rule(name=st.sampled_from(WORKLOADS))
    def undeploy(self, name: str) -> None:
        if name in self.reads:
            self.say(f"delete {name}")
            self.kubectl("delete", "deployment", name)
            del self.reads[name]

    # The oracle

    @invariant()
    def nothing_was_wrong_so_far(self) -> None:
        workloads = [self.env.history.states("deployments", name) for name in WORKLOADS]
        self.look_at_secrets()
        try:
            self.look_at(workloads)
        except AssertionError:
            self.env.let_settle()  # there are two watches, and one may lag behind the other
            self.look_at_secrets()
            self.look_at(workloads)

    def look_at_secrets(self) -> None:
        for name in SECRETS:
            self.oracles[name].check(self.env.history.states("secrets", name))

    def look_at(self, workloads: Sequence[Sequence[Any]]) -> None:
        for states in workloads:
            check_consumer(states, self.oracles)

    def teardown(self) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, UnsatisfiedAssumption):
            return
        try:
            if error is None:
                self.settle()
        except Exception as failure:
            error = failure
            raise
        finally:
            if isinstance(error, Exception):
                error.add_note("\n".join(self.story()))
                self.failures.append(error)
            self.stack.close()

    def settle(self) -> None:
        """End all faults, deliver the remaining notifications, and wait until the cluster matches AWS."""
        self.say("settle")
        self.get_well()
        self.env.expire_lease()  # a killed replica may still hold the Lease
        for told in self.later:
            self.sender.send(told)
        for name, standing in self.aws.lifecycle.items():
            # If the notification was lost, only the next full sweep would notice the deletion, up to an hour later.
            if standing == GONE:
                self.tell(name, "at once", EventType.DELETED)
        eventually(lambda: self.sender.idle, 60)
        end = time.monotonic() + 60
        while lacking := list(self.lacking()):
            assert time.monotonic() < end, f"not settled: {lacking}"
            time.sleep(0.1)
        self.env.let_settle()
        assert not list(self.lacking())
        self.env.deliveries.bodies += self.sender.replies
        self.env.assert_no_value_leaked()

    def lacking(self) -> Iterator[str]:
        """Yield a description of each difference from the state that AWS implies."""
        served = {name: bound for name, bound in self.bound.items() if bound["label"]}
        for name, bound in served.items():
            held, told = self.env.history.current(name)
            status = told.get("keyturn.dev/status", "").partition(":")[0]
            try:
                meant = self.meant(bound, told)
            except ExpectedError as reason:
                if status != str(reason):
                    yield f"{name} says {status!r} and not {reason}"
                continue
            if {key: held.get(key) for key in meant} != meant:
                yield f"{name} does not hold what it should"
            if held.keys() - meant.keys() - self.oracles[name].foreign:
                yield f"{name} holds more than it should"
            if status != "ok":
                yield f"{name} says {status!r} and not ok"
        try:
            self.nothing_was_wrong_so_far()
            for name, what in self.reads.items():
                settled = [each for each in what if each in served]
                check_consumer(self.env.history.states("deployments", name), self.oracles, settled)
        except AssertionError as error:
            yield str(error)

    def meant(self, bound: Mapping[str, Any], told: Mapping[str, str]) -> dict[str, bytes]:
        """Return the data that a bound Secret should hold. If it should keep its old data, raise ExpectedError with the
        reason."""
        standing = self.aws.lifecycle[bound["to"]]
        try:
            found = rendered(bound["binding"], self.aws.current(bound["to"]).value)
        except ExpectedError as reason:
            if standing == ALIVE or str(reason) == "InvalidBinding":
                raise
        if standing != ALIVE:
            raise ExpectedError({SCHEDULED: "SourcePendingDeletion", GONE: "SourceNotFound"}[standing])
        known = json.loads(told.get(REVISIONS, "{}")).keys()
        same_binding = told.get(BINDING_HASH) == binding_hash(told)
        text = "value" in (*known, *found)  # a text may become JSON, and JSON a text
        if not bound["binding"] and known and not known & found.keys() and same_binding and not text:
            raise ExpectedError("InvalidValue")  # the Secret would lose every key that Keyturn has ever filled
        return found

    # Output

    def say(self, step: str) -> None:
        self.steps.append(f"{time.monotonic() - self.begun:6.2f} {step}")
        if (self.troubled or self.dead) and len(self.steps) >= self.well_at:
            self.get_well()

    def story(self) -> Iterator[str]:
        yield from ("The history:", *self.steps)
        for resource, names in (("secrets", SECRETS), ("deployments", WORKLOADS)):
            for name in names:
                yield from (f"The states of {name}:", *lines_of(self.env.history.states(resource, name)))
        for receiver in self.env.receivers:
            lines = [line for line in receiver.log.splitlines() if '"swept"' not in line]
            yield from (f"The end of the log of {receiver.name}:", *lines[-40:])


def container_of(what: Mapping[str, str | None]) -> dict[str, Any]:
    """Return a container that reads these Secrets: the whole Secret if the key is None, otherwise that key alone."""
    keys = [{"name": name, "key": key} for name, key in what.items() if key is not None]
    return {
        "envFrom": [{"secretRef": {"name": name}} for name, key in what.items() if key is None],
        "env": [{"name": "_".join(ref.values()), "valueFrom": {"secretKeyRef": ref}} for ref in keys],
    }


@pytest.mark.long
@pytest.mark.fault("all")
@pytest.mark.parametrize("number", range(HISTORIES))
def test_random_history_ends_as_aws_implies(
    number: int, control_plane: ControlPlane, session_aws: LocalAws, signing_key_id: str, tmp_path: Path
) -> None:
    """Random histories mix rotations, roll-backs and deletions in AWS, edits of bindings, Secrets and consumers, kills
    of two receivers, faults of AWS, Kubernetes and watches, and notifications that come late, twice, out of order or
    never. Every intermediate state is consistent, and each history ends in the state that AWS implies."""
    plays = itertools.count()
    failures: list[Exception] = []

    @seed(number)
    def history() -> History:
        if failures:  # Hypothesis would replay the failed history, but the replay may happen to take another course
            raise failures[0]
        stack = ExitStack()

        def make_env() -> FaultEnv:
            directory = tmp_path / str(next(plays))
            directory.mkdir()
            return stack.enter_context(FaultEnv.start(control_plane, session_aws, signing_key_id, directory, {}))

        return History(make_env, stack, failures)

    try:
        run_state_machine_as_test(history, settings=ONE_HISTORY)
    except Exception:
        if failures:
            raise failures[0] from None
        raise
    assert next(plays) >= 1
