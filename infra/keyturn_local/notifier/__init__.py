"""The notifier on this machine: its built artifact, the SQS event source that calls it, and a Lambda sandbox."""
