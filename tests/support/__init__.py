"""What several tests share: fakes, environments, readers of the cluster's state, the model of AWS."""
