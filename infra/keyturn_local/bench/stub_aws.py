"""A stub of Secrets Manager. It answers after a fixed time, and needs little CPU time. So the speed of AWS does not
affect a measurement.

The stub answers the five calls that the receiver makes, sorts its list as AWS does, and counts the calls. Every role
can be assumed. Four further actions are for the benchmark: ``bench.Rotate``, ``bench.Age`` and ``bench.Renew`` change
the stub's secrets, and ``bench.Calls`` returns the counts. As with AWS's own actions, the header X-Amz-Target of a
request names the action.

``python -m keyturn_local.bench.stub_aws --host ADDRESS --port N --count N --latency SECONDS`` runs the stub.
"""

import argparse
import json
import os
import secrets
import sys
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvloop

from keyturn_contract.signature import new_key
from keyturn_local.aws import sdk
from keyturn_local.aws.imitation import ASSUME_ROLE, Reply, ask, assumed_role, serve
from keyturn_local.aws.sdk import ACCOUNT, REGION
from keyturn_local.processes.environment import IMPORT_ROOTS, clean_environment
from keyturn_local.processes.ports import free_ports
from keyturn_local.processes.program import Program, Stoppable, answers

SIGNING_KEY = "keyturn/signing-key"
PREFIX = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:"
PAGE = 100
SESSION_SECONDS = 3600  # seconds for which the credentials of a role are valid
CANARY = "canary-7f3a"  # every password starts with this text, so that a leak is recognized


class StubAws(Stoppable):
    """The stub as a process. Use it as a context manager, or call ``stop``."""

    def __init__(self, directory: Path, count: int, latency: float, host: str = "127.0.0.1") -> None:
        (port,) = free_ports(1)
        self.endpoint_url = f"http://{host}:{port}"
        self.signing_key = new_key(secrets.token_bytes(32))
        self.names = [name_of(number) for number in range(count)]
        command = [sys.executable, "-m", "keyturn_local.bench.stub_aws", "--host", host, "--port", str(port)]
        environment = {**clean_environment(), "PYTHONPATH": IMPORT_ROOTS, "STUB_SIGNING_KEY": self.signing_key}
        self._program = Program(
            "stub-aws", [*command, "--count", str(count), "--latency", str(latency)], directory, environment
        )
        self._program.wait_for(answers(self.endpoint_url), 30)

    def stop(self) -> None:
        """Stop the process."""
        self._program.stop()

    def environment(self) -> dict[str, str]:
        """Return the environment variables that make AWS's SDKs call the stub."""
        return sdk.environment(self.endpoint_url)

    def rotate(self, names: Sequence[str]) -> dict[str, str]:
        """Give each of these secrets a new value. Return the ids of the new versions by the secrets' names."""
        return dict(ask(self.endpoint_url, "bench.Rotate", {"names": list(names)}))

    def renew(self) -> None:
        """Set the time of every secret's last change to now."""
        ask(self.endpoint_url, "bench.Renew", {})

    def age(self, seconds: float) -> None:
        """Set the times at which the secrets last changed. They are one minute apart, and the latest is
        ``seconds`` ago."""
        ask(self.endpoint_url, "bench.Age", {"seconds": seconds})

    def calls(self) -> Counter[str]:
        """Return the number of calls by action. Calls about the signing key count as "SigningKey"."""
        return Counter(ask(self.endpoint_url, "bench.Calls", {}))


def name_of(number: int) -> str:
    """Return the name of one secret."""
    return f"bench/s{number:05d}"


def arn_of(name: str) -> str:
    """Return the ARN of the secret with this name."""
    return f"{PREFIX}{name}-a1b2c3"


class Secrets:
    """The stub's secrets, and its answers to calls."""

    def __init__(self, count: int, signing_key: str, latency: float) -> None:
        self.latency = latency
        self.versions = {name_of(number): str(uuid.uuid4()) for number in range(count)}
        self.changed = dict.fromkeys(self.versions, time.time())
        self.fixed = {SIGNING_KEY: signing_key}
        self.versions[SIGNING_KEY] = str(uuid.uuid4())
        self.changed[SIGNING_KEY] = 0.0
        self.calls: Counter[str] = Counter()

    def answer(self, action: str, body: Any) -> Any:
        """Answer one call."""
        service, _, name = action.partition(".")
        if service != "bench":
            about_key = _name(str(body.get("SecretId", ""))) == SIGNING_KEY
            self.calls["SigningKey" if about_key else name] += 1
        return getattr(self, f"do_{name}")(body)

    def reply(self, action: str, body: bytes, _authorization: str) -> Reply:
        """Answer one request. If it names no action, it is a call to STS or a readiness check.

        All roles have the same credentials, because the stub does not check credentials.
        """
        if action:
            content = json.dumps(self.answer(action, json.loads(body))).encode()
            return Reply(content, delay=0.0 if action.startswith("bench.") else self.latency)
        if ASSUME_ROLE.encode() not in body:
            return Reply(b"{}", delay=self.latency)
        self.calls[ASSUME_ROLE] += 1
        expiration = datetime.now(UTC) + timedelta(seconds=SESSION_SECONDS)
        xml = assumed_role(sdk.CREDENTIAL, sdk.CREDENTIAL, "t" * 900, expiration)
        return Reply(xml.encode(), "text/xml", delay=self.latency)

    def do_GetSecretValue(self, body: Any) -> Any:
        name = _name(body["SecretId"])
        version_id = self.versions[name]
        value = self.fixed.get(name) or json.dumps({"username": "app", "password": f"{CANARY}-{version_id}"})
        return {"ARN": arn_of(name), "Name": name, "VersionId": version_id, "SecretString": value}

    def do_BatchGetSecretValue(self, body: Any) -> Any:
        return {"SecretValues": [self.do_GetSecretValue({"SecretId": each}) for each in body["SecretIdList"]]}

    def do_DescribeSecret(self, body: Any) -> Any:
        name = _name(body["SecretId"])
        return {**self._entry(name), "VersionIdsToStages": {self.versions[name]: ["AWSCURRENT"]}}

    def do_ListSecrets(self, body: Any) -> Any:
        first = int(body.get("NextToken") or 0)
        size = min(PAGE, body.get("MaxResults", PAGE))
        if first == 0:
            self.listed = sorted(self.versions, key=lambda name: -self.changed[name])
        names = self.listed[first : first + size]
        stages = {name: {"SecretVersionsToStages": {self.versions[name]: ["AWSCURRENT"]}} for name in names}
        more = {"NextToken": str(first + size)} if first + size < len(self.listed) else {}
        return {"SecretList": [{**self._entry(name), **stages[name]} for name in names], **more}

    def do_Rotate(self, body: Any) -> Any:
        for name in body["names"]:
            self.versions[name] = str(uuid.uuid4())
            self.changed[name] = time.time()
        return {name: self.versions[name] for name in body["names"]}

    def do_Age(self, body: Any) -> Any:
        newest = time.time() - body["seconds"]
        self.changed = {name: newest - 60 * number for number, name in enumerate(self.changed)}
        return {}

    def do_Renew(self, body: Any) -> Any:
        self.changed = dict.fromkeys(self.changed, time.time())
        return {}

    def do_Calls(self, body: Any) -> Any:
        return self.calls

    def _entry(self, name: str) -> Any:
        changed = self.changed[name]
        dates = {"LastChangedDate": changed, "CreatedDate": changed, "LastAccessedDate": changed}
        return {"ARN": arn_of(name), "Name": name, "Tags": [], **dates}


def _name(secret_id: str) -> str:
    return secret_id.removeprefix(PREFIX)[:-7] if secret_id.startswith("arn:") else secret_id


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--latency", type=float, required=True)
    arguments = parser.parse_args()
    stub = Secrets(arguments.count, os.environ["STUB_SIGNING_KEY"], arguments.latency)
    uvloop.run(serve(arguments.host, arguments.port, stub.reply))
