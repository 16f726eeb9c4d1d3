"""How the poller asks AWS for versions."""

from enum import StrEnum


class PollMode(StrEnum):
    """LIST sees all names and versions of an account, a hundred at once; DESCRIBE asks for each bound secret alone."""

    LIST = "list"
    DESCRIBE = "describe"
