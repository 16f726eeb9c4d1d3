"""The emulator as a process, and clients for it."""

import os
from pathlib import Path
from typing import Any, Self

from keyturn_local.aws import sdk
from keyturn_local.paths import ROOT
from keyturn_local.processes.environment import clean_environment
from keyturn_local.processes.ports import free_ports
from keyturn_local.processes.program import Program, Stoppable, answers

TOOLS = ROOT / ".venv-aws" / "bin"  # `make .venv-aws/installed` installs the emulator and AWS's command line
_LAUNCH = Path(__file__).with_name("launch.py")


class Emulator(Stoppable):
    """A running emulator. Use it as a context manager, or call ``stop``. The emulator's state is lost when it stops.

    The emulator enforces IAM: functions have the rights of their roles. The credentials in ``environment()`` belong to
    the root user.
    """

    def __init__(self, directory: Path, host: str = "127.0.0.1", bare: bool = False) -> None:
        (port,) = free_ports(1)
        self.endpoint_url = f"http://{host}:{port}"
        self._clients: dict[str, Any] = {}  # by service; kept, because it takes a tenth of a second to build one
        # Version 1 of AWS's command line ignores AWS_ENDPOINT_URL for SQS. So this script passes --endpoint-url
        # instead.
        self._commands = directory / "bin"
        self._commands.mkdir(parents=True, exist_ok=True)
        (self._commands / "aws").write_text(f'#!/bin/sh\nexec "{TOOLS}/aws" --endpoint-url "$AWS_ENDPOINT_URL" "$@"\n')
        (self._commands / "aws").chmod(0o755)
        self._program = Program(
            "emulator",
            [TOOLS / "python", "-I", _LAUNCH],  # -I: the functions must not see this repository
            directory,
            {
                **{name: value for name, value in clean_environment().items() if name != "PYTHONPATH"},
                **self.environment(),
                "BIND_HOST": host,
                "GATEWAY_PORT": str(port),
                "MINISTACK_HOST": host,  # the host in the queues' URLs
                "MINISTACK_ACCOUNT_ID": sdk.ACCOUNT,
                "MINISTACK_REGION": sdk.REGION,
                "AUTH": "true",
                "CLOUDTRAIL_RECORDING": "1",
                "TMPDIR": str(directory),
                "DOCKER_HOST": "unix:///nonexistent",  # without Docker, functions run as processes of this machine
                "IOT_MTLS_ENABLED": "0",
                "SFTP_ENABLED": "0",
                "PYTHONDONTWRITEBYTECODE": "1",
                **({"KEYTURN_BARE": "1"} if bare else {}),
            },
        )

    @classmethod
    def start(cls, directory: Path, host: str = "127.0.0.1", bare: bool = False) -> Self:
        """Start the emulator on the address ``host``. Wait until it answers. Raises StartFailed.

        If ``bare`` is true, the gaps that launch.py closes stay open.
        """
        emulator = cls(directory, host, bare)
        emulator._program.wait_for(answers(f"{emulator.endpoint_url}/_ministack/health"), 60)
        return emulator

    def stop(self) -> None:
        """Stop the emulator and its functions. Its state is lost."""
        self._program.kill()  # a graceful end would be useless, because the state is lost

    @property
    def log(self) -> str:
        """The log so far."""
        return self._program.log.read_text(errors="replace")

    def environment(self) -> dict[str, str]:
        """Return the variables that make AWS's own tools and SDKs use the emulator."""
        return sdk.environment(self.endpoint_url)

    def tool_environment(self) -> dict[str, str]:
        """Return an environment for command lines. Its PATH has ``aws`` and ``sam``, and both call the emulator instead
        of AWS."""
        path = os.pathsep.join([str(self._commands), str(ROOT / ".venv-sam" / "bin"), os.environ["PATH"]])
        return {**clean_environment(), **self.environment(), "PATH": path, "AWS_PAGER": "", "SAM_CLI_TELEMETRY": "0"}

    def client(self, service: str) -> Any:
        """Return the client for one service. It has the rights of the root user."""
        if service not in self._clients:
            self._clients[service] = sdk.client(service, self.endpoint_url)
        return self._clients[service]
