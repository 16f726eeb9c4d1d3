"""The release's template, deployed by the command that docs/aws.md prints: plain CloudFormation, without SAM."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from uuid import uuid4

import pytest

from keyturn_local.aws.emulator import sam
from keyturn_local.aws.emulator.server import Emulator
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.paths import ROOT
from support.site import Endpoints, Site

VERSION = "9.8.7"
PAGE = (ROOT / "docs" / "aws.md").read_text().partition("\n## Without SAM\n")[2]


def commands() -> list[str]:
    """Return the lines of the section's first code block, with continuation lines joined."""
    (block, *_) = re.findall(r"^```\n(aws .*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return re.sub(r" *\\\n *", " ", block).splitlines()


@pytest.fixture(scope="module")
def site(control_plane: ControlPlane, emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    package = [sys.executable, ROOT / "lambda" / "package", sam.build(), directory, VERSION]
    subprocess.run(package, check=True)
    bucket, name = f"code-{uuid4().hex[:6]}", f"keyturn-{uuid4().hex[:6]}"
    emulator.client("s3").create_bucket(Bucket=bucket)
    endpoints = Endpoints(directory)
    given = endpoints.parameters()
    for line in commands():
        line = line.replace("X.Y.Z", VERSION).replace("BUCKET", bucket)
        words = [name if word == "keyturn" else word for word in shlex.split(line)]
        if "--parameter-overrides" in words:
            words = [word for word in words if not word.startswith("ReceiverUrls=")]
            words += [f"{parameter}={value}" for parameter, value in given.items()]
        done = subprocess.run(words, cwd=directory, env=emulator.tool_environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    deployment = sam.describe(emulator, name)
    try:
        with Site.of(control_plane, deployment, endpoints, directory) as running:
            running.start_receivers()
            yield running
    finally:
        deployment.delete()


def test_rotation_arrives(site: Site) -> None:
    site.bind("token")
    site.put("token", "second")
    site.wait_applied("token", "second")


def test_functions_run_the_code_of_the_zip(site: Site, emulator: Emulator) -> None:
    functions = emulator.client("lambda")
    configurations = [
        functions.get_function(FunctionName=site.deployment.outputs[output])["Configuration"]
        for output in ("NotifierName", "SigningKeyRotationName")
    ]
    assert len({each["CodeSha256"] for each in configurations}) == 1
    assert {each["Runtime"] for each in configurations} == {"python3.13"}
