"""Support code for the tests: fakes, environments, readers of the cluster's state, and the model of AWS."""
