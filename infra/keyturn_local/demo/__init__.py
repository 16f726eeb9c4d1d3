"""`make demo` rotates secrets in a local AWS, observes the effects in a local Kubernetes cluster, and checks each claim
that the demo makes about them."""
