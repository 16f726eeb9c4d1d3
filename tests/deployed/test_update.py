"""The stack's life: deployed by the previous release, updated to this one, and deleted."""

import shutil
import zipfile
from pathlib import Path
from uuid import uuid4

from keyturn_local.aws.emulator import sam
from keyturn_local.aws.emulator.server import Emulator
from keyturn_local.kubernetes.control_plane import ControlPlane
from support import stacks
from support.site import Endpoints, Site

PREVIOUS = Path(__file__).parents[1] / "released" / "keyturn-0.2.0.zip"
SAMS_OWN = {"aws-sam-cli-managed-default"}  # the stack with SAM's bucket
# Each has state, or a name that others know: a replacement would lose events or the key.
KEPT = ("Queue", "DeadLetterQueue", "UndeliveredEvents", "SigningKey", "LabelUpdatedRule", "Notifier", "NotifierQueue")


def test_update_of_the_previous_release_loses_nothing_and_deletion_leaves_nothing(
    control_plane: ControlPlane, emulator: Emulator, tmp_path: Path
) -> None:
    endpoints = Endpoints(tmp_path)
    name = f"keyturn-{uuid4().hex[:6]}"
    before = stacks.inventory(emulator)
    previous = sam.deploy(emulator, name, endpoints.parameters(), build_of_previous(tmp_path))
    assert previous.outputs["Version"] == "0.2.0"
    secrets_manager = emulator.client("secretsmanager")
    key = secrets_manager.get_secret_value(SecretId=previous.outputs["SigningKeySecretId"])["SecretString"]
    with Site.of(control_plane, previous, endpoints, tmp_path) as site:
        site.start_receivers()
        arn = site.bind("db")
        site.put("db", "second")
        site.wait_applied("db", "second")
        before_update = previous.resources()
        # An event waits in the queue while the stack is updated.
        site.receiver.kill()
        site.put("db", "third")
        updated = sam.deploy(emulator, name, endpoints.parameters())
        resources = updated.resources()
        assert {each: resources[each] for each in KEPT} == {each: before_update[each] for each in KEPT}
        old, new = previous.outputs, updated.outputs
        assert {name: new[name] for name in old if name != "Version"} == {
            name: value for name, value in old.items() if name != "Version"
        }
        assert secrets_manager.get_secret_value(SecretId=new["SigningKeySecretId"])["SecretString"] == key
        site.receiver.start()
        site.wait_applied("db", "third")
        site.put("db", "fourth")
        site.wait_applied("db", "fourth")
        secrets_manager.delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)
    updated.delete()
    left = {kind: names - before[kind] - SAMS_OWN for kind, names in stacks.inventory(emulator).items()}
    assert {kind: names for kind, names in left.items() if names} == {}


def build_of_previous(directory: Path) -> Path:
    """Return a build with the template and the code of the previous release, and the libraries of this one."""
    built = directory / "built"
    shutil.copytree(sam.build() / "Notifier", built / "lambda", ignore=shutil.ignore_patterns("keyturn_*"))
    with zipfile.ZipFile(PREVIOUS) as archive:
        archive.extractall(built)  # template.yaml, whose functions have their code in lambda/
    return built
