"""The release: all parts have the same version, and the workflows name only files and jobs that exist."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import keyturn_receiver
from keyturn_local.aws.template import read

ROOT = Path(__file__).parents[2]
VERSION = keyturn_receiver.__version__
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
WORKFLOWS = {file.name: yaml.safe_load(file.read_text()) for file in (ROOT / ".github" / "workflows").glob("*.yml")}
JOBS = {f"{file}: {name}": job for file, workflow in WORKFLOWS.items() for name, job in workflow["jobs"].items()}
STEPS = [(name, step) for name, job in JOBS.items() for step in job.get("steps", [])]
USES = [line for file in WORKFLOWS for line in (ROOT / ".github" / "workflows" / file).read_text().splitlines()]
USES = [line.partition("uses:")[2].strip() for line in USES if "uses:" in line]


class TestVersion:
    def test_version_of_the_project_is_that_of_the_receiver(self) -> None:
        assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION

    def test_version_of_the_chart_is_that_of_the_receiver(self) -> None:
        text = (ROOT / "charts" / "keyturn" / "Chart.yaml").read_text()
        chart = yaml.safe_load(text)
        assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)
        assert set(re.findall(r"keyturn/receiver:(\S+)", text)) <= {VERSION}

    def test_stack_outputs_the_version(self) -> None:
        template = read()
        assert template["Outputs"]["Version"]["Value"] == {"Fn::FindInMap": ["Keyturn", "Release", "Version"]}
        assert template["Mappings"]["Keyturn"]["Release"]["Version"] == VERSION

    def test_newest_section_of_the_changelog_is_the_version(self) -> None:
        """Only a section with unreleased changes may come before it."""
        sections = re.findall(r"^## (\S+)", CHANGELOG, re.MULTILINE)
        assert [each for each in sections if each != "Unreleased"][:1] == [VERSION]
        assert "Unreleased" not in sections[1:]


class TestWorkflows:
    def test_action_is_pinned_to_a_commit_with_its_release(self) -> None:
        assert USES
        for uses in USES:
            assert uses.startswith("./") or re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", uses), uses

    def test_action_has_the_same_commit_everywhere(self) -> None:
        pinned = {tuple(uses.split("@", 1)) for uses in USES if "@" in uses}
        assert len(pinned) == len(dict(pinned))

    @pytest.mark.parametrize("file", WORKFLOWS)
    def test_workflow_grants_no_permission_to_all_jobs(self, file: str) -> None:
        assert WORKFLOWS[file]["permissions"] == {}

    @pytest.mark.parametrize("name", JOBS)
    def test_job_declares_its_permissions(self, name: str) -> None:
        allowed = JOBS[name]["permissions"]
        assert allowed["contents"] == ("write" if name == "release.yml: release" else "read")

    @pytest.mark.parametrize("name", [name for name, job in JOBS.items() if "steps" in job])
    def test_job_has_a_timeout(self, name: str) -> None:
        assert JOBS[name]["timeout-minutes"] <= 90

    def test_script_interpolates_no_text_from_outside(self) -> None:
        """GitHub pastes the value of an expression in braces into the script unchanged. That value may be the name of a
        branch."""
        assert [step["run"] for _, step in STEPS if "${{" in step.get("run", "")] == []

    def test_checkout_persists_no_token(self) -> None:
        checkouts = [step for _, step in STEPS if step.get("uses", "").startswith("actions/checkout@")]
        assert checkouts
        assert all(step["with"]["persist-credentials"] is False for step in checkouts)

    def test_output_used_by_another_job_is_declared(self) -> None:
        for name, job in JOBS.items():
            told = set(re.findall(r"needs\.(\w+)\.outputs\.(\w+)", yaml.safe_dump(job)))
            needed = job.get("needs", [])
            for other, output in told:
                assert other in ([needed] if isinstance(needed, str) else needed), name
                assert output in JOBS[f"{name.split(':')[0]}: {other}"]["outputs"], name

    def test_named_files_targets_and_folders_exist(self) -> None:
        runs = "\n".join(step.get("run", "") for _, step in STEPS)
        inputs = [str(step.get("with", {}).get("file", "")) for _, step in STEPS]
        called = [job["uses"] for job in JOBS.values() if "uses" in job]
        folders = r"(?<![\w/.-])(?:\.ci|charts|receiver|docs|lambda)/[\w./-]*\w"
        pattern = folders + r"|(?<![$\w-])[\w-]+\.(?:toml|yaml)\b|\bCHANGELOG\.md\b"
        named = {*re.findall(pattern, runs), *filter(None, inputs), *called}
        assert {".ci/run", "receiver/Dockerfile", "charts/keyturn", "samconfig.toml", "lambda/package"} <= named
        assert {file for file in named if not (ROOT / file).exists()} == set()
        rules = re.sub(r"\$\(SAM_VENV\)", ".venv-sam", (ROOT / "Makefile").read_text())
        for target in re.findall(r"\bmake (\S+)", runs):
            assert re.search(rf"^{re.escape(target)}:", rules, re.MULTILINE), target

    def test_release_is_tested_by_the_ci_workflow(self) -> None:
        (step,) = [step for name, step in STEPS if name == "ci.yml: test" and "run" in step]
        assert step["run"] == ".ci/run"
        assert JOBS["release.yml: test"]["uses"] == "./.github/workflows/ci.yml"
        assert True in WORKFLOWS["ci.yml"]  # YAML 1.1 reads the key "on" as true
        assert "workflow_call" in WORKFLOWS["ci.yml"][True]
        before = ["image", "stack"]  # the other jobs run after these
        assert all("test" in JOBS[f"release.yml: {name}"]["needs"] for name in before)
        assert {"image", "chart", "stack"} <= set(JOBS["release.yml: release"]["needs"])


def run(job: str, step_id: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a step of the release workflow in a temporary folder, with the shell that the runner uses."""
    (step,) = [step for name, step in STEPS if name == f"release.yml: {job}" and step.get("id") == step_id]
    shell = WORKFLOWS["release.yml"]["defaults"]["run"]["shell"].replace("{0}", "-c").split()
    given = {"PATH": os.environ["PATH"], **WORKFLOWS["release.yml"]["env"], **environment}
    return subprocess.run([*shell, step["run"]], cwd=cwd, env=given, capture_output=True, text=True)


class TestSteps:
    @pytest.mark.parametrize(("tag", "status"), [(f"v{VERSION}", 0), (VERSION, 1), ("v99.0.0", 1)])
    def test_tag_that_differs_from_the_version_ends_the_release(self, tag: str, status: int, tmp_path: Path) -> None:
        (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
        output = tmp_path / "output"
        done = run("version", "version", tmp_path, TAG=tag, GITHUB_OUTPUT=str(output))
        assert done.returncode == status, done.stderr
        assert not output.exists() if status else output.read_text() == f"version={VERSION}\n"

    def test_release_notes_are_the_changelog_section_and_the_artifacts(self, tmp_path: Path) -> None:
        (tmp_path / "dist").mkdir()
        (tmp_path / "dist" / "keyturn-1.2.0.tgz").write_text("chart")
        sections = ["# Changelog", "## Unreleased", "later", "## 1.2.0 - 2026-01-01", "this", "## 1.1.0", "before"]
        (tmp_path / "CHANGELOG.md").write_text("\n\n".join(sections))
        digests = {"BASE": "base@sha256:b", "IMAGE_DIGEST": "sha256:i", "CHART_DIGEST": "sha256:c"}
        done = run("release", "notes", tmp_path, VERSION="1.2.0", **digests)
        assert done.returncode == 0, done.stderr
        notes = (tmp_path / "notes.md").read_text()
        assert notes.startswith("\nthis\n\n## What is published")
        assert not {"later", "before"} & set(notes.split())
        assert "ghcr.io/keyturn/receiver:1.2.0@sha256:i" in notes
        assert all(digest in notes for digest in digests.values())
        check = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=tmp_path / "dist", capture_output=True)  # noqa: S607
        assert check.returncode == 0

    def test_base_image_is_read_from_the_dockerfile(self, tmp_path: Path) -> None:
        """A fake docker command answers in place of the registry."""
        (tmp_path / "receiver").mkdir()
        (tmp_path / "receiver" / "Dockerfile").write_text((ROOT / "receiver" / "Dockerfile").read_text())
        digest = "sha256:" + "a" * 64
        (tmp_path / "docker").write_text(f"""#!/bin/sh\necho '{{"digest": "{digest}"}}'\n""")
        (tmp_path / "docker").chmod(0o755)
        output = tmp_path / "output"
        path = f"{tmp_path}:{os.environ['PATH']}"
        done = run("image", "base", tmp_path, PATH=path, GITHUB_OUTPUT=str(output))
        assert done.returncode == 0, done.stderr
        assert output.read_text() == f"base=python:3.13-slim-bookworm@{digest}\n"


class TestPackage:
    """The release's files for those who deploy without SAM, made by the step of the workflow."""

    @pytest.fixture
    def project(self, tmp_path: Path) -> Path:
        """Return a folder with what the step needs, and a build of two functions with the same code."""
        (tmp_path / "lambda").mkdir()
        for file in ("lambda/package", "template.yaml", "samconfig.toml"):
            shutil.copy(ROOT / file, tmp_path / file)
        for function in ("Notifier", "SigningKeyRotation"):
            code = tmp_path / ".aws-sam" / "build" / function / "keyturn_notifier"
            code.mkdir(parents=True)
            (code / "handler.py").write_text("print('hello')\n")
            (code.parent / "boto3.py").write_text("")
        return tmp_path

    def package(self, project: Path) -> subprocess.CompletedProcess[str]:
        return run("stack", "package", project, VERSION="1.2.0")

    def test_zip_has_the_code_of_the_function_in_the_same_bytes_each_time(self, project: Path) -> None:
        made = project / "dist" / "keyturn-function-1.2.0.zip"
        assert self.package(project).returncode == 0
        first = made.read_bytes()
        for file in (project / ".aws-sam").rglob("*.py"):
            os.utime(file, (0, 0))
        assert self.package(project).returncode == 0
        assert made.read_bytes() == first
        with zipfile.ZipFile(made) as archive:
            assert archive.namelist() == ["boto3.py", "keyturn_notifier/handler.py"]
            assert {each.external_attr >> 16 for each in archive.infolist()} == {0o100644}

    def test_template_takes_bucket_and_key_and_is_otherwise_the_stacks(self, project: Path) -> None:
        assert self.package(project).returncode == 0
        file = project / "dist" / "keyturn-template-1.2.0.yaml"
        made, ours = read(file), read()
        code = made["Globals"]["Function"].pop("CodeUri")
        assert code == {"Bucket": {"Ref": "CodeBucket"}, "Key": {"Ref": "CodeKey"}}
        assert ours["Globals"]["Function"].pop("CodeUri") == "lambda/"
        assert {"CodeBucket", "CodeKey"} == made["Parameters"].keys() - ours["Parameters"].keys()
        for name in ("CodeBucket", "CodeKey"):
            assert "Default" not in made["Parameters"].pop(name)
        assert made["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"].pop(0)["Parameters"] == [
            "CodeBucket",
            "CodeKey",
        ]
        assert made == ours
        lint = Path(sys.executable).with_name("cfn-lint")
        done = subprocess.run([lint, "--regions", "us-east-1", "--", file], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout

    def test_zip_for_sam_has_the_build_and_its_defaults(self, project: Path) -> None:
        assert self.package(project).returncode == 0
        with zipfile.ZipFile(project / "dist" / "keyturn-stack-1.2.0.zip") as archive:
            assert {"samconfig.toml", "Notifier/boto3.py"} <= set(archive.namelist())

    def test_functions_that_differ_end_the_release(self, project: Path) -> None:
        (project / ".aws-sam" / "build" / "Notifier" / "keyturn_notifier" / "handler.py").write_text("print('other')\n")
        done = self.package(project)
        assert done.returncode != 0
        assert "does not hold the two functions with the same code" in done.stderr
        assert not (project / "dist").exists()

    def test_template_of_another_form_ends_the_release(self, project: Path) -> None:
        template = (project / "template.yaml").read_text().replace("CodeUri: lambda/", "CodeUri: elsewhere/")
        (project / "template.yaml").write_text(template)
        done = self.package(project)
        assert done.returncode != 0
        assert "template.yaml must have this once: CodeUri: lambda/" in done.stderr

    def test_page_and_notes_name_the_files_that_the_step_makes(self, project: Path) -> None:
        assert self.package(project).returncode == 0
        files = {file.name.replace("1.2.0", "X.Y.Z") for file in (project / "dist").iterdir()}
        assert len(files) == 3
        releasing, page = ((ROOT / "docs" / name).read_text() for name in ("releasing.md", "aws.md"))
        (notes,) = [step["run"] for _, step in STEPS if step.get("id") == "notes"]
        for file in files:
            assert file in releasing
            assert file.replace("X.Y.Z", "$VERSION") in notes
        for file in files - {"keyturn-stack-X.Y.Z.zip"}:
            assert file in page
