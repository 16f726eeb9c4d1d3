"""The queue keeps every event while the receiver is down. The test waits for minutes, so it has its own file."""

from collections.abc import Callable

import pytest

from keyturn_local.aws.rotation import rotate
from support.deliveries import queue_length
from support.stack_rotations import SLEEPING, counted, delivered, given_bindings, value, values
from support.wait import eventually


@pytest.mark.long
@pytest.mark.timeout(600)
def test_500_rotations_during_an_outage_all_arrive(own_stack: Callable, namespace: str) -> None:
    with own_stack(**SLEEPING) as stack:
        names = given_bindings(stack, namespace, 50)
        eventually(lambda: not queue_length(stack.aws.sqs(), stack.path.queue_url), 60)
        stack.receiver.kill()
        client, versions = stack.aws.secrets_manager(), set()
        for number in range(1, 11):
            versions |= {rotate(client, name, value(number)) for name in names}
        assert len(versions) == 500
        eventually(lambda: queue_length(stack.aws.sqs(), stack.path.queue_url) == 500, 10)
        assert not versions & delivered(stack)

        stack.receiver.start()
        eventually(lambda: versions <= delivered(stack), 300)  # a retry waits for three minutes at most
        assert values(stack, namespace) == {b"10"}
        assert queue_length(stack.aws.sqs(), stack.path.queue_url) == 0
        assert queue_length(stack.aws.sqs(), stack.path.dlq_url) == 0
        assert counted(stack, "DeliveriesPoison") == 0
