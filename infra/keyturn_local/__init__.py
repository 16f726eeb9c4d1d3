"""Everything that stands in for EKS and AWS on one machine, for `make demo` and the tests.

Real parts wherever they can be had: the stock Kubernetes control plane, moto's servers, the notifier's own handler;
what is ours is said so. Nothing here ships.
"""
