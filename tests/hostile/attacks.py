"""The attacks of a tenant who has ``edit`` in one namespace: the objects and the edits of each attack.

Each attack was found by hand once. All of them run at the same time. ``scale`` multiplies the numbers of objects, but
neither their sizes nor the rates of edits.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boto3 import Session

from keyturn_local.aws.sdk import ACCOUNT, REGION
from keyturn_receiver.core.consumer import MARK_PREFIX, former_mark_name, mark_name
from support.manifests import env_from, secret, workload

Manifest = dict[str, Any]

DATA, STAGE, ID = "keyturn.dev/data", "keyturn.dev/version-stage", "keyturn.dev/secret-id"
RECORD = ("version-ids", "revisions", "data-hash", "binding-hash", "applied-at", "status")
ROLE = "eks.amazonaws.com/role-arn"

SHARED = "shared/db"  # an AWS secret that the tenant and his neighbour may both read
ROTATING = "rotating"  # a secret of the tenant's own that rotates
NUMBERS = "numbers"  # a secret of the tenant's own that has a list of NUMBER_COUNT numbers
NUMBER_COUNT = 2000
FINALIZED = "labelled"  # a Secret with finalizers, which keep it although it is deleted
ODD_VALUES = ("deep", "large", "binary", "keys", "huge-number", "half-character", "null")  # secrets of his own

FAT = "<" * 1_300_000  # the API server writes each of these characters as six bytes of JSON
FOREIGN_ACCOUNT = "999999999999"
HANGING = [each for each in Session().get_available_regions("secretsmanager") if each != REGION]  # more than 30
UNPRINTABLE = "\x1b]0;owned\x07\u202eko"

DEAR = {
    "parse": ["[?" * 6 + "[" + ",".join("@" * 230) + "]" + "]" * 6] * 30,
    "nodes": ["[?" * 6 + "[" + ",".join("@" * 1900) + "]" + "]" * 6] * 16,
    "evaluate": ["numbers[?@==@]|[?@==@]|[?@==@]|[?@==@]|[?@==@]|length(@)"] * 4,
    "many": [f"[a{n},b{n}]|[0]||'none'" for n in range(700)],
}
HEAVY = "numbers[?" + " && ".join(["@==@"] * 22) + "]|length(@)"  # costs a little less than the limit

# What each wrong ARN of a role tries: not an ARN, another service, a user, a wrong account, spaces, line breaks, a
# length that no ARN has, characters that reverse text, a region where ARNs of roles have none, another partition, a
# path upwards, a role that AWS refuses.
WRONG_ROLES = (
    "role",
    "arn:aws:s3:::bucket",
    f"arn:aws:iam::{ACCOUNT}:user/root",
    "arn:aws:iam::12:role/x",
    f"arn:aws:iam::{ACCOUNT}:role/a b",
    f"arn:aws:iam::{ACCOUNT}:role/a\nb",
    f"arn:aws:iam::{ACCOUNT}:role/" + "x" * 200_000,
    f"arn:aws:iam::{ACCOUNT}:role/" + UNPRINTABLE,
    f"arn:aws:iam:us-east-1:{ACCOUNT}:role/x",
    f"arn:aws-cn:iam::{ACCOUNT}:role/x",
    f"arn:aws:iam::{ACCOUNT}:role/../../{'%2e' * 20}",
    f"arn:aws:iam::{ACCOUNT}:role/refuse",
)

LONG_NAME = "collide" + "d" * 73  # 80 letters: too long for the name of a mark, so the mark has a shortened name
# Release 0.2 gave the Secrets of both names marks of the same name.
SHORT_NAME = (former_mark_name(LONG_NAME) or "").removeprefix(MARK_PREFIX)


@dataclass(frozen=True)
class Edit:
    """One call of the tenant."""

    method: str
    path: str
    body: Any = None
    content_type: str = "application/merge-patch+json"


@dataclass(frozen=True)
class Attack:
    """One attack. ``edit`` maps the number of a call to the call. ``rate`` is the number of calls a second."""

    name: str
    objects: Sequence[Manifest] = ()
    edit: Callable[[int], Edit] | None = None
    rate: float = 0.0


KINDS = {
    "Secret": ("/api/v1", "secrets"),
    "ServiceAccount": ("/api/v1", "serviceaccounts"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "Event": ("/api/v1", "events"),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "StatefulSet": ("/apis/apps/v1", "statefulsets"),
    "DaemonSet": ("/apis/apps/v1", "daemonsets"),
}


def path_of(kind: str, namespace: str, name: str = "") -> str:
    """Return the path of an object, or of all objects of a kind in a namespace."""
    root, plural = KINDS[kind]
    return f"{root}/namespaces/{namespace}/{plural}" + (f"/{name}" if name else "")


class Tenant:
    """The attacks of the tenant in ``namespace``."""

    def __init__(self, namespace: str, scale: float) -> None:
        self.namespace = namespace
        self._scale = scale
        self._random = random.Random(7)  # noqa: S311 - not for cryptography

    def attacks(self) -> list[Attack]:
        """Return all attacks."""
        return [
            *self._regions(),
            *self._expressions(),
            *self._calls(),
            *self._roles(),
            *self._fat(),
            *self._crowds(),
            *self._forgeries(),
            *self._fights(),
            *self._shapes(),
        ]

    def values(self) -> dict[str, str]:
        """Return the values that he gives his own secrets in AWS, by name. ``binary`` is left out: it is no text."""
        deep = "[" * 20_000 + "]" * 20_000
        texts = {
            ROTATING: "first",
            NUMBERS: json.dumps({"numbers": list(range(NUMBER_COUNT))}),
            "own": json.dumps({"password": "his", "ca.crt": "his"}),
            "deep": deep,
            "large": "x" * 65_536,
            "keys": json.dumps({f"key{number}": "x" for number in range(4_000)}),
            "huge-number": '{"n": 1' + "0" * 5_000 + "}",
            "half-character": '{"n": "\\ud800"}',
            "null": '{"a": null}',
        }
        return {f"{self.namespace}/{name}": text for name, text in texts.items()}

    # --- Tools

    def _count(self, number: int) -> int:
        return max(2, round(number * self._scale))

    def _secrets(self, prefix: str, count: int, secret_id: Callable[[int], str], **annotations: str) -> list[Manifest]:
        return [secret(self.namespace, f"{prefix}-{n}", secret_id(n), **annotations) for n in range(count)]

    def _own(self, name: str) -> str:
        return f"{self.namespace}/{name}"

    def _annotate(self, kind: str, name: str, annotations: Mapping[str, str | None], **metadata: Any) -> Edit:
        return Edit(
            "PATCH", path_of(kind, self.namespace, name), {"metadata": {"annotations": annotations, **metadata}}
        )

    def _deployments(self, prefix: str, count: int, secret_name: str) -> list[Manifest]:
        return [self._sleeping(workload(self.namespace, f"{prefix}-{n}", env_from(secret_name))) for n in range(count)]

    def _sleeping(self, made: Manifest) -> Manifest:
        """Leave the workload without pods. A Deployment is also paused, which saves etcd the copies of its template."""
        if made["kind"] == "Deployment":
            made["spec"] |= {"replicas": 0, "paused": True}
        elif made["kind"] == "StatefulSet":
            made["spec"] |= {"replicas": 0}
        else:
            made["spec"]["template"]["spec"]["nodeSelector"] = {"none": "such"}
        return made

    # --- Attacks

    def _regions(self) -> list[Attack]:
        made_up, hanging = self._count(200), self._count(200)

        def arn(region: str, number: int, partition: str = "aws") -> str:
            return f"arn:{partition}:secretsmanager:{region}:{ACCOUNT}:secret:{self._own(str(number))}-AbCdEf"

        def another(number: int) -> Edit:
            region = ("us-esat-1", f"xx-made{number % 9999}-1", "us-east-11", "cn-north-1")[number % 4]
            partition = ("aws", "aws", "aws-cn", "aws-x")[number // 4 % 4]
            return self._annotate("Secret", f"made-up-{number % made_up}", {ID: arn(region, number, partition)})

        return [
            Attack(
                "regions that do not exist",
                self._secrets("made-up", made_up, lambda n: arn(f"xx-made{n}-1", n)),
                another,
                3,
            ),
            Attack(
                "regions that hang",
                self._secrets("hanging", hanging, lambda n: arn(HANGING[n % len(HANGING)], n)),
                lambda n: self._annotate("Secret", f"hanging-{n % hanging}", {STAGE: "AWSCURRENT" + " " * (n % 2)}),
                20,
            ),
        ]

    def _expressions(self) -> list[Attack]:
        count, attacks = self._count(40), []
        for name, expressions in DEAR.items():
            lines = (f"K{n}: '{each.replace(chr(39), chr(39) * 2)}'" for n, each in enumerate(expressions))
            made = self._secrets(f"dear-{name}", count, lambda n: self._own(NUMBERS), **{DATA: "\n".join(lines)})

            def edit(number: int, name: str = name) -> Edit:
                stage = "AWSCURRENT" if number // count % 2 else " AWSCURRENT"
                return self._annotate("Secret", f"dear-{name}-{number % count}", {STAGE: stage})

            attacks.append(Attack(f"expressions that are dear to {name}", made, edit, 1))
        heavy = self._secrets("heavy", 16, lambda n: self._own(NUMBERS), **{DATA: f"K: '{HEAVY}'"})

        def touch(number: int) -> Edit:
            return self._annotate("Secret", f"heavy-{number % 16}", {STAGE: "AWSCURRENT" + " " * (number // 16 % 2)})

        return [*attacks, Attack("expressions just below the limit", heavy, touch, 4)]

    def _calls(self) -> list[Attack]:
        hot, refused, foreign = self._count(60), self._count(60), self._count(500)

        def arn(account: str, name: str) -> str:
            return f"arn:aws:secretsmanager:{REGION}:{account}:secret:{name}"

        def ambiguous(number: int) -> Edit:
            guess = f"{self._own('x')}-{number:06d}"
            return self._annotate("Secret", f"ambiguous-{number % 4}", {ID: arn(ACCOUNT, guess)})

        return [
            Attack(
                "throttled secrets",
                self._secrets("hot", hot, lambda n: self._own(f"hot-{n}")),
                lambda n: self._annotate("Secret", f"hot-{n % hot}", {"note": str(n)}),
                2,
            ),
            Attack(
                "ids that AWS refuses for the whole batch",
                self._secrets("refused", refused, lambda n: self._own(f"refused!{n}")),
                lambda n: self._annotate("Secret", f"refused-{n % refused}", {STAGE: "AWSCURRENT" + " " * (n % 2)}),
                2,
            ),
            Attack(
                "another account's secret of the same name",
                self._secrets("foreign", foreign, lambda n: arn(FOREIGN_ACCOUNT, SHARED) + "-AbCdEf"),
                lambda n: self._annotate("Secret", f"foreign-{n % foreign}", {STAGE: "AWSCURRENT" + " " * (n % 2)}),
                2,
            ),
            Attack(
                "ARNs with two readings",
                self._secrets("ambiguous", 4, lambda n: arn(ACCOUNT, self._own("x") + "-abcdef")),
                ambiguous,
                2,
            ),
        ]

    def _roles(self) -> list[Attack]:
        hanging = self._count(100)

        def account(name: str, role: str) -> Manifest:
            metadata = {"namespace": self.namespace, "name": name, "annotations": {ROLE: role}}
            return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}

        def bound(prefix: str, count: int) -> list[Manifest]:
            ids = [f"{prefix}-{n}" for n in range(count)]
            return [
                secret(self.namespace, each, self._own("own"), **{"keyturn.dev/service-account": each}) for each in ids
            ]

        def role(name: str) -> str:
            return f"arn:aws:iam::{ACCOUNT}:role/{name}"

        def change(number: int) -> Edit:
            name = f"sts-{number % hanging}"
            return self._annotate("ServiceAccount", name, {ROLE: role(f"hang{number}")})

        def recreate(number: int) -> Edit:
            name = f"wrong-{number // 2 % len(WRONG_ROLES)}"
            if number % 2:
                return Edit("DELETE", path_of("ServiceAccount", self.namespace, name))
            wrong = WRONG_ROLES[number // 2 % len(WRONG_ROLES)]
            made = account(name, wrong)
            return Edit("POST", path_of("ServiceAccount", self.namespace), made, "application/json")

        wrong = [account(f"wrong-{n}", each) for n, each in enumerate(WRONG_ROLES)]
        accounts = [account(f"sts-{n}", role(f"hang{n}")) for n in range(hanging)]
        return [
            Attack("roles that hang", [*accounts, *bound("sts", hanging)], change, 2),
            Attack("ARNs of roles in every wrong shape", [*wrong, *bound("wrong", len(WRONG_ROLES))], recreate, 1),
        ]

    def _fat(self) -> list[Attack]:
        # There are only two owners, because the garbage collector of the cluster logs each long name again and again.
        count, owners = self._count(60), 2

        def fat(kind: str, number: int) -> Manifest:
            # In JSON, each character of the second text is an escaped quote. It takes two bytes, and stops a search for
            # quotes.
            text = FAT if number % 3 else '"' * 650_000
            made = workload(
                self.namespace, f"fat-{number}", {"container": {"env": [{"name": "X", "value": text}]}}, kind
            )
            return self._sleeping(made)

        kinds = ("Deployment", "Deployment", "Deployment", "StatefulSet", "DaemonSet")
        workloads = [fat(kinds[n % len(kinds)], n) for n in range(count)]
        reading = self._sleeping(workload(self.namespace, "fat-reads", env_from("own-0")))
        reading["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "X", "value": FAT}]

        def owned(number: int) -> Manifest:
            made = secret(self.namespace, f"owned-{number}", self._own("own"))
            uid = f"00000000-0000-0000-0000-{number:012d}"
            made["metadata"]["ownerReferences"] = [
                {"apiVersion": "v1", "kind": "ConfigMap", "name": FAT[:1_100_000], "uid": uid}
            ]
            return made

        def touch(number: int) -> Edit:
            each = workloads[number % count]
            return self._annotate(each["kind"], each["metadata"]["name"], {"note": str(number)})

        return [
            Attack("workloads of 1.3 MB", [*workloads, reading], touch, 3),
            Attack(
                "owners whose names have 1.1 MB",
                [owned(n) for n in range(owners)],
                lambda n: self._annotate("Secret", f"owned-{n % owners}", {"note": str(n)}),
                1,
            ),
        ]

    def _crowds(self) -> list[Attack]:
        broken, sharing, readers = self._count(1500), self._count(1000), self._count(1500)

        def flip(number: int) -> Edit:
            missing = self._own(f"missing-{number // broken % 2}")
            return self._annotate("Secret", f"broken-{number % broken}", {ID: f"{missing}-{number % broken}"})

        own = secret(self.namespace, "own-0", self._own(ROTATING))
        shared = self._secrets("sharing", sharing, lambda n: SHARED)
        return [
            Attack(
                "broken bindings",
                self._secrets("broken", broken, lambda n: self._own(f"missing-{n}")),
                flip,
                115,
            ),
            Attack(
                "bindings to a secret that another team reads",
                shared,
                lambda n: self._annotate("Secret", "sharing-0", {"note": str(n)}),
                71,
            ),
            Attack("workloads that read a Secret that rotates", [own, *self._deployments("reader", readers, "own-0")]),
        ]

    def _forgeries(self) -> list[Attack]:
        forged, large = self._count(150), self._count(300)

        def versions(number: int) -> str:
            prefix, count = (
                ("", 16_000) if number % 2 else (f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:", 3_500)
            )
            return json.dumps({f"{prefix}{number}x{n}": "v" for n in range(count)}, separators=(",", ":"))

        texts = [json.dumps({f"k{n}": "v" for n in range(14_000)}), "x" * 240_000, "\u202e" * 80_000]
        names = [*(f"keyturn.dev/{each}" for each in RECORD), DATA, STAGE, ID, "keyturn.dev/rollout"]
        filled = [
            secret(
                self.namespace,
                f"large-{n}",
                self._own("own"),
                **{names[n % len(names)]: texts[n // len(names) % len(texts)]},
            )
            for n in range(large)
        ]
        state = f"ok\n{UNPRINTABLE}" * 50

        def forge(number: int) -> Edit:
            status = (state, "ok", "SourceNotFound: x", "InvalidBinding: " + "y" * 1000)[number % 4]
            return self._annotate("Secret", f"status-{number % 4}", {"keyturn.dev/status": status})

        def event(number: int) -> Edit:
            meta = {"namespace": self.namespace, "name": f"status-{number % 4}.{number:016x}"}
            about = {"kind": "Secret", "namespace": self.namespace, "name": f"status-{number % 4}"}
            body = {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": meta,
                "involvedObject": about,
                "reason": "Applied",
                "message": state[:900],
                "source": {"component": "keyturn"},
            }
            return Edit("POST", path_of("Event", self.namespace), body, "application/json")

        return [
            Attack(
                "forged version ids",
                [
                    secret(self.namespace, f"forged-{n}", self._own("own"), **{"keyturn.dev/version-ids": versions(n)})
                    for n in range(forged)
                ],
                lambda n: self._annotate("Secret", f"forged-{n % forged}", {"keyturn.dev/version-ids": versions(n)}),
                1,
            ),
            Attack(
                "annotations of 240 KB",
                filled,
                lambda n: self._annotate("Secret", f"large-{n % large}", {"note": str(n)}),
                2,
            ),
            Attack("forged statuses", self._secrets("status", 4, lambda n: self._own("own")), forge, 3),
            Attack(
                "stages that are no text for people",
                self._secrets("stage", 4, lambda n: self._own("own"), **{STAGE: UNPRINTABLE}),
            ),
            Attack("a flood of Events", [], event, 5),
        ]

    def _fights(self) -> list[Attack]:
        def values(number: int) -> Edit:
            body = {"data": {"password": "cHduZWQ="}, "metadata": {"annotations": {"note": str(number)}}}
            return Edit("PATCH", path_of("Secret", self.namespace, "fight-0"), body)

        def strip(number: int) -> Edit:
            return self._annotate("Secret", "fight-1", dict.fromkeys(f"keyturn.dev/{each}" for each in RECORD))

        def unmark(number: int) -> Edit:
            mark = {mark_name("fight-0"): None if number % 2 else "x"}
            template = {"template": {"metadata": {"annotations": mark}}}
            body = {"metadata": {"annotations": mark}, "spec": template}
            return Edit("PATCH", path_of("Deployment", self.namespace, "fighter-0"), body)

        def label(number: int) -> Edit:
            body = {"metadata": {"labels": {"keyturn.dev/bind": "true" if number % 2 else None}}}
            return Edit("PATCH", path_of("Secret", self.namespace, f"moved-{number // 2 % 4}"), body)

        def as_keyturn(number: int) -> Edit:
            made = secret(self.namespace, "fight-2", self._own("own"))
            made["data"] = {"password": "cHduZWQ="}
            where = path_of("Secret", self.namespace, "fight-2") + "?fieldManager=keyturn&force=true"
            return Edit("PATCH", where, made, "application/apply-patch+yaml")

        def collide(number: int) -> Edit:
            name = (LONG_NAME, SHORT_NAME)[number % 2]
            return self._annotate("Secret", name, {STAGE: "AWSCURRENT" + " " * (number // 2 % 2)})

        both = workload(self.namespace, "collider", env_from(LONG_NAME))
        both["spec"]["template"]["spec"]["containers"][0]["envFrom"] += [{"secretRef": {"name": SHORT_NAME}}]
        colliding = [secret(self.namespace, each, self._own("own")) for each in (LONG_NAME, SHORT_NAME)]
        fighting = self._secrets("fight", 3, lambda n: self._own("own"))
        return [
            Attack(
                "a Secret whose value is put back", [*fighting, *self._deployments("fighter", 1, "fight-0")], values, 6
            ),
            Attack("a record that is stripped", [], strip, 6),
            Attack("marks that are stripped", [], unmark, 6),
            Attack("labels that are moved", self._secrets("moved", 4, lambda n: self._own("own")), label, 5),
            Attack("writes under the field manager keyturn", [], as_keyturn, 2),
            Attack("names whose marks collide", [*colliding, self._sleeping(both)], collide, 2),
        ]

    def _shapes(self) -> list[Attack]:
        """Objects and values that are dear to read because of their shape, not because of their number."""
        names = [f"none-{n}" for n in range(8_000)]
        wide = workload(self.namespace, "wide", {})
        wide["spec"]["template"]["spec"]["containers"][0]["env"] = [
            {"name": f"E{n}", "valueFrom": {"secretKeyRef": {"name": each, "key": "k"}}} for n, each in enumerate(names)
        ]
        keys = workload(self.namespace, "keys", {})
        keys["spec"]["template"]["spec"]["containers"][0]["env"] = [
            {"name": f"E{n}", "valueFrom": {"secretKeyRef": {"name": "own-0", "key": each}}}
            for n, each in enumerate(names)
        ]
        projected = workload(self.namespace, "projected", {})
        sources = [{"secret": {"name": f"n{n}"}} for n in range(60_000)]
        projected["spec"]["template"]["spec"]["volumes"] = [{"name": "all", "projected": {"sources": sources}}]
        marked = self._sleeping(workload(self.namespace, "marked", env_from("own-0")))
        marks = {f"{MARK_PREFIX}m{n}": "x" * 32 for n in range(3_500)}
        marked["metadata"]["annotations"] = marks
        small_marks = {f"{MARK_PREFIX}{n}": "" for n in range(3_000)}
        full_of_marks = self._deployments("marks", self._count(20), "own-0")
        for each in full_of_marks:
            each["metadata"]["annotations"] = each["spec"]["template"]["metadata"]["annotations"] = small_marks
        bomb = "a: &a [x, x]\n" + "\n".join(f"b{n}: &b{n} [*a, *a, *a]" for n in range(200))
        anchors = "\n".join(["A: &x 'own'", *(f"B{n}: *x" for n in range(3_000))])
        tags = "\n".join(f"!!python/object:os.system K{n}: !!binary 'aWQ='" for n in range(500))
        dates = "\n".join(f"2026-11-{n:02d}: 0x{n:02x}" for n in range(1, 29))
        unicode = "\n".join(f'K{n}: \'"\u0041\u030a{n}" || "\u00c5{n}"\'' for n in range(200))
        thousands = "\n".join(f"K{n}: password" for n in range(3_500))
        texts = (bomb, anchors, tags, dates, unicode, thousands, "{" * 30_000, "- " * 30_000, "? " * 30_000)
        count = len(texts)
        yamls = [secret(self.namespace, f"yaml-{n}", self._own("own"), **{DATA: each}) for n, each in enumerate(texts)]
        odd = [secret(self.namespace, f"odd-{each}", self._own(each)) for each in ODD_VALUES]
        labelled = secret(self.namespace, FINALIZED, self._own("own"))
        labelled["metadata"]["labels"] |= {f"l{n}": "x" * 63 for n in range(2_000)}
        labelled["metadata"]["finalizers"] = [f"x.y/f{n}" for n in range(300)]

        thousand_keys = secret(self.namespace, "thousand-keys", self._own("own"), **{DATA: thousands})
        its_readers = self._deployments("thousand", self._count(300), "thousand-keys")

        def toggle(number: int) -> Edit:
            off = {"keyturn.dev/rollout": "disabled" if number // len(its_readers) % 2 else None}
            return self._annotate("Deployment", f"thousand-{number % len(its_readers)}", off)

        def mark(number: int) -> Edit:
            value = {each: str(number) for each in list(small_marks)[:100]}
            return self._annotate("Deployment", f"marks-{number % len(full_of_marks)}", value)

        wides = [self._sleeping(each) for each in (wide, keys, projected)] + [marked]
        dense = []
        for number in range(self._count(20)):
            made = workload(self.namespace, f"dense-{number}", {"tolerations": [{"operator": "Exists"}] * 50_000})
            dense.append(self._sleeping(made))
        crowded = self._secrets("crowded", self._count(40), lambda n: self._own("own"))
        for each in crowded:
            each["data"] = {f"k{n}": "" for n in range(8_000)}

        def widen(number: int) -> Edit:
            name = wides[number % len(wides)]["metadata"]["name"]
            return self._annotate("Deployment", name, {"note": str(number)})

        def touch(number: int) -> Edit:
            name = f"crowded-{number % len(crowded)}"
            return self._annotate("Secret", name, {STAGE: "AWSCURRENT" + " " * (number // len(crowded) % 2)})

        def manager(number: int) -> Edit:
            # Each name becomes an entry of managedFields.
            where = path_of("Secret", self.namespace, FINALIZED) + f"?fieldManager=m{number}"
            return Edit("PATCH", where, {"metadata": {"annotations": {f"n{number}": "x"}}})

        def delete(number: int) -> Edit:
            return Edit("DELETE", path_of("Secret", self.namespace, f"odd-{ODD_VALUES[number % len(ODD_VALUES)]}"))

        return [
            Attack("workloads that name thousands of Secrets, and have thousands of marks", wides, widen, 3),
            Attack(
                "workloads of 50,000 small parts",
                dense,
                lambda n: self._annotate("Deployment", f"dense-{n % len(dense)}", {"note": str(n)}),
                1,
            ),
            Attack("Secrets with 8,000 keys", crowded, touch, 2),
            Attack("readers of 3,500 keys that come and go", [thousand_keys, *its_readers], toggle, 5),
            Attack("workloads full of marks", full_of_marks, mark, 1),
            Attack(
                "YAML that is dear to read",
                yamls,
                lambda n: self._annotate("Secret", f"yaml-{n % count}", {STAGE: "AWSCURRENT" + " " * (n // count % 2)}),
                3,
            ),
            Attack("values that are dear to render", odd),
            Attack("metadata without end", [labelled], manager, 2),
        ]
