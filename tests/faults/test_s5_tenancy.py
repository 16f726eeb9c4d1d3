"""S5 and S8: a tenant may write Secrets, ServiceAccounts and workloads in its own namespace. It gets no secret of
another tenant, and learns nothing about one."""

import base64
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from uuid import uuid4

import pytest

from keyturn_contract.message import EventType
from keyturn_local.aws.rotation import rotate
from keyturn_local.aws.server import SIGNING_KEY
from support.cluster_state import annotations_of, data_of, warnings_of
from support.fault_env import FaultEnv
from support.manifests import secret
from support.tenant_roles import ACCOUNT, Sts, account, role
from support.wait import eventually

ALLOW = "keyturn.dev/allow-secrets"


def asked(env: FaultEnv, about: str) -> list[str]:
    """Return the AWS actions that have been called about a secret so far."""
    return [call.action for call in env.aws_proxy.calls if call.action and call.about(about)]


def other_team(env: FaultEnv, *names: str) -> tuple[str, dict[str, str]]:
    """Create AWS secrets that belong to another team. Return the team's prefix, and the ARNs by name."""
    team = f"other-{uuid4().hex[:6]}"
    made = {
        name: env.client.create_secret(Name=f"{team}/{name}", SecretString=env.new_value("theirs")) for name in names
    }
    return team, {name: str(each["ARN"]) for name, each in made.items()}


def another_namespace(env: FaultEnv, allow: str | None) -> str:
    """Create a namespace whose annotation allows the secrets in ``allow`` (no annotation if None), and return its
    name."""
    name = f"{env.namespace}-{uuid4().hex[:4]}"
    annotations = {} if allow is None else {ALLOW: allow}
    env.create_objects(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "annotations": annotations}}
    )
    return name


@pytest.mark.fault("S5")
def test_secret_of_another_tenant_is_refused_without_asking_aws(env: FaultEnv) -> None:
    """A tenant names another tenant's secret by name, by ARN, by partial ARN, or by a name that merely resembles its
    own. The receiver refuses in the same words whether or not the secret exists, and does not ask AWS."""
    receiver = env.receiver()
    env.create_bound_secret("own")
    team, arns = other_team(env, "db")
    env.client.create_secret(Name=f"x{env.namespace}/db", SecretString=env.new_value("theirs"))
    place = f"arn:aws:secretsmanager:us-east-1:{ACCOUNT}:secret"
    pairs = {
        "by-name": (f"{team}/db", f"{team}/no"),
        "by-arn": (arns["db"], f"{place}:{team}/no-AbCdEf"),
        "by-partial-arn": (f"{place}:{team}/db", f"{place}:{team}/no"),
        "by-beginning": (f"x{env.namespace}/db", f"x{env.namespace}/no"),
        "without-slash": (env.namespace, f"{env.namespace}-no"),
        "in-capitals": (f"{env.namespace.upper()}/own", f"{env.namespace.upper()}/no"),
        "as-a-path": (f"../{env.namespace}/own", f"../{env.namespace}/no"),
    }
    env.cluster.create(
        secret(env.namespace, f"{how}-{which}", secret_id)
        for how, pair in pairs.items()
        for which, secret_id in zip(("there", "none"), pair, strict=True)
    )
    for how, pair in pairs.items():
        words = set()
        for which, secret_id in zip(("there", "none"), pair, strict=True):
            name = f"{how}-{which}"
            told = env.status(name)
            assert told.startswith(f"NotAllowed: namespace {env.namespace} is not allowed to read {secret_id}")
            words.add(told.replace(f"read {secret_id};", "..."))
            event = eventually(lambda name=name: warnings_of(env.cluster, env.namespace, name))["NotAllowed"]
            words.add("NotAllowed: " + event.replace(f"read {secret_id};", "..."))
            assert data_of(env.cluster, env.namespace, name) == {}
        assert len(words) == 1, how
    # A notification about the other tenant's secret reveals and changes nothing, either.
    version_id = rotate(env.client, f"{team}/db", env.new_value("theirs"))
    answer = env.send(env.notification_without_version(arns["db"], EventType.CHANGED))
    assert (answer.outcome, answer.results[0].reason) == ("ignored", "no Secret is bound to it")
    assert asked(env, team) == asked(env, f"x{env.namespace}") == asked(env, env.namespace.upper()) == []
    assert version_id not in receiver.log
    env.send_until_accepted(env.rotate("own"))
    env.assert_no_value_leaked()


@pytest.mark.fault("S5")
def test_ambiguous_partial_arn_reads_no_value(env: FaultEnv) -> None:
    """A namespace may read one secret, and names a second one by a partial ARN that looks like the full ARN of the
    first. The receiver reads no value, and answers as if the second secret did not exist."""
    env.receiver()
    team, arns = other_team(env, "db", "db-master")
    namespace = another_namespace(env, f"{team}/db")
    place = f"arn:aws:secretsmanager:us-east-1:{ACCOUNT}:secret:{team}"
    env.cluster.create(
        [
            secret(namespace, "right", arns["db"]),
            secret(namespace, "there", f"{place}/db-master"),
            secret(namespace, "none", f"{place}/db-absent"),
        ]
    )
    eventually(lambda: env.status("right", namespace) == "ok")  # waits until the receiver has seen the namespace
    assert env.status("there", namespace).replace("master", "...") == env.status("none", namespace).replace(
        "absent", "..."
    )
    assert data_of(env.cluster, namespace, "there") == {}
    assert "GetSecretValue" not in asked(env, "db-master") + asked(env, "db-absent")
    described = asked(env, arns["db"]).count("DescribeSecret")
    version_id = rotate(env.client, f"{team}/db", env.new_value("next"))
    told = env.notification_without_version(arns["db"], EventType.CHANGED)
    assert env.send_until_accepted(told).outcome == "applied"
    assert version_id in annotations_of(env.cluster, "secret", namespace, "right")["keyturn.dev/version-ids"]
    # One more confirms the change, because the event names no version.
    assert (described, asked(env, arns["db"]).count("DescribeSecret")) == (1, 2)
    env.assert_no_value_leaked()


@pytest.mark.fault("S5")
def test_forged_record_of_a_tenant_asks_aws_nothing(make_env: Callable[..., FaultEnv]) -> None:
    """A tenant writes another tenant's ARN into the record on its own Secret, and adds `on-delete: delete`. The
    receiver does not ask AWS about that ARN, so the Secret's status is the same whether or not the other tenant's
    secret exists."""
    env = make_env(deletions={"enabled": True})
    env.receiver(KEYTURN_DELETIONS="true")
    env.create_bound_secret("own")
    team, arns = other_team(env, "db")
    nowhere = arns["db"].replace("/db-", "/no-")
    for name, arn in (("there", arns["db"]), ("none", nowhere)):
        forged = {
            "keyturn.dev/version-ids": json.dumps({f"{arn}#AWSCURRENT": str(uuid4())}),
            "keyturn.dev/on-delete": "delete",
        }
        env.cluster.create([secret(env.namespace, name, f"{env.namespace}/missing", **forged)])
    words = {env.status(name).replace(arn, "...") for name, arn in (("there", arns["db"]), ("none", nowhere))}
    assert len(words) == 1
    assert words.pop().startswith("NotAllowed: ")
    # A delivery neither waits for such a binding nor mentions it.
    answer = env.send(env.notification_without_version(arns["db"], EventType.CHANGED))
    assert (answer.status, answer.outcome) == (200, "ignored")
    assert asked(env, team) == []
    env.assert_no_value_leaked()


@pytest.mark.fault("S5")
def test_arn_of_another_account_or_region_never_reads_the_local_name(env: FaultEnv) -> None:
    """A binding names an allowed secret by an ARN of another region or account. The Secret gets the value from there if
    IAM allows the read, and never gets the value of the local secret with the same name."""
    env.receiver()
    env.create_bound_secret("own")
    here = env.client.describe_secret(SecretId=f"{env.namespace}/own")["ARN"]
    theirs = env.new_value("elsewhere")
    there = env.client_in("eu-west-1").create_secret(Name=f"{env.namespace}/own", SecretString=theirs)["ARN"]
    env.cluster.create(
        [
            secret(env.namespace, "region", there),
            secret(env.namespace, "no-region", here.replace("us-east-1", "eu-central-1")),
            secret(env.namespace, "account", here.replace(ACCOUNT, "999999999999")),
        ]
    )
    assert env.status("region") == "ok"
    assert data_of(env.cluster, env.namespace, "region") == {"value": theirs.encode()}
    for name in ("no-region", "account"):
        assert env.status(name).startswith("SourceNotFound: ")
        assert data_of(env.cluster, env.namespace, name) == {}
    # A rotation of the local secret does not change the Secret that is bound to the other region.
    assert env.send_until_accepted(env.rotate("own")).results[0].secrets == (f"{env.namespace}/own",)
    assert data_of(env.cluster, env.namespace, "region") == {"value": theirs.encode()}
    env.assert_no_value_leaked()


@pytest.mark.fault("S5")
def test_secret_of_a_credential_type_is_refused_without_asking_aws(env: FaultEnv) -> None:
    """A Secret has a type for which Kubernetes issues credentials, and is either new or has the name of a bound Secret
    that was deleted. The receiver refuses to fill it, and does not ask AWS."""
    receiver = env.receiver()
    env.create_bound_secret("own")
    env.create_bound_secret("turned", consumers=())
    env.delete_bound_secret("turned")
    # The first sweep asks AWS about all bindings, so it has to end before the calls are counted.
    eventually(lambda: receiver.metric("keyturn_sweep_seconds_count"))
    env.let_settle()
    reads = len(asked(env, env.namespace))
    kinds = {"token": "kubernetes.io/service-account-token", "turned": "kubernetes.io/service-account-token"}
    kinds["bootstrap"] = "bootstrap.kubernetes.io/token"
    for name, kind in kinds.items():
        made = secret(env.namespace, name, f"{env.namespace}/own", **{"kubernetes.io/service-account.name": "app"})
        env.cluster.create([{**made, "type": kind}])
    for name, kind in kinds.items():
        assert env.status(name).startswith(f"NotAllowed: a Secret of type {kind} is never filled")
        assert "value" not in data_of(env.cluster, env.namespace, name)
    assert len(asked(env, env.namespace)) == reads
    assert env.send_until_accepted(env.rotate("own")).results[0].secrets == (f"{env.namespace}/own",)
    assert not [name for name in kinds if "value" in data_of(env.cluster, env.namespace, name)]
    env.assert_no_value_leaked()


@pytest.mark.fault("S5")
def test_signing_key_is_refused_under_every_name(env: FaultEnv) -> None:
    """A tenant that may read every secret names Keyturn's own signing key by name, by ARN and by partial ARN. The
    receiver refuses, and does not read the key for the tenant."""
    env.receiver(KEYTURN_POLICY_DEFAULT="allow")
    env.create_bound_secret("own")
    everything, anything = another_namespace(env, "*"), another_namespace(env, None)
    arn = env.client.describe_secret(SecretId=SIGNING_KEY)["ARN"]
    reads = len(env.aws_proxy.actions("GetSecretValue", SIGNING_KEY))
    ways = {"by-name": SIGNING_KEY, "by-arn": arn, "by-partial-arn": arn[:-7]}
    namespaces = (everything, anything)
    env.cluster.create(secret(each, name, way) for each in namespaces for name, way in ways.items())
    for namespace in namespaces:
        for name in ways:
            assert env.status(name, namespace).startswith("NotAllowed: no Secret is filled from Keyturn's own")
            assert data_of(env.cluster, namespace, name) == {}
    assert len(env.aws_proxy.actions("GetSecretValue", SIGNING_KEY)) == reads
    env.cluster.create([secret(anything, "control", f"{env.namespace}/own")])
    eventually(lambda: data_of(env.cluster, anything, "control") == {"value": env.aws_value("own").encode()})
    env.assert_no_value_leaked()


@pytest.mark.fault("S5")
def test_revoked_permission_stops_the_next_rotation_until_restored(env: FaultEnv) -> None:
    """The annotation that allows a namespace to read its secrets is removed or narrowed, and the next rotation is
    neither read nor written. The Secret keeps its data, says why, and recovers once the annotation is back."""
    env.receiver()
    env.create_bound_secret()
    for allowed in (f"{ALLOW}-", f"{ALLOW}={env.namespace}/d,{env.namespace}/db2,{env.namespace}db"):
        before = data_of(env.cluster, env.namespace, "db")
        env.cluster.kubectl("annotate", "--overwrite", "namespace", env.namespace, allowed)
        eventually(lambda: env.status("db").startswith("NotAllowed: "))
        reads = len(env.aws_proxy.actions("GetSecretValue", f"{env.namespace}/db"))
        told = env.rotate()
        answer = env.send(told)
        assert (answer.status, answer.outcome) == (200, "ignored")
        env.let_settle()
        assert data_of(env.cluster, env.namespace, "db") == before
        assert len(env.aws_proxy.actions("GetSecretValue", f"{env.namespace}/db")) == reads
        env.cluster.kubectl("annotate", "--overwrite", "namespace", env.namespace, f"{ALLOW}={env.namespace}/*")
        eventually(lambda: env.is_current())
    env.wait_converged()


@pytest.mark.fault("S5")
def test_tenant_role_is_used_for_its_own_namespace_alone(make_env: Callable[..., FaultEnv]) -> None:
    """Two namespaces each have a ServiceAccount of the same name but with different roles, and some roles fail. A
    Secret that names a ServiceAccount is read with the role of that account, and never with another role or the
    receiver's own."""
    env = make_env(tenantRoles={"enabled": True})
    sts = Sts(env)
    other = another_namespace(env, None)
    names = ("mine", "theirs", "broken", "nameless", "garbled", "missing", "plain")
    arns = {name: env.create_aws_secret(name) for name in names}
    env.create_objects(
        account(env.namespace, "app", role("mine")),
        account(other, "app", role("theirs")),
        account(env.namespace, "broken", role("broken")),
        account(env.namespace, "nameless", None),
        account(env.namespace, "garbled", "x"),
    )
    bound = {"mine": "app", "broken": "broken", "nameless": "nameless", "garbled": "garbled", "missing": "missing"}
    whose = {name: (env.namespace, {"keyturn.dev/service-account": each}) for name, each in bound.items()}
    whose["theirs"] = (other, {"keyturn.dev/service-account": "app"})
    whose["plain"] = (env.namespace, {})
    env.cluster.create(
        secret(namespace, name, f"{env.namespace}/{name}", **more) for name, (namespace, more) in whose.items()
    )
    env.receiver(KEYTURN_TENANT_ROLES="true", KEYTURN_POLL_INTERVAL_SECONDS="1")
    wanted = dict.fromkeys(names, "SourceRefused: ") | dict.fromkeys(("mine", "theirs", "plain"), "ok")
    wanted |= dict.fromkeys(("nameless", "missing"), "InvalidBinding: ServiceAccount ")

    def hold() -> None:
        for name, (namespace, _) in whose.items():
            assert env.status(name, namespace).startswith(wanted[name]), name
            value = {"value": env.aws_value(name).encode()} if wanted[name] == "ok" else {}
            eventually(
                lambda name=name, namespace=namespace, value=value: data_of(env.cluster, namespace, name) == value
            )
        for name, reader in (("mine", role("mine")), ("theirs", role("theirs")), ("plain", "testing")):
            assert sts.readers(env, f"{env.namespace}/{name}") == {reader}
        for name in ("broken", "nameless", "garbled", "missing"):
            assert sts.readers(env, f"{env.namespace}/{name}") == set()

    hold()
    for name in names:
        rotate(env.client, f"{env.namespace}/{name}", env.new_value("next"))
        answer = env.send(env.notification_without_version(arns[name], EventType.CHANGED))
        assert answer.status == 200  # a role that does not work delays no delivery
    hold()
    for name in names:
        rotate(env.client, f"{env.namespace}/{name}", env.new_value("unheard"))  # only the poller finds this
    hold()
    for namespace, taken in ((env.namespace, role("mine")), (other, role("theirs"))):
        assert sts.tokens[taken]["sub"] == f"system:serviceaccount:{namespace}:app"
        assert sts.tokens[taken]["aud"] == ["sts.amazonaws.com"]
    env.assert_no_value_leaked()


@pytest.mark.fault("S5")
@pytest.mark.parametrize("enabled", [False, True], ids=["without tenants' roles", "with them"])
def test_service_account_of_another_namespace_is_refused(make_env: Callable[..., FaultEnv], enabled: bool) -> None:
    """A tenant names a ServiceAccount of another namespace by a path or by its full name. The receiver reads nothing,
    and does not even ask Kubernetes for the account."""
    env = make_env(tenantRoles={"enabled": True})
    other = another_namespace(env, None)
    env.create_objects(account(other, "app", role("theirs")))
    env.create_aws_secret("own")
    named = {
        "path": f"../../{other}/serviceaccounts/app",
        "query": f"app?x=/{other}/",
        "slash": f"{other}/app",
        "full": f"system:serviceaccount:{other}:app",
        "dots": "..",
        "empty": "",
    }
    env.cluster.create(
        secret(env.namespace, name, f"{env.namespace}/own", **{"keyturn.dev/service-account": each})
        for name, each in named.items()
    )
    # The namespaces of an earlier test, with their accounts, may not be gone yet.
    namespaces = {"KEYTURN_NAMESPACES": f"{env.namespace},{other}"}
    receiver = env.receiver(KEYTURN_TENANT_ROLES=str(enabled).lower(), KEYTURN_POLL_INTERVAL_SECONDS="1", **namespaces)
    for name in named:
        assert env.status(name).startswith("InvalidBinding: annotation keyturn.dev/service-account is not the name")
        assert data_of(env.cluster, env.namespace, name) == {}
    env.client.put_secret_value(SecretId=f"{env.namespace}/own", SecretString=env.new_value("next"))
    sweeps = receiver.metric("keyturn_sweeps_total")
    env.bind_secret("control", to="own")
    eventually(lambda: env.is_current("control"))
    eventually(lambda: receiver.metric("keyturn_sweeps_total", outcome="ok") >= sweeps + 2)
    assert not [call for call in env.kubernetes_proxy.calls if "/serviceaccounts/" in call.path]
    assert not [call for call in env.aws_proxy.calls if b"AssumeRole" in call.body]
    env.assert_no_value_leaked()


def asked_for(env: FaultEnv, secret_ids: Collection[str]) -> list[str]:
    """Return the AWS actions that were called with any of these secret ids."""
    found = []
    for call in env.aws_proxy.calls:
        named = {call.content.get("SecretId"), *call.content.get("SecretIdList", [])} if call.action else set()
        found += [call.action] if named & set(secret_ids) else []
    return found


@pytest.mark.long
@pytest.mark.fault("S8")
def test_disallowed_secret_is_filled_on_no_path(make_env: Callable[..., FaultEnv]) -> None:
    """Bindings name secrets whose names match the namespace's globs only partially, with and without a tenant's role.
    The receiver never fills the Secrets of these bindings, whatever triggers the reconcile: a start, a creation, a
    notification, drift, a restore in AWS or the poller."""
    env = make_env(tenantRoles={"enabled": True})
    Sts(env)
    team = env.namespace
    env.cluster.kubectl("annotate", "--overwrite", "namespace", team, f"{ALLOW}={team}/*, {team}.one")
    env.create_objects(account(team, "app", role("app")))
    foreign = (f"x{team}/db", team, f"{team}-db", f"{team}.one2", f"a{team}.one", f"{team}xone", f"{team}.on")
    own = (f"{team}/db", f"{team}/a/b", f"{team}.one")
    arns = {
        name: str(env.client.create_secret(Name=name, SecretString=env.new_value("first"))["ARN"])
        for name in (*foreign, *own)
    }
    bound: dict[str, str] = {}  # maps each Secret to its AWS secret

    def bind(when: str) -> None:
        made = []
        for number, name in enumerate((*foreign, *own)):
            for reader, more in (("us", {}), ("role", {"keyturn.dev/service-account": "app"})):
                for way, secret_id in (("name", name), ("arn", arns[name])):
                    target = f"{when}-{number}-{reader}-{way}"
                    bound[target] = name
                    made.append(secret(team, target, secret_id, **more))
        env.cluster.create(made)

    def value(name: str) -> bytes:
        return str(env.client.get_secret_value(SecretId=name)["SecretString"]).encode()

    def hold(path: str, kept: Mapping[str, bytes] | None = None) -> None:
        wanted = {name: {"value": value(name)} for name in own}

        def filled() -> bool:
            listed = {each["metadata"]["name"]: each for each in env.cluster.list("secrets", team)}
            for target, name in bound.items():
                data = {key: base64.b64decode(text) for key, text in (listed[target].get("data") or {}).items()}
                if name in foreign:
                    assert data == (kept or {}), (path, target)
                elif data != wanted[name]:
                    return False
            told = {target: listed[target]["metadata"]["annotations"].get("keyturn.dev/status", "") for target in bound}
            return all(told[target].startswith("NotAllowed") for target, name in bound.items() if name in foreign)

        eventually(filled, 30)
        assert asked_for(env, [*foreign, *(arns[name] for name in foreign)]) == [], path

    def tell(kind: EventType, *outcomes: str) -> None:
        for name in (*foreign, *own):
            told = env.notification_without_version(arns[name], kind)
            answer = env.send_until_accepted(replace(told, data=replace(told.data, name=name)))
            assert answer.outcome in (("ignored",) if name in foreign else outcomes), name

    bind("early")
    receiver = env.receiver(KEYTURN_TENANT_ROLES="true")
    hold("at the start")
    bind("late")
    hold("when new")
    for name in (*foreign, *own):
        env.client.put_secret_value(SecretId=name, SecretString=env.new_value("told"))
    tell(EventType.CHANGED, "applied")
    hold("by a notification")
    edited = json.dumps({"data": {"value": base64.b64encode(b"by hand").decode()}})
    for target in bound:
        env.cluster.kubectl("patch", "secret", target, "-n", team, "-p", edited)
    hold("by drift", {"value": b"by hand"})
    for name in (*foreign, *own):
        env.client.delete_secret(SecretId=name, RecoveryWindowInDays=7)
    tell(EventType.DELETED, "ignored")  # for a deletion in AWS, the allowed Secrets only change their status
    for name in (*foreign, *own):
        env.client.restore_secret(SecretId=name)
    tell(EventType.RESTORED, "applied", "unchanged")
    hold("when restored", {"value": b"by hand"})
    receiver.stop()
    env.expire_lease()
    for name in (*foreign, *own):
        env.client.put_secret_value(SecretId=name, SecretString=env.new_value("unheard"))
    env.receiver(KEYTURN_TENANT_ROLES="true", KEYTURN_POLL_INTERVAL_SECONDS="1")
    hold("by the poller", {"value": b"by hand"})
    env.assert_no_value_leaked()


@pytest.mark.fault("S5")
def test_what_a_tenant_writes_reaches_no_terminal_and_finds_no_secret(env: FaultEnv) -> None:
    """A tenant writes control characters into an annotation of a Secret, and another team's secret into the record of
    another Secret. The status and the Events of the first Secret are printable. The second Secret has the same status
    reason whether or not that secret exists, and polls do not reconcile it."""
    receiver = env.receiver(KEYTURN_POLL_INTERVAL_SECONDS="1")
    env.create_bound_secret("own")
    _, arns = other_team(env, "db")
    hostile = {"keyturn.dev/version-stage": "X\x1b[2J\x07\u202eY"}
    env.cluster.create([secret(env.namespace, "hostile", f"{env.namespace}/own", **hostile)])
    for name, arn in (("there", arns["db"]), ("none", arns["db"].replace("/db-", "/no-"))):
        forged = {"keyturn.dev/version-ids": json.dumps({f"{arn}#AWSCURRENT": str(uuid4())})}
        env.cluster.create([secret(env.namespace, name, f"{env.namespace}/missing", **forged)])
    status = eventually(
        lambda: annotations_of(env.cluster, "secret", env.namespace, "hostile").get("keyturn.dev/status")
    )
    assert r"\x1b[2J\x07\u202eY" in status
    assert all(line.isprintable() for line in status.split("\n"))
    events = eventually(lambda: warnings_of(env.cluster, env.namespace, "hostile"))
    assert all(text.isprintable() for text in events.values())
    assert {env.status(name).partition(":")[0] for name in ("there", "none")} == {"SourceNotFound"}
    env.let_settle()
    causes = receiver.metric("keyturn_reconciles_total", cause="poll", outcome="SourceNotFound")
    sweeps = receiver.metric("keyturn_sweeps_total", outcome="ok")
    eventually(lambda: receiver.metric("keyturn_sweeps_total", outcome="ok") >= sweeps + 3)
    assert receiver.metric("keyturn_reconciles_total", cause="poll", outcome="SourceNotFound") == causes
    env.assert_no_value_leaked()


@pytest.mark.fault("S8")
def test_policy_over_several_lines_is_understood_and_its_end_is_said(env: FaultEnv) -> None:
    """A cluster admin writes the globs of a namespace over several lines, and revokes them later. The Secret is filled,
    and its status then says that it keeps its value."""
    env.receiver()
    env.create_bound_secret("own", consumers=())
    namespace = another_namespace(env, f"nothing/*\n  {env.namespace}/own\n")
    env.cluster.create([secret(namespace, "db", f"{env.namespace}/own")])
    eventually(lambda: env.status("db", namespace) == "ok")
    env.cluster.kubectl("annotate", "namespace", namespace, f"{ALLOW}-")
    eventually(lambda: env.status("db", namespace).startswith("NotAllowed: "))
    assert "the Secret keeps its value: delete it to take the value away" in env.status("db", namespace)
    assert data_of(env.cluster, namespace, "db") == {"value": env.aws_value("own").encode()}
