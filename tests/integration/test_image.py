"""The contents of the image. The tests run the script of the image's build in an otherwise empty environment."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import cli
from support.fault_env import FaultEnv
from support.otlp_collector import OtlpCollector
from support.page_client import PageClient
from support.wait import eventually

ROOT = Path(__file__).parents[2]
INSTALL = ROOT / "receiver" / "install"
PACKAGES = {
    "keyturn_receiver": ROOT / "receiver",
    "keyturn_contract": ROOT / "lambda",
    "keyturn_cli": ROOT / "cli",
}
MODULES = sorted(
    ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    for name, root in PACKAGES.items()
    for file in (root / name).rglob("*.py")
    if file.name != "__main__.py"  # importing this module would run the program
)


def install(directory: Path, python: Path = Path(sys.executable)) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [INSTALL, directory], env={**os.environ, "PYTHON": str(python)}, capture_output=True, text=True, timeout=280
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("image") / "keyturn"
    done = install(directory)
    assert done.returncode == 0, done.stderr[-2000:]
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def python(installed: Path) -> Path:
    return installed / "bin" / "python"


@pytest.fixture(scope="module")
def site(installed: Path) -> Path:
    (found,) = installed.glob("lib/python3.*/site-packages")
    return found


def said(python: Path, code: str) -> str:
    return subprocess.run([python, "-I", "-c", code], env={}, capture_output=True, text=True, check=True).stdout


def normal(name: str) -> str:
    """Return a package name in its normalized form.

    https://packaging.python.org/en/latest/specifications/name-normalization/
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def test_environment_imports_every_module(python: Path) -> None:
    outside = "[each for each in sys.modules.values() if '" + str(ROOT) + "' in (getattr(each, '__file__', '') or '')]"
    assert said(python, f"import sys, {', '.join(MODULES)}; print({outside})") == "[]\n"


def test_environment_holds_exactly_the_pinned_packages(python: Path) -> None:
    """Not even pip is there, so nothing can be installed into a running receiver."""
    pinned = {
        normal(line.split("==")[0])
        for name in ("receiver", "tracing", "cli")
        for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
        if re.match(r"[a-z]", line) and "sys_platform == 'win32'" not in line
    }
    code = "import importlib.metadata as m; print(*(each.metadata['Name'] for each in m.distributions()))"
    assert {normal(name) for name in said(python, code).split()} == pinned
    assert not {"pip", "setuptools"} & pinned


def test_environment_holds_our_packages_unchanged(site: Path) -> None:
    for name, root in PACKAGES.items():
        there = {file.relative_to(site): file.read_bytes() for file in (site / name).rglob("*.py")}
        assert there == {file.relative_to(root): file.read_bytes() for file in (root / name).rglob("*.py")}


def test_environment_holds_no_program_but_python(installed: Path) -> None:
    assert {each.name.rstrip("0123456789.") for each in (installed / "bin").iterdir()} == {"python"}


def test_botocore_data_is_that_of_the_called_services(site: Path) -> None:
    described = {each.name for each in (site / "botocore" / "data").iterdir() if each.is_dir()}
    called = {
        node.args[0].value
        for file in (ROOT / "receiver").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith((".client", ".create_client"))
        if node.args and isinstance(node.args[0], ast.Constant)
    }
    assert described == called


def test_bytecode_matches_the_sources(site: Path) -> None:
    """According to PEP 552, flags of 1 stand for an unchecked hash. So Python uses the bytecode no matter what the
    files' times are."""
    compiled = list(site.rglob("*.pyc"))
    assert {file.read_bytes()[4:8] for file in compiled} == {(1).to_bytes(4, "little")}
    assert {file.parents[1] / f"{file.name.split('.')[0]}.py" for file in compiled} == set(site.rglob("*.py"))


@pytest.mark.long
def test_installing_twice_gives_the_same_bytes(installed: Path, tmp_path: Path) -> None:
    kept = tmp_path / "first"
    installed.rename(kept)  # bytecode contains its own path, so both need the same path
    try:
        assert install(installed).returncode == 0
        assert contents(installed) == contents(kept)
    finally:
        shutil.rmtree(installed, ignore_errors=True)
        kept.rename(installed)


def contents(directory: Path) -> dict[Path, bytes]:
    return {file.relative_to(directory): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


def test_receiver_runs_from_the_environment(
    env: FaultEnv, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    receiver = env.receiver(python=python)
    assert receiver.ready()[0] == 200
    env.create_bound_secret()
    assert env.send(env.rotate()).outcome == "applied"
    assert "<h1>Keyturn" in PageClient(receiver.page_url).get("/")
    env.wait_converged()


def test_command_line_runs_from_the_environment(env: FaultEnv, python: Path) -> None:
    env.receiver(python=python)
    env.create_bound_secret()
    variables = cli.environment(env.cluster.kubeconfig)
    del variables["PYTHONPATH"]
    command = [python, "-m", "keyturn_cli", "status", env.namespace]
    ran = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines()[1].endswith(" ok")


def test_receiver_traces_from_the_environment(
    env: FaultEnv, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collector: OtlpCollector
) -> None:
    """In an installation from source, traces are an optional extra. The image contains them, so a setting is enough."""
    monkeypatch.chdir(tmp_path)
    env.receiver(python=python, **collector.settings)
    env.create_bound_secret()
    assert env.send(env.rotate()).outcome == "applied"
    eventually(lambda: "delivery" in {span.name for span in collector.spans})


class TestWhatItRefuses:
    def test_existing_directory_is_refused(self, tmp_path: Path) -> None:
        done = install(tmp_path)
        assert (done.returncode, done.stderr) == (1, f"receiver/install: {tmp_path} already exists\n")

    def test_python_without_pip_is_refused(self, python: Path, tmp_path: Path) -> None:
        self.refuses(python, tmp_path, "has no module pip")

    def test_python_without_venv_is_refused(self, tmp_path: Path) -> None:
        stub = self.stub(tmp_path, "import venv")
        self.refuses(stub, tmp_path, "has no module venv")

    def test_python_that_is_too_old_is_refused(self, tmp_path: Path) -> None:
        stub = self.stub(tmp_path, "version_info")
        self.refuses(stub, tmp_path, "is older than Python 3.11")

    def test_missing_python_is_refused(self, tmp_path: Path) -> None:
        self.refuses(tmp_path / "python", tmp_path, "there is no ")

    def stub(self, directory: Path, refused: str) -> Path:
        """Return a fake Python that fails if its second argument contains ``refused``, and otherwise runs the real
        one."""
        made = directory / "python"
        made.write_text(f'#!/bin/sh\ncase "$2" in *"{refused}"*) exit 1 ;; esac\nexec {sys.executable} "$@"\n')
        made.chmod(0o755)
        return made

    def refuses(self, python: Path, directory: Path, why: str) -> None:
        done = install(directory / "made", python)
        assert done.returncode == 1
        assert why in done.stderr
        assert done.stderr.count("\n") == 1
        assert not (directory / "made").exists()
