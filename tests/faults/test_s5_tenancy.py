"""S5 and S8: who may write Secrets, ServiceAccounts and workloads in one namespace gets nothing of another's, and
learns nothing of it."""

import base64
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs
from uuid import uuid4

import pytest

from keyturn_contract.message import EventType
from keyturn_local.aws.rotation import rotate
from keyturn_local.aws.server import SIGNING_KEY
from support.fault_env import Scene
from support.fault_proxy import Call, Edit, Fate, Reply
from support.manifests import annotations_of, data_of, eventually, secret, warnings_of

ALLOW = "keyturn.dev/allow-secrets"
ACCOUNT = "123456789012"


def asked(scene: Scene, about: str) -> list[str]:
    """What AWS was asked about a secret so far, by name."""
    return [call.action for call in scene.aws_proxy.calls if call.action and call.about(about)]


def other_team(scene: Scene, *names: str) -> tuple[str, dict[str, str]]:
    """Create AWS secrets of another team; its prefix, and the ARNs by name."""
    team = f"other-{uuid4().hex[:6]}"
    made = {
        name: scene.client.create_secret(Name=f"{team}/{name}", SecretString=scene.value("theirs")) for name in names
    }
    return team, {name: str(each["ARN"]) for name, each in made.items()}


def another_namespace(scene: Scene, allow: str | None) -> str:
    """Create a namespace that may read what ``allow`` says."""
    name = f"{scene.namespace}-{uuid4().hex[:4]}"
    annotations = {} if allow is None else {ALLOW: allow}
    scene.make({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "annotations": annotations}})
    return name


@pytest.mark.fault("S5")
def test_a_tenant_names_another_tenants_secret(scene: Scene) -> None:
    """A tenant names another's secret by name, ARN, partial ARN, and by names that only look like its own: refused in
    the same words whether there is one or not, and AWS is not asked."""
    receiver = scene.receiver()
    scene.given("own")
    team, arns = other_team(scene, "db")
    scene.client.create_secret(Name=f"x{scene.namespace}/db", SecretString=scene.value("theirs"))
    place = f"arn:aws:secretsmanager:us-east-1:{ACCOUNT}:secret"
    pairs = {
        "by-name": (f"{team}/db", f"{team}/no"),
        "by-arn": (arns["db"], f"{place}:{team}/no-AbCdEf"),
        "by-partial-arn": (f"{place}:{team}/db", f"{place}:{team}/no"),
        "by-beginning": (f"x{scene.namespace}/db", f"x{scene.namespace}/no"),
        "without-slash": (scene.namespace, f"{scene.namespace}-no"),
        "in-capitals": (f"{scene.namespace.upper()}/own", f"{scene.namespace.upper()}/no"),
        "as-a-path": (f"../{scene.namespace}/own", f"../{scene.namespace}/no"),
    }
    scene.cluster.create(
        secret(scene.namespace, f"{how}-{which}", secret_id)
        for how, pair in pairs.items()
        for which, secret_id in zip(("there", "none"), pair, strict=True)
    )
    for how, pair in pairs.items():
        words = set()
        for which, secret_id in zip(("there", "none"), pair, strict=True):
            name = f"{how}-{which}"
            told = scene.status(name)
            assert told.startswith(f"NotAllowed: namespace {scene.namespace} is not allowed to read {secret_id}")
            words.add(told.replace(f"read {secret_id}:", "..."))
            event = eventually(lambda name=name: warnings_of(scene.cluster, scene.namespace, name))["NotAllowed"]
            words.add("NotAllowed: " + event.replace(f"read {secret_id}:", "..."))
            assert data_of(scene.cluster, scene.namespace, name) == {}
        assert len(words) == 1, how
    # Nor does a notification about it tell, or change, anything.
    version_id = rotate(scene.client, f"{team}/db", scene.value("theirs"))
    answer = scene.send(scene.about(arns["db"], EventType.CHANGED))
    assert (answer.outcome, answer.results[0].reason) == ("ignored", "no Secret is bound to it")
    assert asked(scene, team) == asked(scene, f"x{scene.namespace}") == asked(scene, scene.namespace.upper()) == []
    assert version_id not in receiver.log
    scene.deliver(scene.rotate("own"))
    scene.oracle_of_words()


@pytest.mark.fault("S5")
def test_an_arn_that_may_be_read_in_two_ways(scene: Scene) -> None:
    """A namespace that may read exactly one secret names, by partial ARN, another whose name goes on as an ARN might:
    no value is read, and it is spoken of as if it were not there."""
    scene.receiver()
    team, arns = other_team(scene, "db", "db-master")
    namespace = another_namespace(scene, f"{team}/db")
    place = f"arn:aws:secretsmanager:us-east-1:{ACCOUNT}:secret:{team}"
    scene.cluster.create(
        [
            secret(namespace, "right", arns["db"]),
            secret(namespace, "there", f"{place}/db-master"),
            secret(namespace, "none", f"{place}/db-absent"),
        ]
    )
    eventually(lambda: scene.status("right", namespace) == "ok")  # once the namespace has been seen
    assert scene.status("there", namespace).replace("master", "...") == scene.status("none", namespace).replace(
        "absent", "..."
    )
    assert data_of(scene.cluster, namespace, "there") == {}
    assert "GetSecretValue" not in asked(scene, "db-master") + asked(scene, "db-absent")
    described = asked(scene, arns["db"]).count("DescribeSecret")
    version_id = rotate(scene.client, f"{team}/db", scene.value("next"))
    told = scene.about(arns["db"], EventType.CHANGED)
    assert scene.deliver(told).outcome == "applied"
    assert version_id in annotations_of(scene.cluster, "secret", namespace, "right")["keyturn.dev/version-ids"]
    assert asked(scene, arns["db"]).count("DescribeSecret") == described == 1
    scene.oracle_of_words()


@pytest.mark.fault("S5")
def test_a_record_that_its_owner_has_written(set_scene: Callable[..., Scene]) -> None:
    """A tenant writes another's ARN into what its Secret says it was made from, with `on-delete: delete`: AWS is asked
    nothing about it, and the words are the same whether there is one or not."""
    scene = set_scene(deletions={"enabled": True})
    scene.receiver(KEYTURN_DELETIONS="true")
    scene.given("own")
    team, arns = other_team(scene, "db")
    nowhere = arns["db"].replace("/db-", "/no-")
    for name, arn in (("there", arns["db"]), ("none", nowhere)):
        forged = {
            "keyturn.dev/version-ids": json.dumps({f"{arn}#AWSCURRENT": str(uuid4())}),
            "keyturn.dev/on-delete": "delete",
        }
        scene.cluster.create([secret(scene.namespace, name, f"{scene.namespace}/missing", **forged)])
    words = {scene.status(name).replace(arn, "...") for name, arn in (("there", arns["db"]), ("none", nowhere))}
    assert len(words) == 1
    assert words.pop().startswith("NotAllowed: ")
    # Nobody's delivery waits for such a binding, or hears of it.
    answer = scene.send(scene.about(arns["db"], EventType.CHANGED))
    assert (answer.status, answer.outcome) == (200, "ignored")
    assert asked(scene, team) == []
    scene.oracle_of_words()


@pytest.mark.fault("S5")
def test_the_same_name_elsewhere(scene: Scene) -> None:
    """An ARN of another region or account whose name is allowed: what is there, as IAM lets it be read, and never what
    has the same name here."""
    scene.receiver()
    scene.given("own")
    here = scene.client.describe_secret(SecretId=f"{scene.namespace}/own")["ARN"]
    theirs = scene.value("elsewhere")
    there = scene.client_of("eu-west-1").create_secret(Name=f"{scene.namespace}/own", SecretString=theirs)["ARN"]
    scene.cluster.create(
        [
            secret(scene.namespace, "region", there),
            secret(scene.namespace, "no-region", here.replace("us-east-1", "eu-central-1")),
            secret(scene.namespace, "account", here.replace(ACCOUNT, "999999999999")),
        ]
    )
    assert scene.status("region") == "ok"
    assert data_of(scene.cluster, scene.namespace, "region") == {"value": theirs.encode()}
    for name in ("no-region", "account"):
        assert scene.status(name).startswith("SourceNotFound: ")
        assert data_of(scene.cluster, scene.namespace, name) == {}
    # A rotation here is none there.
    assert scene.deliver(scene.rotate("own")).results[0].secrets == (f"{scene.namespace}/own",)
    assert data_of(scene.cluster, scene.namespace, "region") == {"value": theirs.encode()}
    scene.oracle_of_words()


@pytest.mark.fault("S5")
def test_types_that_mint_credentials(scene: Scene) -> None:
    """A Secret of a type that Kubernetes makes credentials of, from the beginning or in the place of another: refused,
    and AWS is not asked."""
    scene.receiver()
    scene.given("own")
    scene.given("turned", consumers=())
    scene.unbind("turned")
    reads = len(asked(scene, scene.namespace))
    kinds = {"token": "kubernetes.io/service-account-token", "turned": "kubernetes.io/service-account-token"}
    kinds["bootstrap"] = "bootstrap.kubernetes.io/token"
    for name, kind in kinds.items():
        made = secret(scene.namespace, name, f"{scene.namespace}/own", **{"kubernetes.io/service-account.name": "app"})
        scene.cluster.create([{**made, "type": kind}])
    for name, kind in kinds.items():
        assert scene.status(name).startswith(f"NotAllowed: a Secret of type {kind} is never filled")
        assert "value" not in data_of(scene.cluster, scene.namespace, name)
    assert len(asked(scene, scene.namespace)) == reads
    assert scene.deliver(scene.rotate("own")).results[0].secrets == (f"{scene.namespace}/own",)
    assert not [name for name in kinds if "value" in data_of(scene.cluster, scene.namespace, name)]
    scene.oracle_of_words()


@pytest.mark.fault("S5")
def test_the_signing_key(scene: Scene) -> None:
    """A tenant that may read everything names the key that deliveries are signed with, by name, ARN and partial ARN:
    refused, and it is not read for it."""
    scene.receiver(KEYTURN_POLICY_DEFAULT="allow")
    scene.given("own")
    everything, anything = another_namespace(scene, "*"), another_namespace(scene, None)
    arn = scene.client.describe_secret(SecretId=SIGNING_KEY)["ARN"]
    reads = len(scene.aws_proxy.actions("GetSecretValue", SIGNING_KEY))
    ways = {"by-name": SIGNING_KEY, "by-arn": arn, "by-partial-arn": arn[:-7]}
    namespaces = (everything, anything)
    scene.cluster.create(secret(each, name, way) for each in namespaces for name, way in ways.items())
    for namespace in namespaces:
        for name in ways:
            assert scene.status(name, namespace).startswith("NotAllowed: no Secret is filled from Keyturn's own")
            assert data_of(scene.cluster, namespace, name) == {}
    assert len(scene.aws_proxy.actions("GetSecretValue", SIGNING_KEY)) == reads
    scene.cluster.create([secret(anything, "control", f"{scene.namespace}/own")])
    eventually(lambda: data_of(scene.cluster, anything, "control") == {"value": scene.current("own").encode()})
    scene.oracle_of_words()


@pytest.mark.fault("S5")
def test_what_was_allowed_is_taken_back(scene: Scene) -> None:
    """The namespace's annotation is taken away, and narrowed: the next rotation is not written nor read, the Secret
    keeps what it had and says why; given back, it is made good by itself."""
    scene.receiver()
    scene.given()
    for allowed in (f"{ALLOW}-", f"{ALLOW}={scene.namespace}/d,{scene.namespace}/db2,{scene.namespace}db"):
        before = data_of(scene.cluster, scene.namespace, "db")
        scene.cluster.kubectl("annotate", "--overwrite", "namespace", scene.namespace, allowed)
        eventually(lambda: scene.status("db").startswith("NotAllowed: "))
        reads = len(scene.aws_proxy.actions("GetSecretValue", f"{scene.namespace}/db"))
        told = scene.rotate()
        answer = scene.send(told)
        assert (answer.status, answer.outcome) == (200, "ignored")
        scene.settled()
        assert data_of(scene.cluster, scene.namespace, "db") == before
        assert len(scene.aws_proxy.actions("GetSecretValue", f"{scene.namespace}/db")) == reads
        scene.cluster.kubectl("annotate", "--overwrite", "namespace", scene.namespace, f"{ALLOW}={scene.namespace}/*")
        eventually(lambda: scene.in_order())
    scene.converge()


def account(namespace: str, name: str, role: str | None) -> dict[str, Any]:
    """A ServiceAccount that names an AWS role."""
    annotations = {} if role is None else {"eks.amazonaws.com/role-arn": role}
    metadata = {"namespace": namespace, "name": name, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}


def role(name: str) -> str:
    return f"arn:aws:iam::{ACCOUNT}:role/{name}"


class Sts:
    """Watches credentials being given out; refuses roles whose names begin with "broken"."""

    def __init__(self, scene: Scene) -> None:
        self.given: dict[str, str] = {}  # the role by the access key
        self.tokens: dict[str, Mapping[str, Any]] = {}  # what the web identity's token says, by role
        scene.aws_proxy.fate = self

    def __call__(self, call: Call) -> Fate:
        if b"AssumeRoleWithWebIdentity" not in call.body:
            return None
        form = parse_qs(call.body.decode())
        (taken,), (token,) = form["RoleArn"], form["WebIdentityToken"]
        payload = token.split(".")[1]
        self.tokens[taken] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        if "/broken" in taken:
            body = b"<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code></Error></ErrorResponse>"
            return Reply(403, body, {"Content-Type": "text/xml"})

        def note(answer: bytes) -> bytes:
            found = re.search(rb"<AccessKeyId>(\w+)<", answer)
            assert found
            self.given[found[1].decode()] = taken
            return answer

        return Edit(note)

    def readers(self, scene: Scene, about: str) -> set[str]:
        """With whose credentials AWS was asked about a secret: roles, or an access key that was not given out here."""
        keys = (
            call.headers["authorization"].partition("Credential=")[2].partition("/")[0]
            for call in scene.aws_proxy.calls
            if call.action and call.about(about)
        )
        return {self.given.get(key, key) for key in keys}


@pytest.mark.fault("S5")
def test_roles_of_tenants(set_scene: Callable[..., Scene]) -> None:
    """Two namespaces with a ServiceAccount of the same name and different roles, and roles that fail: each reads with
    its own credentials, and never with another's or the receiver's."""
    scene = set_scene(tenantRoles={"enabled": True})
    sts = Sts(scene)
    other = another_namespace(scene, None)
    names = ("mine", "theirs", "broken", "nameless", "garbled", "missing", "plain")
    arns = {name: scene.create(name) for name in names}
    scene.make(
        account(scene.namespace, "app", role("mine")),
        account(other, "app", role("theirs")),
        account(scene.namespace, "broken", role("broken")),
        account(scene.namespace, "nameless", None),
        account(scene.namespace, "garbled", "x"),
    )
    bound = {"mine": "app", "broken": "broken", "nameless": "nameless", "garbled": "garbled", "missing": "missing"}
    whose = {name: (scene.namespace, {"keyturn.dev/service-account": each}) for name, each in bound.items()}
    whose["theirs"] = (other, {"keyturn.dev/service-account": "app"})
    whose["plain"] = (scene.namespace, {})
    scene.cluster.create(
        secret(namespace, name, f"{scene.namespace}/{name}", **more) for name, (namespace, more) in whose.items()
    )
    scene.receiver(KEYTURN_TENANT_ROLES="true", KEYTURN_POLL_INTERVAL_SECONDS="1")
    wanted = dict.fromkeys(names, "SourceRefused: ") | dict.fromkeys(("mine", "theirs", "plain"), "ok")
    wanted |= dict.fromkeys(("nameless", "missing"), "InvalidBinding: ServiceAccount ")

    def hold() -> None:
        for name, (namespace, _) in whose.items():
            assert scene.status(name, namespace).startswith(wanted[name]), name
            value = {"value": scene.current(name).encode()} if wanted[name] == "ok" else {}
            eventually(
                lambda name=name, namespace=namespace, value=value: data_of(scene.cluster, namespace, name) == value
            )
        for name, reader in (("mine", role("mine")), ("theirs", role("theirs")), ("plain", "testing")):
            assert sts.readers(scene, f"{scene.namespace}/{name}") == {reader}
        for name in ("broken", "nameless", "garbled", "missing"):
            assert sts.readers(scene, f"{scene.namespace}/{name}") == set()

    hold()
    for name in names:
        rotate(scene.client, f"{scene.namespace}/{name}", scene.value("next"))
        answer = scene.send(scene.about(arns[name], EventType.CHANGED))
        assert answer.status == 200  # whose role is wrong holds up nobody's queue
    hold()
    for name in names:
        rotate(scene.client, f"{scene.namespace}/{name}", scene.value("unheard"))  # the poller finds it
    hold()
    for namespace, taken in ((scene.namespace, role("mine")), (other, role("theirs"))):
        assert sts.tokens[taken]["sub"] == f"system:serviceaccount:{namespace}:app"
        assert sts.tokens[taken]["aud"] == ["sts.amazonaws.com"]
    scene.oracle_of_words()


@pytest.mark.fault("S5")
@pytest.mark.parametrize("enabled", [False, True], ids=["without tenants' roles", "with them"])
def test_a_service_account_of_another_namespace(set_scene: Callable[..., Scene], enabled: bool) -> None:
    """A tenant names another namespace's ServiceAccount, as a path or by its full name: nobody asks Kubernetes for it,
    and nothing is read."""
    scene = set_scene(tenantRoles={"enabled": True})
    other = another_namespace(scene, None)
    scene.make(account(other, "app", role("theirs")))
    scene.create("own")
    named = {
        "path": f"../../{other}/serviceaccounts/app",
        "query": f"app?x=/{other}/",
        "slash": f"{other}/app",
        "full": f"system:serviceaccount:{other}:app",
        "dots": "..",
        "empty": "",
    }
    scene.cluster.create(
        secret(scene.namespace, name, f"{scene.namespace}/own", **{"keyturn.dev/service-account": each})
        for name, each in named.items()
    )
    receiver = scene.receiver(KEYTURN_TENANT_ROLES=str(enabled).lower(), KEYTURN_POLL_INTERVAL_SECONDS="1")
    for name in named:
        assert scene.status(name).startswith("InvalidBinding: annotation keyturn.dev/service-account is no name")
        assert data_of(scene.cluster, scene.namespace, name) == {}
    scene.client.put_secret_value(SecretId=f"{scene.namespace}/own", SecretString=scene.value("next"))
    sweeps = receiver.metric("keyturn_sweeps_total")
    scene.bind("control", to="own")
    eventually(lambda: scene.in_order("control"))
    eventually(lambda: receiver.metric("keyturn_sweeps_total", outcome="ok") >= sweeps + 2)
    assert not [call for call in scene.kubernetes.calls if "/serviceaccounts/" in call.path]
    assert not [call for call in scene.aws_proxy.calls if b"AssumeRole" in call.body]
    scene.oracle_of_words()


def asked_for(scene: Scene, secret_ids: Collection[str]) -> list[str]:
    """What AWS was asked about exactly these secrets."""
    found = []
    for call in scene.aws_proxy.calls:
        named = {call.content.get("SecretId"), *call.content.get("SecretIdList", [])} if call.action else set()
        found += [call.action] if named & set(secret_ids) else []
    return found


@pytest.mark.fault("S8")
def test_what_is_not_allowed_is_filled_on_no_path(set_scene: Callable[..., Scene]) -> None:
    """Names that the namespace's globs only begin, end or hold, read by the receiver or with a tenant's role: not
    filled at the start, when new, by a notification, by drift, when restored, by the poller; what is allowed is."""
    scene = set_scene(tenantRoles={"enabled": True})
    Sts(scene)
    team = scene.namespace
    scene.cluster.kubectl("annotate", "--overwrite", "namespace", team, f"{ALLOW}={team}/*, {team}.one")
    scene.make(account(team, "app", role("app")))
    foreign = (f"x{team}/db", team, f"{team}-db", f"{team}.one2", f"a{team}.one", f"{team}xone", f"{team}.on")
    own = (f"{team}/db", f"{team}/a/b", f"{team}.one")
    arns = {
        name: str(scene.client.create_secret(Name=name, SecretString=scene.value("first"))["ARN"])
        for name in (*foreign, *own)
    }
    bound: dict[str, str] = {}  # the AWS secret by the Secret

    def bind(when: str) -> None:
        made = []
        for number, name in enumerate((*foreign, *own)):
            for reader, more in (("us", {}), ("role", {"keyturn.dev/service-account": "app"})):
                for way, secret_id in (("name", name), ("arn", arns[name])):
                    target = f"{when}-{number}-{reader}-{way}"
                    bound[target] = name
                    made.append(secret(team, target, secret_id, **more))
        scene.cluster.create(made)

    def value(name: str) -> bytes:
        return str(scene.client.get_secret_value(SecretId=name)["SecretString"]).encode()

    def hold(path: str, kept: Mapping[str, bytes] | None = None) -> None:
        wanted = {name: {"value": value(name)} for name in own}

        def filled() -> bool:
            listed = {each["metadata"]["name"]: each for each in scene.cluster.list("secrets", team)}
            for target, name in bound.items():
                data = {key: base64.b64decode(text) for key, text in (listed[target].get("data") or {}).items()}
                if name in foreign:
                    assert data == (kept or {}), (path, target)
                elif data != wanted[name]:
                    return False
            told = {target: listed[target]["metadata"]["annotations"].get("keyturn.dev/status", "") for target in bound}
            return all(told[target].startswith("NotAllowed") for target, name in bound.items() if name in foreign)

        eventually(filled, 30)
        assert asked_for(scene, [*foreign, *(arns[name] for name in foreign)]) == [], path

    def tell(kind: EventType, *outcomes: str) -> None:
        for name in (*foreign, *own):
            told = scene.about(arns[name], kind)
            answer = scene.deliver(replace(told, data=replace(told.data, name=name)))
            assert answer.outcome in (("ignored",) if name in foreign else outcomes), name

    bind("early")
    receiver = scene.receiver(KEYTURN_TENANT_ROLES="true")
    hold("at the start")
    bind("late")
    hold("when new")
    for name in (*foreign, *own):
        scene.client.put_secret_value(SecretId=name, SecretString=scene.value("told"))
    tell(EventType.CHANGED, "applied")
    hold("by a notification")
    edited = json.dumps({"data": {"value": base64.b64encode(b"by hand").decode()}})
    for target in bound:
        scene.cluster.kubectl("patch", "secret", target, "-n", team, "-p", edited)
    hold("by drift", {"value": b"by hand"})
    for name in (*foreign, *own):
        scene.client.delete_secret(SecretId=name, RecoveryWindowInDays=7)
    tell(EventType.DELETED, "ignored")  # each Secret says that it is to be deleted
    for name in (*foreign, *own):
        scene.client.restore_secret(SecretId=name)
    tell(EventType.RESTORED, "applied", "unchanged")
    hold("when restored", {"value": b"by hand"})
    receiver.stop()
    scene.end_lease()
    for name in (*foreign, *own):
        scene.client.put_secret_value(SecretId=name, SecretString=scene.value("unheard"))
    scene.receiver(KEYTURN_TENANT_ROLES="true", KEYTURN_POLL_INTERVAL_SECONDS="1")
    hold("by the poller", {"value": b"by hand"})
    scene.oracle_of_words()
