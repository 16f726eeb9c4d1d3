"""Bad parameters are refused at deploy time, and bad receivers are named in words in the notifier's log."""

import base64
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from keyturn_local.aws.emulator import sam
from keyturn_local.aws.emulator.server import Emulator
from keyturn_local.processes.ports import free_ports
from support import stacks
from support.authority import Authority
from support.fake_receiver import FakeReceiver
from support.sam import RECEIVER
from support.site import notifier_log
from support.wait import eventually


@pytest.fixture(scope="module")
def packaged(emulator: Emulator) -> str:
    """The URL of the packaged template, as `sam package` makes it."""
    return sam.package(emulator, f"bucket-{uuid4().hex[:6]}")


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"SubnetIds": "subnet-1"}, "SecurityGroupIds must be set if SubnetIds is set"),
        ({"SubnetIds": "vpc-1", "SecurityGroupIds": "sg-1"}, "must be IDs of subnets"),
        ({"SecurityGroupIds": "sg-1"}, "SubnetIds must be set if SecurityGroupIds is set"),
        ({"NoProxy": "10.0.0.0/8"}, "HttpsProxy must be set if NoProxy is set"),
        ({"HttpsProxy": "https://proxy:3128"}, "must be http://HOST:PORT"),
        ({"Labels": 'BLUE"'}, "must be staging labels, separated by commas without spaces, quotes and backslashes"),
        ({"CaBundle": "-----BEGIN CERTIFICATE-----"}, "must be certificates in base64 on one line"),
        ({"ReceiverUrls": "http://keyturn.example.com/v1/notifications"}, "must be https://HOST/v1/notifications"),
        ({"NamePrefixes": "a,b,c,d,e,f"}, "must be one to five prefixes of secret names"),
        ({"ReceiverRoleArns": "arn:aws:iam::222222222222:role/r"}, "KmsKeyArn must be set if ReceiverRoleArns is set"),
        ({"ExtraRuleArns": "my-rule"}, "must be ARNs of EventBridge rules"),
    ],
)
def test_bad_parameter_is_refused_with_what_to_give(
    emulator: Emulator, packaged: str, parameters: dict[str, str], words: str
) -> None:
    before = stacks.inventory(emulator)
    with pytest.raises(stacks.Refused, match=words):
        stacks.create(emulator, packaged, f"bad-{uuid4().hex[:6]}", **{"ReceiverUrls": RECEIVER, **parameters})
    assert stacks.inventory(emulator) == before


def test_sam_prints_why_parameters_are_refused(emulator: Emulator) -> None:
    with pytest.raises(sam.DeployFailed, match="SecurityGroupIds must be set if SubnetIds is set"):
        sam.deploy(emulator, "bad", {"ReceiverUrls": RECEIVER, "SubnetIds": "subnet-1"})


def test_receivers_that_cannot_take_an_event_are_told_in_words(
    emulator: Emulator, packaged: str, tmp_path: Path
) -> None:
    """The receivers are one whose CA Python 3.13 refuses, a web page in a receiver's place, and a port without a
    listener."""
    good, lax = Authority(), Authority(key_identifier=False)
    (nobody,) = free_ports(1)
    urls = {"refused": f"https://127.0.0.1:{nobody}/v1/notifications"}
    with (
        closing(FakeReceiver(good.server_context(tmp_path))) as page,
        closing(FakeReceiver(lax.server_context(tmp_path))) as strict,
    ):
        page.is_marked = False
        page.extra_headers = {"Content-Type": "text/html"}
        page.respond = lambda headers, body: (200, b"<html><body>Please log in</body></html>")
        urls |= {"page": page.url, "strict": strict.url}
        bundle = base64.b64encode(good.pem + lax.pem).decode()
        given = {"ReceiverUrls": ",".join(urls.values()), "CaBundle": bundle}
        with stacks.deployed(emulator, packaged, f"words-{uuid4().hex[:6]}", **given) as deployment:
            emulator.client("secretsmanager").create_secret(Name=deployment.name, SecretString="first")
            emulator.client("secretsmanager").put_secret_value(SecretId=deployment.name, SecretString="second")
            log = notifier_log(deployment)
            (line,) = eventually(
                lambda: [each for each in log.lines() if each.get("message") == "not delivered"][:1], 60
            )
    answers = {name: line["answers"][urlsplit(url).netloc] for name, url in urls.items()}
    assert answers == {
        "refused": "connection refused",
        "page": "status 200: a web page answers in the receiver's place",
        "strict": "TLS: Missing Authority Key Identifier",
    }


def test_bundle_that_is_no_certificate_is_told_in_words(emulator: Emulator, packaged: str) -> None:
    given = {"ReceiverUrls": RECEIVER, "CaBundle": base64.b64encode(b"no certificate").decode()}
    with stacks.deployed(emulator, packaged, f"words-{uuid4().hex[:6]}", **given) as deployment:
        emulator.client("secretsmanager").create_secret(Name=deployment.name, SecretString="first")
        emulator.client("secretsmanager").put_secret_value(SecretId=deployment.name, SecretString="second")
        log = notifier_log(deployment)
        eventually(lambda: "item 1 has no certificate: give a certificate" in log.text(), 60)
