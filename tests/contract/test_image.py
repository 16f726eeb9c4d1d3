"""The instructions of receiver/Dockerfile, and the files that .dockerignore lets into the build context."""

import json
import os
import re
from pathlib import Path

from keyturn_receiver.settings import Settings
from support.project_files import project_files

ROOT = Path(__file__).parents[2]
INSTALL = (ROOT / "receiver" / "install").read_text()


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile in order. Each is a pair of its name and the rest of its line."""
    text = re.sub(r"\\\n", " ", (ROOT / "receiver" / "Dockerfile").read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


SAID = instructions()
FINAL = SAID[max(index for index, (name, _) in enumerate(SAID) if name == "FROM") :]


def said(name: str, among: list[tuple[str, str]] = SAID) -> list[str]:
    return [rest for each, rest in among if each == name]


def copied() -> list[str]:
    """Return the files and folders of the repository that the Dockerfile copies into the image."""
    return [source for rest in said("COPY") if not rest.startswith("--from") for source in rest.split()[:-1]]


def test_both_stages_use_the_given_base_image() -> None:
    """The environment's python3 is a link into the base image, so both stages need the same base image."""
    assert SAID[0] == ("ARG", "BASE=python:3.13-slim-bookworm")  # the release reads the base image from this line
    assert said("FROM") == ["${BASE} AS build", "${BASE}"]


def test_image_runs_as_a_numbered_user_that_is_not_root() -> None:
    user, group = said("USER", FINAL)[-1].split(":")
    assert int(user) > 0
    assert int(group) > 0


def test_final_stage_copies_the_environment_alone_and_runs_nothing() -> None:
    assert said("COPY", FINAL) == ["--from=build /opt/keyturn /opt/keyturn"]
    assert not {"RUN", "ADD", "HEALTHCHECK", "CMD"} & {name for name, _ in FINAL}


def test_image_is_installed_by_the_tested_script() -> None:
    (command,) = said("RUN")
    program, directory = json.loads(command)
    assert program == "/keyturn/receiver/install"  # COPY puts the script at this path
    assert os.access(ROOT / "receiver" / "install", os.X_OK)
    entry = json.loads(said("ENTRYPOINT", FINAL)[0])
    assert entry == [f"{directory}/bin/python", "-m", "keyturn_receiver"]


def test_packages_are_pinned_by_hash() -> None:
    (installing,) = re.findall(r"-m pip (?:.*\\\n)*.*", INSTALL)
    assert "--require-hashes" in installing
    assert "--only-binary :all:" in installing
    named = re.findall(r"requirements/\w+\.txt", installing)
    assert sorted(named) == sorted(source for source in copied() if source.startswith("requirements/"))


def test_image_exposes_the_ports_of_the_receiver() -> None:
    fields = Settings.model_fields
    ports = [str(fields[name].default) for name in ("port", "operations_port")]
    assert said("EXPOSE", FINAL) == [" ".join(ports)]


def test_build_context_holds_exactly_the_copied_files() -> None:
    files = project_files()
    wanted = {file for file in files if file.startswith(tuple(copied()))}
    assert {source for source in copied() if not any(file.startswith(source) for file in wanted)} == set()
    assert {file for file in files if sent(file)} == wanted
    assert not sent("receiver/keyturn_receiver/__pycache__/app.cpython-311.pyc")
    assert not sent("infra/keyturn_local/aws/server.py")


def sent(file: str) -> bool:
    """Return whether .dockerignore lets a file into the build context.

    If several patterns match the file or a folder above it, the last of them decides.
    """
    through = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if not line or line.startswith("#"):
            continue
        parts = re.escape(pattern).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if re.match(rf"{parts}(?:/|$)", file):
            through = line.startswith("!")
    return through
