"""Child processes: how they start and end, their ports, and their environment."""
