"""The notifier on this machine: its built artifact, the SQS event source that runs it, a Lambda sandbox."""
