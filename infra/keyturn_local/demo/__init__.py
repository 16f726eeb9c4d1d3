"""`make demo` rotates secrets in a local AWS, follows them into a local Kubernetes, and checks each claim that the demo
makes."""
