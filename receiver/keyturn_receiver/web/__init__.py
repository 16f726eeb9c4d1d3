"""HTTP: the webhook, the health endpoints, and the server that runs both.

Nothing here calls AWS or Kubernetes: the handler looks bindings up in the Secret cache and submits them to the work
queue. An import-linter contract enforces this.
"""
