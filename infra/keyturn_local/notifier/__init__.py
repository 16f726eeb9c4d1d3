"""The notifier on this machine: the built artifact, and the environment and the context of the function."""
