"""Support code for the tests: fakes, test environments, functions that read the cluster's state, and a model of AWS."""
