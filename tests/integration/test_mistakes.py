"""Mistakes of developers on the real API server: each is told in words, and what the words advise, followed to the
letter, mends it."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest

from keyturn_local.stack import Stack
from support.cluster_state import annotations_of, data_of, list_events
from support.manifests import env_from, secret, workload
from support.wait import eventually

DATA = "keyturn.dev/data"
VALUE = json.dumps({"username": "u", "password": "p", "my-key": "k", "port": 5432})
ROLE = "as the receiver's role"


@dataclass
class Site:
    """A stack, and the namespace of a team in which all mistakes are made at once."""

    stack: Stack
    namespace: str

    def status(self, name: str) -> str:
        return annotations_of(self.stack.cluster, "secret", self.namespace, name).get("keyturn.dev/status", "")

    def state(self, name: str) -> str:
        labels = self.stack.cluster.get("secret", name, self.namespace)["metadata"].get("labels") or {}
        return str(labels.get("keyturn.dev/state", ""))

    def events(self, kind: str, name: str) -> list[dict[str, Any]]:
        listed = list_events(self.stack.cluster, self.namespace, kind, name)
        return [each for each in listed if each["source"].get("component") == "keyturn"]

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.stack.cluster.kubectl(arguments[0], "-n", self.namespace, *arguments[1:], stdin=stdin)

    def annotate(self, name: str, **annotations: str | None) -> None:
        changes = [f"{key}={text}" if text is not None else f"{key}-" for key, text in annotations.items()]
        self.kubectl("annotate", "--overwrite", "secret", name, *changes)


Mend = Callable[[Site, str, str], None]  # the arguments are the site, the Secret's name, and the words


@dataclass(frozen=True)
class Mistake:
    """A Secret with a mistake. ``told`` is a pattern of the whole status. ``mend`` follows its words."""

    told: str
    mend: Mend
    filled: dict[str, bytes]
    annotations: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    source: str = "db"
    more: dict[str, Any] = field(default_factory=dict)

    def manifest(self, namespace: str, name: str) -> dict[str, Any]:
        made = secret(namespace, name, f"{namespace}/{self.source}" if "/" not in self.source else self.source)
        made["metadata"]["labels"] |= self.labels
        for key, text in self.annotations.items():
            made["metadata"]["annotations"][key] = text
            if not text:
                del made["metadata"]["annotations"][key]
        return {**made, **self.more}


def set_annotation(name: str, text: str | None) -> Mend:
    return lambda site, secret_name, told: site.annotate(
        secret_name, **{name: text.format(ns=site.namespace) if text else None}
    )


def rename_annotation(site: Site, name: str, told: str) -> None:
    """Rename the annotation as the words advise."""
    match = re.search(r"annotation (\S+) is not known: did you mean (\S+)\?", told)
    assert match
    text = annotations_of(site.stack.cluster, "secret", site.namespace, name)[match[1]]
    site.annotate(name, **{match[1]: None, match[2]: text})


def take_line(mark: str) -> Mend:
    """Return a function that makes the line after ``mark`` in the words the whole annotation."""

    def mend(site: Site, name: str, told: str) -> None:
        line = re.split(r"; to take every key|, and a constant|, or, for", told.rpartition(mark)[2])[0]
        site.annotate(name, **{DATA: line})

    return mend


def set_label(site: Site, name: str, told: str) -> None:
    match = re.search(r'label (\S+) is ".*": set it to "(.*)"', told)
    assert match
    site.kubectl("label", "--overwrite", "secret", name, f"{match[1]}={match[2]}")


def create_again(**changes: Any) -> Mend:
    """Return a function that deletes the Secret, and creates it again with these fields."""

    def mend(site: Site, name: str, told: str) -> None:
        site.kubectl("delete", "secret", name)
        bound = secret(site.namespace, name, f"{site.namespace}/db")
        site.stack.cluster.create([{**bound, **changes}])

    return mend


def allow(site: Site, name: str, told: str) -> None:
    """Add the name of the AWS secret to the annotation of the namespace, as the words advise."""
    match = re.search(r"is not allowed to read (\S+); it may read (.+): a cluster admin can .* annotation (\S+) ", told)
    assert match
    globs = f"{match[3]}={match[2]}, {match[1]}"
    site.stack.cluster.kubectl("annotate", "--overwrite", "namespace", site.namespace, globs)


EVERY_KEY = {"username": b"u", "password": b"p", "my-key": b"k", "port": b"5432"}
PASSWORD = {"PASSWORD": b"p"}

MISTAKES: dict[str, Mistake] = {
    "typo-in-the-id": Mistake(
        r"SourceNotFound: AWS secret {ns}/dbb does not exist in (\d{{12}}, )?us-east-1, " + ROLE + ": create it, or"
        r" correct the name, the account or the region \(ResourceNotFoundException\)",
        set_annotation("keyturn.dev/secret-id", "{ns}/db"),
        EVERY_KEY,
        source="dbb",
    ),
    "arn-of-another-region": Mistake(
        r"SourceNotFound: AWS secret arn:aws:secretsmanager:eu-central-1:123456789012:secret:{ns}/db does not exist in"
        r" 123456789012, eu-central-1, "
        + ROLE
        + r": create it, or correct .* the region \(ResourceNotFoundException\)",
        set_annotation("keyturn.dev/secret-id", "arn:aws:secretsmanager:us-east-1:123456789012:secret:{ns}/db"),
        EVERY_KEY,
        annotations={"keyturn.dev/secret-id": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:{ns}/db"},
    ),
    "misspelt-region": Mistake(
        r"InvalidBinding: annotation keyturn.dev/secret-id names the AWS region us-esat-1, .*: did you mean"
        r" us-east-1\?.*",
        set_annotation("keyturn.dev/secret-id", "arn:aws:secretsmanager:us-east-1:123456789012:secret:{ns}/db"),
        EVERY_KEY,
        annotations={"keyturn.dev/secret-id": "arn:aws:secretsmanager:us-esat-1:123456789012:secret:{ns}/db"},
    ),
    "missing-property": Mistake(
        r"InvalidValue: AWS secret {ns}/db: key PASSWORD \(expression 'pasword'\): there is no such property, or it is"
        r" null: correct the expression, or add the property in AWS.*",
        set_annotation(DATA, "PASSWORD: password"),
        PASSWORD,
        annotations={DATA: "PASSWORD: pasword"},
    ),
    "not-allowed": Mistake(
        r"NotAllowed: namespace {ns} is not allowed to read other-{ns}/db; it may read {ns}/\*: a cluster admin can"
        r" allow it with the namespace annotation keyturn.dev/allow-secrets \(.*\)",
        allow,
        EVERY_KEY,
        source="other-{ns}/db",
    ),
    "label-in-another-spelling": Mistake(
        r'InvalidBinding: label keyturn.dev/bind is "True": set it to "true"',
        set_label,
        EVERY_KEY,
        labels={"keyturn.dev/bind": "True"},
    ),
    "secretid": Mistake(
        r"InvalidBinding: annotation keyturn.dev/secretId is not known: did you mean keyturn.dev/secret-id\?",
        rename_annotation,
        EVERY_KEY,
        annotations={"keyturn.dev/secret-id": "", "keyturn.dev/secretId": "{ns}/db"},
    ),
    "keys-for-data": Mistake(
        r"InvalidBinding: annotation keyturn.dev/keys is not known: did you mean keyturn.dev/data\?",
        rename_annotation,
        PASSWORD,
        annotations={"keyturn.dev/keys": "PASSWORD: password"},
    ),
    "underscore": Mistake(
        r"InvalidBinding: annotation keyturn.dev/version_stage is not known: did you mean keyturn.dev/version-stage\?",
        rename_annotation,
        EVERY_KEY,
        annotations={"keyturn.dev/version_stage": "AWSCURRENT"},
    ),
    "hyphen": Mistake(
        r"InvalidBinding: annotation keyturn.dev/data: key KEY: 'my-key' is not a JMESPath expression: a property with"
        r" special characters needs double quotes, as in KEY: '\"my-key\"', and a constant .*",
        lambda site, name, told: site.annotate(
            name, **{DATA: told.partition("double quotes, as in ")[2].partition(", and")[0]}
        ),
        {"KEY": b"k"},
        annotations={DATA: "KEY: my-key"},
    ),
    "missing-bracket": Mistake(
        r"InvalidBinding: annotation keyturn.dev/data: key KEY: .* is not a JMESPath expression: the '\[' at character"
        r" 10 is not closed",
        set_annotation(DATA, "KEY: join('', [username, password])"),
        {"KEY": b"up"},
        annotations={DATA: "KEY: join('', [username, password"},
    ),
    "number-in-join": Mistake(
        r"InvalidValue: AWS secret {ns}/db: key KEY \(.*\): join\(\) takes a list of texts, and got a value of the"
        r" wrong type: convert it with to_string\(\) or to_number\(\)",
        set_annotation(DATA, "KEY: join(':', [username, to_string(port)])"),
        {"KEY": b"u:5432"},
        annotations={DATA: "KEY: join(':', [username, port])"},
    ),
    "equals-sign": Mistake(
        r"InvalidBinding: annotation keyturn.dev/data must hold at least one line `KEY: expression`, as in PASSWORD:"
        r" password; to take every key, remove it",
        take_line("as in "),
        PASSWORD,
        annotations={DATA: "PASSWORD=password"},
    ),
    "colon-in-an-expression": Mistake(
        r"InvalidBinding: annotation keyturn.dev/data is not YAML \(line 1, column 12\): write one `KEY: expression`"
        r" per line, with the expression in quotes, as in URL: \"join\(': ', \[username, password\]\)\"",
        take_line("as in "),
        {"URL": b"u: p"},
        annotations={DATA: "URL: join(': ', [username, password])"},
    ),
    "bare-at-sign": Mistake(
        r'InvalidBinding: annotation keyturn.dev/data is not YAML .*, with the expression in quotes, as in ALL: "@"',
        take_line("as in "),
        {"ALL": VALUE.encode()},
        annotations={DATA: "ALL: @"},
    ),
    "binary-with-an-expression": Mistake(
        r"InvalidValue: AWS secret {ns}/binary: key KEY \(expression 'password'\): the value in AWS is not JSON: use"
        r' the expression @, which takes the whole value, and which YAML needs in quotes: "@"',
        set_annotation(DATA, 'KEY: "@"'),
        {"KEY": b"\x00\xff"},
        annotations={DATA: "KEY: password"},
        source="binary",
    ),
    "wrong-stage": Mistake(
        r"SourceRefused: AWS secret {ns}/db has no version with the staging label AWSCURENT: move the label to a"
        r" version, or correct the label in the binding",
        set_annotation("keyturn.dev/version-stage", "AWSCURRENT"),
        EVERY_KEY,
        annotations={"keyturn.dev/version-stage": "AWSCURENT"},
    ),
    "text-in-a-docker-secret": Mistake(
        r"InvalidValue: AWS secret {ns}/plain: key .dockerconfigjson: the value is not Docker's JSON \(it is not"
        r" JSON\): store the content of a Docker config.json in AWS, .* or use type Opaque",
        create_again(type="Opaque"),
        EVERY_KEY,
        source="plain",
        more={"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "{}"}},
    ),
    "tls-without-its-keys": Mistake(
        r"InvalidValue: AWS secret {ns}/db: a Secret of type kubernetes.io/tls needs the keys tls.crt and tls.key, and"
        r" the binding does not fill tls.crt and tls.key: name the property for each with keyturn.dev/data, one line"
        r" each: `tls.crt: <property>`, `tls.key: <property>`; or use type Opaque",
        set_annotation(DATA, "tls.crt: username\ntls.key: password"),
        {"tls.crt": b"u", "tls.key": b"p"},
        more={"type": "kubernetes.io/tls", "stringData": {"tls.crt": "placeholder", "tls.key": "placeholder"}},
    ),
    "credential-type": Mistake(
        r"NotAllowed: a Secret of type bootstrap.kubernetes.io/token is never filled: use type Opaque, or one made for"
        r" your data",
        create_again(type="Opaque"),
        EVERY_KEY,
        more={"type": "bootstrap.kubernetes.io/token"},
    ),
    "immutable": Mistake(
        r"ClusterRefused: the Secret is immutable: delete it, and create it again without `immutable: true`",
        create_again(),
        EVERY_KEY,
        more={"immutable": True},
    ),
    "annotation-of-a-namespace": Mistake(
        r"InvalidBinding: annotation keyturn.dev/allow-secrets does not belong on a Secret: move it to the namespace",
        set_annotation("keyturn.dev/allow-secrets", None),
        EVERY_KEY,
        annotations={"keyturn.dev/allow-secrets": "*"},
    ),
}


@pytest.fixture(scope="module")
def site(stack: Stack) -> Iterator[Site]:
    """All mistakes at once, so that their waits overlap."""
    namespace = f"team-{uuid4().hex[:6]}"
    client = stack.aws.secrets_manager()
    for name, value in {"db": VALUE, "plain": "hunter2", "docker": json.dumps({"auths": {}})}.items():
        client.create_secret(Name=f"{namespace}/{name}", SecretString=value)
    client.create_secret(Name=f"{namespace}/binary", SecretBinary=b"\x00\xff")
    client.create_secret(Name=f"other-{namespace}/db", SecretString=VALUE)
    metadata = {"name": namespace, "annotations": {"keyturn.dev/allow-secrets": f"{namespace}/*"}}
    made: dict[str, Any] = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    manifests = json.dumps([each.manifest(namespace, name) for name, each in MISTAKES.items()])
    stack.cluster.create([made, *json.loads(manifests.replace("{ns}", namespace))])
    yield Site(stack, namespace)
    stack.cluster.delete([made], wait=False)


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_told_and_mended_by_what_the_words_say(site: Site, name: str) -> None:
    mistake = MISTAKES[name]
    told = eventually(lambda: site.status(name))
    assert re.fullmatch(mistake.told.format(ns=site.namespace), told), told
    reason, _, message = told.partition(": ")
    assert site.state(name) == reason
    events = eventually(lambda: site.events("Secret", name))
    assert (reason, message, "Warning") in [(each["reason"], each["message"], each["type"]) for each in events]
    held = data_of(site.stack.cluster, site.namespace, name)
    assert not held.keys() & EVERY_KEY.keys(), "a mistaken binding has copied something"

    mistake.mend(site, name, told)
    eventually(lambda: site.status(name) == "ok", 10)
    assert site.state(name) == "ok"
    held = data_of(site.stack.cluster, site.namespace, name)
    assert {key: held.get(key) for key in mistake.filled} == mistake.filled


def test_label_as_an_annotation_is_found_by_the_documented_command(site: Site) -> None:
    """Keyturn reads no Secret without its label, so neither a status nor an Event tells the author. The docs have a
    command that finds it."""
    unbound = secret(
        site.namespace, "as-annotation", None, **{"keyturn.dev/bind": "true", "keyturn.dev/secret-id": "x"}
    )
    site.stack.cluster.create([unbound])
    columns = r"IN:.metadata.namespace,NAME:.metadata.name,ID:.metadata.annotations.keyturn\.dev/secret-id"
    listed = site.stack.cluster.kubectl(
        "get", "secrets", "-A", "-l", "!keyturn.dev/bind", "-o", f"custom-columns={columns}"
    )
    found = [line.split() for line in listed.splitlines() if not line.endswith("<none>")]
    assert [site.namespace, "as-annotation", "x"] in found


@pytest.mark.parametrize("value", ["auths", "ssh"])
def test_value_of_a_type_with_one_key_goes_there(site: Site, value: str) -> None:
    text = {"auths": json.dumps({"auths": {"registry.example.com": {"auth": "dTpw"}}}), "ssh": "-----BEGIN KEY-----\n"}
    kind, key = {
        "auths": ("kubernetes.io/dockerconfigjson", ".dockerconfigjson"),
        "ssh": ("kubernetes.io/ssh-auth", "ssh-privatekey"),
    }[value]
    site.stack.aws.secrets_manager().create_secret(Name=f"{site.namespace}/{value}", SecretString=text[value])
    bound = secret(site.namespace, value, f"{site.namespace}/{value}")
    site.stack.cluster.create([{**bound, "type": kind, "stringData": {key: "{}"}}])
    eventually(lambda: site.status(value) == "ok")
    assert data_of(site.stack.cluster, site.namespace, value) == {key: text[value].encode()}


@pytest.mark.parametrize(
    ("name", "on_workload", "on_template", "told"),
    [
        (
            "misspelt",
            {"keyturn.dev/rolout": "disabled"},
            {},
            "annotation keyturn.dev/rolout is not known: did you mean keyturn.dev/rollout?",
        ),
        (
            "on-template",
            {},
            {"keyturn.dev/allow-secrets": "*"},
            "annotation keyturn.dev/allow-secrets does not belong on a pod template: move it to the namespace",
        ),
    ],
)
def test_mistake_on_a_workload_is_told_there_and_restarts_nothing(
    site: Site, name: str, on_workload: dict[str, str], on_template: dict[str, str], told: str
) -> None:
    made = workload(site.namespace, name, env_from("any"))
    made["metadata"]["annotations"] = on_workload
    made["spec"]["template"]["metadata"]["annotations"] = on_template
    site.stack.cluster.create([made])
    (event,) = eventually(lambda: site.events("Deployment", name))
    assert event["message"] == f"{told}; its pods are not restarted until then"
    assert (event["type"], event["reason"]) == ("Warning", "InvalidBinding")


def test_mistake_on_a_namespace_is_told_in_it(site: Site) -> None:
    site.stack.cluster.kubectl("annotate", "namespace", site.namespace, "keyturn.dev/allow-secret=*")
    (event,) = eventually(lambda: site.events("Namespace", site.namespace))
    told = "annotation keyturn.dev/allow-secret is not known: did you mean keyturn.dev/allow-secrets?; the other"
    assert event["message"].startswith(told)


def test_copy_of_a_replicator_is_left_alone_with_a_word(site: Site) -> None:
    copy = secret(site.namespace, "copy", f"{site.namespace}/db")
    copy["metadata"]["annotations"]["reflector.v1.k8s.emberstack.com/reflects"] = "shop/db"
    site.stack.cluster.create([copy])
    (event,) = eventually(lambda: site.events("Secret", "copy"))
    assert (event["type"], event["reason"]) == ("Normal", "CopyIgnored")
    assert event["message"].startswith("this Secret is made by Reflector from shop/db, label keyturn.dev/bind included")
    assert site.status("copy") == ""


def test_restart_is_told_on_the_workload(site: Site) -> None:
    client = site.stack.aws.secrets_manager()
    client.create_secret(Name=f"{site.namespace}/read", SecretString='{"a": "1"}')
    site.stack.cluster.create([secret(site.namespace, "read", f"{site.namespace}/read", **{DATA: "A: a"})])
    eventually(lambda: site.status("read") == "ok")
    site.stack.cluster.create([workload(site.namespace, "reader", env_from("read"))])
    mark = "revision.keyturn.dev/read"
    eventually(lambda: mark in annotations_of(site.stack.cluster, "deployment", site.namespace, "reader"))
    version = client.put_secret_value(SecretId=f"{site.namespace}/read", SecretString='{"a": "2"}')["VersionId"]
    site.annotate("read", **{"keyturn.dev/reconcile": "now"})  # the stack's poller sleeps, and moto sends no event
    told = eventually(lambda: {each["reason"]: each["message"] for each in site.events("Deployment", "reader")})
    assert told.keys() <= {"Restarted", "Live"}
    assert told["Restarted"] == f"Secret read: wrote A from version {version}; restarting Deployment reader"
    assert annotations_of(site.stack.cluster, "secret", site.namespace, "read")["keyturn.dev/reconciled"] == "now"

    client.put_secret_value(SecretId=f"{site.namespace}/read", SecretString='{"b": "2"}')
    site.annotate("read", **{"keyturn.dev/reconcile": "again"})
    eventually(lambda: "InvalidValue" in [each["reason"] for each in site.events("Deployment", "reader")])


def test_pods_that_stay_are_told_on_the_secret_and_on_the_workload(site: Site) -> None:
    client, cluster = site.stack.aws.secrets_manager(), site.stack.cluster
    client.create_secret(Name=f"{site.namespace}/held", SecretString='{"a": "1"}')
    cluster.create([secret(site.namespace, "held", f"{site.namespace}/held", **{DATA: "A: a"})])
    eventually(lambda: site.status("held") == "ok")
    spec: dict[str, tuple[str, dict[str, Any]]] = {
        "paused": ("Deployment", {"paused": True}),
        "empty": ("Deployment", {"replicas": 0}),
        "parted": ("StatefulSet", {"replicas": 2, "updateStrategy": {"rollingUpdate": {"partition": 5}}}),
        "by-hand": ("DaemonSet", {"updateStrategy": {"type": "OnDelete"}}),
    }
    for name, (kind, more) in spec.items():
        made = workload(site.namespace, name, env_from("held"), kind)
        made["spec"] |= more
        cluster.create([made])
    for name, (kind, _) in spec.items():
        eventually(
            lambda name=name, kind=kind: (
                "revision.keyturn.dev/held" in annotations_of(cluster, kind.lower(), site.namespace, name)
            )
        )
    restarts = site.stack.receiver.metric("keyturn_rollouts_total")
    client.put_secret_value(SecretId=f"{site.namespace}/held", SecretString='{"a": "2"}')
    site.annotate("held", **{"keyturn.dev/reconcile": "now"})
    words = {
        "paused": "Deployment paused is paused: its pods restart when you resume it",
        "empty": "Deployment empty has no replicas",
        "parted": "StatefulSet parted keeps all of its pods: lower spec.updateStrategy.rollingUpdate.partition",
        "by-hand": "DaemonSet by-hand updates only OnDelete: delete its pods",
    }
    for name, told in words.items():
        (event,) = eventually(lambda name=name: site.events(spec[name][0], name))
        assert (event["type"], event["reason"]) == ("Normal" if name == "empty" else "Warning", "NotRestarted")
        assert told in event["message"]
        assert "restarting" not in event["message"]
    of_secret = eventually(lambda: [e["message"] for e in site.events("Secret", "held") if "paused" in e["message"]])
    assert all(told in of_secret[0] for told in words.values())
    assert site.stack.receiver.metric("keyturn_rollouts_total") == restarts


def test_key_that_a_workload_reads_and_the_secret_lacks_is_told_on_the_workload(site: Site) -> None:
    cluster = site.stack.cluster
    cluster.create([secret(site.namespace, "lacks", f"{site.namespace}/db", **{DATA: "password: password"})])
    eventually(lambda: site.status("lacks") == "ok")
    reference = {"secretKeyRef": {"name": "lacks", "key": "PASSWORD"}}
    reads = {"container": {"env": [{"name": "P", "valueFrom": reference}]}}
    cluster.create([workload(site.namespace, "waits", reads)])
    (event,) = eventually(lambda: site.events("Deployment", "waits"))
    assert (event["type"], event["reason"]) == ("Warning", "KeyMissing")
    told = "Secret lacks: it reads the key PASSWORD, which the Secret does not have; it has password: "
    assert event["message"].startswith(told)


def test_secret_that_is_no_longer_bound_says_so_and_goes_on_when_it_is_bound_again(site: Site) -> None:
    site.stack.cluster.create([secret(site.namespace, "left", f"{site.namespace}/db")])
    eventually(lambda: site.status("left") == "ok")
    before = data_of(site.stack.cluster, site.namespace, "left")
    site.kubectl("label", "secret", "left", "keyturn.dev/bind-")
    eventually(lambda: site.status("left").startswith("NotBound: the label keyturn.dev/bind is not "))
    assert site.state("left") == ""
    assert data_of(site.stack.cluster, site.namespace, "left") == before
    site.kubectl("label", "secret", "left", "keyturn.dev/bind=true")
    eventually(lambda: site.status("left") == "ok")
