"""`make demo` carries rotations from a local AWS into a local Kubernetes, and observes whether each claim holds."""
