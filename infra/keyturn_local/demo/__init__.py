"""`make demo`: rotations in a local AWS, carried into a local Kubernetes. Each claim rests on observation."""
