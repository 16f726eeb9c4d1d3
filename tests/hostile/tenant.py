"""The hostile tenant: makes the objects of all attacks, then edits them until his time is up or somebody stops him.

``python -m hostile.tenant FILE`` reads what he needs to know (``Orders``) from a file. He calls the API server with his
own token, and ends by himself after ``seconds``.
"""

import asyncio
import json
import os
import ssl
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
import uvloop

from hostile.attacks import Attack, Edit, Tenant, path_of
from hostile.aws import PYTHONPATH
from keyturn_local.processes.environment import clean_environment
from keyturn_local.processes.program import Program, Stoppable

# His calls at once. The API server and etcd share two cores with the receiver here, so more calls would only show how
# slow the API server and etcd get.
MAX_IN_FLIGHT = int(os.environ.get("HOSTILE_IN_FLIGHT", "2"))
MAX_CREATIONS = 8  # calls at once while he makes his objects
MADE = "all objects are made"
RESULT = "attacks: "


@dataclass(frozen=True)
class Orders:
    """The tenant's cluster, token and namespace; for how long he attacks, and how many objects he makes."""

    url: str
    ca_file: str
    token: str
    namespace: str
    seconds: float
    scale: float


class HostileTenant(Stoppable):
    """The tenant as a process. Use it as a context manager, or call ``stop``."""

    def __init__(self, directory: Path, orders: Orders) -> None:
        file = directory / "orders.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(asdict(orders)))
        environment = {**clean_environment(), "PYTHONPATH": PYTHONPATH}
        self._program = Program(
            "hostile-tenant", [sys.executable, "-m", "hostile.tenant", file], directory, environment
        )

    @property
    def log(self) -> str:
        """What he has said so far."""
        return self._program.log.read_text()

    @property
    def running(self) -> bool:
        """Whether he still attacks."""
        return self._program.running

    @property
    def prepared(self) -> bool:
        """Whether all his objects exist."""
        return MADE in self.log

    def stop(self) -> None:
        """Stop him."""
        self._program.stop()


class Attacker:
    """Makes the tenant's calls, and counts the answers by attack and status."""

    def __init__(self, orders: Orders, session: aiohttp.ClientSession) -> None:
        self._orders = orders
        self._session = session
        self._creations = asyncio.Semaphore(MAX_CREATIONS)
        self._edits = asyncio.Semaphore(MAX_IN_FLIGHT)
        self.answers: dict[str, Counter[int]] = {}

    async def make(self, attack: Attack) -> None:
        """Create the objects of an attack."""
        namespace = self._orders.namespace
        creations = (
            Edit("POST", path_of(each["kind"], namespace), each, "application/json") for each in attack.objects
        )
        await asyncio.gather(*(self._call(f"create: {attack.name}", each, self._creations) for each in creations))

    async def repeat(self, attack: Attack, end: float) -> None:
        """Make the edits of an attack at its rate. One edit, and one more for every ten edits a second, may be under
        way at a time. So if the API server is slower than the rate, the attack gets slower, too."""
        if attack.edit is None:
            return
        start, running = time.monotonic(), set[asyncio.Task[None]]()
        number, share = 0, 1 + int(attack.rate / 10)
        while (now := time.monotonic()) < end:
            due = start + number / attack.rate
            if due > now:
                await asyncio.sleep(due - now)
            if len(running) >= share:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.create_task(self._call(attack.name, attack.edit(number), self._edits))
            running.add(task)
            task.add_done_callback(running.discard)
            number += 1
        if running:
            await asyncio.wait(running)

    async def _call(self, attack: str, edit: Edit, slots: asyncio.Semaphore) -> None:
        content = None if edit.body is None else json.dumps(edit.body).encode()
        async with slots:
            try:
                async with self._session.request(
                    edit.method,
                    self._orders.url + edit.path,
                    data=content,
                    headers={"Content-Type": edit.content_type, "Accept": "application/json"},
                ) as reply:
                    status = reply.status
                    reply.close()  # the body is not read, because it repeats the object, which may be large
            except (aiohttp.ClientError, TimeoutError):
                status = 0
        self.answers.setdefault(attack, Counter())[status] += 1


async def attack(orders: Orders) -> None:
    """Make all objects, then edit them for the time of the orders."""
    end = time.monotonic() + orders.seconds
    context = ssl.create_default_context(cafile=orders.ca_file)
    connector = aiohttp.TCPConnector(ssl=context, limit=MAX_CREATIONS)
    headers = {"Authorization": f"Bearer {orders.token}"}
    attacks = Tenant(orders.namespace, orders.scale).attacks()
    async with aiohttp.ClientSession(
        connector=connector, headers=headers, timeout=aiohttp.ClientTimeout(total=30)
    ) as session:
        attacker = Attacker(orders, session)
        for each in attacks:
            await attacker.make(each)
        print(MADE, flush=True)
        await asyncio.gather(*(attacker.repeat(each, end) for each in attacks))
    print(RESULT + json.dumps(attacker.answers), flush=True)


if __name__ == "__main__":
    os.nice(10)  # a real tenant's program would run on a machine of its own
    uvloop.run(attack(Orders(**json.loads(Path(sys.argv[1]).read_text()))))
