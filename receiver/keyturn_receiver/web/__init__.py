"""HTTP: the webhook, the health endpoints, and the servers that run them.

Nothing in this package calls AWS or Kubernetes. An import-linter contract enforces this rule. The handler looks up
bindings in the Secret cache, and submits them to the work queue.
"""
