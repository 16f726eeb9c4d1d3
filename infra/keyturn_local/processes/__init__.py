"""Child processes: how they start, end, find a port, and what environment they see."""
