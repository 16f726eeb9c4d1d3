"""Reader of the facts about a receiver's URL: its certificate, and the reply to an unsigned delivery.

The delivery is an empty batch without a signature. A receiver refuses such a delivery without reading its content.
"""

from datetime import datetime
from pathlib import Path
from urllib.parse import SplitResult

from keyturn_cli.doctor.finding import Unknown
from keyturn_cli.doctor.url_checks import UrlFacts
from keyturn_cli.http_post import NoReply, post
from keyturn_contract.message import CONTENT_TYPE_BATCH, RECEIVER_HEADER


def read_url_facts(url: SplitResult, ca_file: Path | None, now: datetime) -> UrlFacts:
    """Read the facts about one URL."""
    text = url.geturl()
    if url.scheme != "https":
        why = "it is not https, and the notifier delivers by https alone"
        return UrlFacts(text, now, Unknown(why, "give the URL that is in ReceiverUrls"))
    try:
        reply = post(url, b"[]", {"content-type": CONTENT_TYPE_BATCH}, ca_file)
    except NoReply as error:
        return UrlFacts(text, now, Unknown(str(error.args[0]), error.advice))
    expires = reply.expires or Unknown("the server has no certificate", "check what serves this port")
    return UrlFacts(text, now, expires, reply.status, RECEIVER_HEADER.lower() in reply.headers)
