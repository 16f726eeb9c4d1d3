"""The installable package: what `pip install .` gives."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from support.project_files import ROOT, project_files


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    for file in project_files():  # a copy, because a build writes into its folder
        if file.startswith(("cli/", "lambda/keyturn_contract/", "receiver/", "requirements/")) or "/" not in file:
            (directory / "src" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, directory / "src" / file)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", directory, directory / "src"]
    built = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert built.returncode == 0, built.stderr
    (made,) = directory.glob("*.whl")
    return made


def test_wheel_has_the_command_line_and_the_pure_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        names = {name for name in content.namelist() if name.endswith(".py")}
    expected = {
        str(file.relative_to(ROOT / root))
        for root, folder in (
            ("cli", "keyturn_cli"),
            ("lambda", "keyturn_contract"),
            ("receiver", "keyturn_receiver/core"),
        )
        for file in (ROOT / root / folder).rglob("*.py")
    }
    assert names == expected | {"keyturn_receiver/__init__.py", "keyturn_receiver/errors.py"}


def test_installed_programs_run(wheel: Path, tmp_path: Path) -> None:
    """The dependencies are those of this environment: requirements/cli.in names them, and cli.txt pins them."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path, wheel]
    subprocess.run(install, check=True, capture_output=True, timeout=100)
    programs = {each.name for each in (tmp_path / "bin").iterdir() if "keyturn" in each.name}
    assert programs == {"keyturn", "kubectl-keyturn", "kubectl_complete-keyturn"}
    env = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    asked = [("keyturn", "--version"), ("kubectl-keyturn", "--version"), ("kubectl_complete-keyturn", "sta")]
    outputs = [
        subprocess.run([tmp_path / "bin" / name, word], env=env, capture_output=True, text=True, check=True).stdout
        for name, word in asked
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].startswith("keyturn ")
    assert outputs[2] == "status\n:4\n"
