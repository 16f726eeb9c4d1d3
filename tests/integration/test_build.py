"""`sam validate` and `sam build` with the real SAM command line, on a machine whose only Python is 3.11."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keyturn_local.aws.template import FILE, read
from keyturn_local.notifier import artifact
from support.project_files import project_files

ROOT = FILE.parent
SAM = ROOT / ".venv-sam" / "bin" / "sam"
MEGABYTE = 1024 * 1024
FUNCTIONS = {
    name: each["Properties"]
    for name, each in read()["Resources"].items()
    if each["Type"] == "AWS::Serverless::Function"
}


def sam(*arguments: str, cwd: Path, path: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": path,
        "HOME": str(cwd),
        "SAM_CLI_TELEMETRY": "0",
        "AWS_DEFAULT_REGION": "eu-central-1",
        # These variables tell how this machine reaches its package index. No other variables are passed on.
        **{name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "SSL_"))},
        **{name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")},
    }
    return subprocess.run([SAM, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the files of the project, but without leftovers of earlier builds."""
    directory = tmp_path_factory.mktemp("clone")
    for file in project_files():
        if file.startswith(("lambda/", "template.yaml", "samconfig.toml")) and (ROOT / file).is_file():
            (directory / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, directory / file)
    return directory


@pytest.fixture(scope="module")
def only_311(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a PATH with the tools that the build needs and a single Python, but without uv."""
    directory = tmp_path_factory.mktemp("bin")
    for tool in ("make", "sh", "cp", "find", "rm", "mktemp", "mkdir"):
        (directory / tool).symlink_to(shutil.which(tool) or tool)
    (directory / "python3").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    return str(directory)


@pytest.fixture(scope="module")
def built(clone: Path, only_311: str) -> Path:
    done = sam("build", cwd=clone, path=only_311)
    assert done.returncode == 0, done.stderr[-2000:]
    return clone / ".aws-sam" / "build"


def test_template_is_valid(clone: Path, only_311: str) -> None:
    done = sam("validate", "--lint", cwd=clone, path=only_311)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("function", FUNCTIONS)
def test_function_is_built_for_lambda_and_is_small(built: Path, function: str) -> None:
    directory = built / function
    module, _, name = FUNCTIONS[function]["Handler"].rpartition(".")
    source = (directory / (module.replace(".", "/") + ".py")).read_text()
    assert name in {node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)}
    assert artifact.size(directory) <= 25 * MEGABYTE
    # Any compiled files must match the architecture in the template. At present there are none.
    compiled = [file for file in directory.rglob("*") if file.is_file() and file.read_bytes()[:4] == b"\x7fELF"]
    machines = {int.from_bytes(file.read_bytes()[18:20], "little") for file in compiled}
    assert machines <= {183}, "not AArch64: https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.eheader.html"


@pytest.mark.parametrize("function", FUNCTIONS)
def test_function_holds_the_same_modules_as_the_artifact_of_the_tests(built: Path, function: str) -> None:
    """The artifact that the tests build has exactly the modules that the functions import, as test_artifact.py
    shows."""
    here = {str(file.relative_to(directory)) for directory in [artifact.build()] for file in directory.rglob("*.py*")}
    there = {str(file.relative_to(built / function)) for file in (built / function).rglob("*.py*")}
    assert there == here


def test_artifact_keeps_botocore_data_of_exactly_the_called_services(built: Path) -> None:
    described = {each.name for each in (built / "Notifier" / "botocore" / "data").iterdir() if each.is_dir()}
    called = {
        node.args[0].value
        for file in (ROOT / "lambda").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "aws.client"
        if isinstance(node.args[0], ast.Constant)
    }
    assert described == called


@pytest.mark.long
def test_second_build_gives_the_same_bytes(built: Path, clone: Path, only_311: str) -> None:
    before = digest(built / "Notifier")
    done = sam("build", "Notifier", "--build-dir", "again", cwd=clone, path=only_311)
    assert done.returncode == 0, done.stderr[-2000:]
    assert digest(clone / "again" / "Notifier") == before


def digest(directory: Path) -> dict[str, int]:
    return {
        str(file.relative_to(directory)): hash(file.read_bytes()) for file in directory.rglob("*") if file.is_file()
    }


def test_built_template_names_the_artifacts(built: Path) -> None:
    resources = read(built / "template.yaml")["Resources"]
    assert {name: resources[name]["Properties"]["CodeUri"] for name in FUNCTIONS} == {name: name for name in FUNCTIONS}
    assert json.dumps(resources).count("python3.13") in (0, len(FUNCTIONS))  # SAM may keep the runtime in Globals
