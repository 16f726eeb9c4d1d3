"""Runner of `sam build`, `sam package` and `sam deploy`, with the real command line of SAM.

``python -m keyturn_local.aws.emulator.sam`` runs `sam build`, unless the current sources are already built.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from keyturn_local.aws import sdk
from keyturn_local.aws.emulator.server import Emulator
from keyturn_local.paths import ROOT
from keyturn_local.toolchain import cache, lambda_recipe

SAM = lambda_recipe.BIN / "sam"
CACHE = ROOT / "build" / "sam"
SOURCES = ("template.yaml", "samconfig.toml", "lambda")


class DeployFailed(RuntimeError):
    """A command of SAM failed, for example because CloudFormation refused the deployment. The text is SAM's output."""


@dataclass(frozen=True)
class Deployment:
    """A deployed stack and its outputs."""

    emulator: Emulator
    name: str
    outputs: Mapping[str, str]

    def resources(self) -> dict[str, str]:
        """Return the physical ids of the resources by their logical ids."""
        cloudformation = self.emulator.client("cloudformation")
        pages = cloudformation.get_paginator("list_stack_resources").paginate(StackName=self.name)
        return {
            each["LogicalResourceId"]: each["PhysicalResourceId"]
            for page in pages
            for each in page["StackResourceSummaries"]
        }

    def delete(self) -> None:
        """Delete the stack, and wait until it is gone."""
        cloudformation = self.emulator.client("cloudformation")
        cloudformation.delete_stack(StackName=self.name)
        cloudformation.get_waiter("stack_delete_complete").wait(
            StackName=self.name, WaiterConfig={"Delay": 1, "MaxAttempts": 60}
        )


def build(source: Path = ROOT) -> Path:
    """Run `sam build` on a copy of the sources, unless these sources are already built. Return the build's folder."""
    directory = CACHE / cache.digest(source, SOURCES)
    with cache.lock(CACHE / "lock"):
        if not directory.exists():
            copy = CACHE / f"{directory.name}-source"
            shutil.rmtree(copy, ignore_errors=True)
            copy.mkdir(parents=True)
            for each in SOURCES:
                if (source / each).is_dir():
                    shutil.copytree(source / each, copy / each, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(source / each, copy / each)
            _sam(["build"], copy, _build_environment())
            (copy / ".aws-sam" / "build").rename(directory)
            shutil.rmtree(copy)
    return directory


def package(emulator: Emulator, bucket: str, built: Path | None = None) -> str:
    """Run `sam package` for a build. Return the URL of the packaged template.

    CloudFormation can deploy this template without SAM. This function also creates ``bucket``, and uploads the template
    to it.
    """
    s3 = emulator.client("s3")
    s3.create_bucket(Bucket=bucket)
    with tempfile.TemporaryDirectory() as directory:
        packaged = Path(directory) / "packaged.yaml"
        source = str((built or build()) / "template.yaml")
        command = ["package", "--template-file", source, "--s3-bucket", bucket, "--output-template-file", str(packaged)]
        _sam(command, ROOT, emulator.tool_environment())
        s3.upload_file(str(packaged), bucket, "packaged.yaml")
    return f"{emulator.endpoint_url}/{bucket}/packaged.yaml"


def deploy(
    emulator: Emulator,
    stack: str,
    parameters: Mapping[str, str],
    built: Path | None = None,
    credentials: Mapping[str, str] | None = None,
) -> Deployment:
    """Run `sam deploy` for a build, with the defaults of samconfig.toml. Raises DeployFailed.

    ``credentials`` are environment variables with AWS credentials of a role. If they are not given, the root user
    deploys.
    """
    overrides = [f"{name}={value}" for name, value in parameters.items()]
    _sam(
        [
            *("deploy", "--template-file", str((built or build()) / "template.yaml"), "--stack-name", stack),
            *(
                "--config-file",
                str(ROOT / "samconfig.toml"),
                "--no-confirm-changeset",
                "--parameter-overrides",
                *overrides,
            ),
        ],
        ROOT,
        {**emulator.tool_environment(), **(credentials or {})},
    )
    return describe(emulator, stack)


def describe(emulator: Emulator, stack: str) -> Deployment:
    """Return a stack that is already deployed."""
    (found,) = emulator.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
    outputs = {each["OutputKey"]: each["OutputValue"] for each in found.get("Outputs", [])}
    return Deployment(emulator, stack, outputs)


def _sam(arguments: list[str], directory: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run([SAM, *arguments], cwd=directory, env=dict(environment), capture_output=True, text=True)
    if done.returncode != 0:
        printed = f"{done.stdout}\n{done.stderr}".splitlines()
        raise DeployFailed("\n".join(line for line in printed if "Uploading to" not in line))


def _build_environment() -> dict[str, str]:
    return {
        **lambda_recipe.environment(left_out=["PYTHONPATH"]),
        "SAM_CLI_TELEMETRY": "0",
        "AWS_DEFAULT_REGION": sdk.REGION,
    }


if __name__ == "__main__":
    build()
