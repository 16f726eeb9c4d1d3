"""The receiver on this machine, as a process or as the pods of a Helm release."""
