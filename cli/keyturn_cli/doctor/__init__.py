"""The doctor. It has pure checks of facts, and readers that collect the facts from Kubernetes, from AWS and from the
URL of a receiver."""
