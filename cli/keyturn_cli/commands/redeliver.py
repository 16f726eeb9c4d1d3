"""`keyturn redeliver`: shows dead letters, and sends them back to the queue."""

from typing import Annotated

import typer

from keyturn_cli.advice import advised
from keyturn_cli.aws import Aws, AwsError
from keyturn_cli.commands.doctor import StackName
from keyturn_cli.dead_letters import DeadLetter, DeadLetterQueue
from keyturn_cli.errors import CliError, ExitCode, UsageError, reported
from keyturn_cli.options import NoColor, OutputFormat
from keyturn_cli.output import Format, Output


@reported
def redeliver(
    event_id: Annotated[str | None, typer.Argument(metavar="[EVENT-ID]", help="The event that is sent back.")] = None,
    list_only: Annotated[bool, typer.Option("--list", help="Show the dead letters, and send none.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Send all dead letters back.")] = False,
    stack: StackName = "keyturn",
    output: OutputFormat = Format.TABLE,
    no_color: NoColor = False,
) -> ExitCode:
    """Send dead letters back to the queue: events that could not be delivered.

    Fix the cause first. --list shows it. Otherwise the events fail again. An event is sent before it is deleted, so
    none is lost. A second delivery changes nothing.
    """
    if sum((event_id is not None, list_only, every)) != 1:
        shows = advised("redeliver", "--list")
        raise UsageError("choose one of --list, --all and EVENT-ID", f"{shows} shows the events' ids")
    out = Output(output, no_color)
    aws = Aws()
    outputs = aws.stack(stack).outputs
    if not {"DeadLetterQueueUrl", "QueueUrl"} <= outputs.keys():
        raise AwsError(f"stack {stack}", "it has no queues", "name Keyturn's stack: --stack NAME")
    queue = DeadLetterQueue(aws.client("sqs"), outputs["DeadLetterQueueUrl"], outputs["QueueUrl"])
    if list_only:
        _show(out, queue.letters())
        return ExitCode.FINE
    back: list[DeadLetter] = []
    try:
        for letter in queue.redeliver(None if event_id is None else {event_id}):
            back.append(letter)
            if not out.is_data:
                out.line(f"sent back: {letter.event_id or 'no event'}  {letter.secret}")
    finally:
        if out.is_data:
            out.data({"redelivered": [each.event_id for each in back]})
    if event_id and not back:
        raise CliError(f"no dead letter has the event id {event_id}", f"{advised('redeliver', '--list')} shows them")
    if not out.is_data:
        follow = "; the notifier delivers them in the next seconds" if back else ""
        out.line(f"{len(back)} sent back{follow}")
    return ExitCode.FINE


def _show(out: Output, letters: list[DeadLetter]) -> None:
    if out.is_data:
        out.data(
            {
                "deadLetters": [
                    {
                        "eventId": each.event_id,
                        "secret": each.secret,
                        "event": each.kind,
                        "time": each.time,
                        "reason": each.reason,
                    }
                    for each in letters
                ]
            }
        )
    elif letters:
        rows = [(each.event_id or "-", each.time, each.kind, each.secret, each.reason) for each in letters]
        out.table(("EVENT ID", "TIME", "EVENT", "SECRET", "REASON"), rows)
    else:
        out.line("no dead letters")
