"""Interface for reading the record of a Secret, bound or watched. The record is what Keyturn notes about the Secret in
annotations. Restarts need the record."""

from typing import Protocol

from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.revision import Record


class RecordClient(Protocol):
    """Reads the record of a Secret."""

    async def read_record(self, target: Target) -> Record:
        """Read the record. Raises NotFound, or another error of the API client."""
