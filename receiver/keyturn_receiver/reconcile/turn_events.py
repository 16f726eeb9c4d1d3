"""Events about consumers that wait for their restart, and about a failed rollout that halts the others."""

from keyturn_receiver.cluster.event_recorder import EventRecorder
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.revision import HALTED
from keyturn_receiver.core.rollout_schedule import WaitReason
from keyturn_receiver.core.rollout_turn import Turn
from keyturn_receiver.reconcile import event_messages
from keyturn_receiver.reconcile.consumer_reporter import MAX_CONSUMER_EVENTS, tell_consumer


def tell_waits(events: EventRecorder, target: Target, uid: str, turn: Turn) -> None:
    """Queue an Event on each workload that waits for a rollout window, up to MAX_CONSUMER_EVENTS workloads. The Event
    says when the window opens.

    Another Event, on the Secret, names the workloads that wait for a window or for another workload.
    """
    if message := event_messages.waiting(turn.waits):
        events.event(target, uid, False, event_messages.WAITING, message)
    windows = [(consumer, wait) for consumer, wait in turn.waits if wait.reason is WaitReason.WINDOW]
    for consumer, wait in windows[:MAX_CONSUMER_EVENTS]:
        tell_consumer(events, consumer, False, event_messages.WAITING, target, event_messages.waits_for_window(wait))


def tell_halt(events: EventRecorder, target: Target, uid: str, turn: Turn) -> None:
    """Queue an Event on the Secret. It says that a failed rollout halts the others, or that no rollout halts others any
    more. If a rollout halts the others, queue an Event on its workload, too."""
    if turn.halted_by:
        events.event(target, uid, True, HALTED, turn.halt.removeprefix(f"{HALTED}: "))
        tell_consumer(events, turn.halted_by, True, HALTED, target, event_messages.HALTS_OTHERS)
    else:
        events.event(target, uid, False, event_messages.RESUMED, event_messages.GOES_ON)
