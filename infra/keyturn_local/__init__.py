"""Keyturn on one machine, for `make demo`, `make bench` and the tests. None of this is shipped.

Existing software replaces EKS and AWS: the stock Kubernetes control plane, and an emulator of AWS. SAM's command line
deploys the stack to the emulator. Tests that need only single services use moto (docs/adr/018-one-local-aws.md).

toolchain/ gets the programs, and processes/ runs them. kubernetes/, node/ and aws/ replace EKS and AWS. receiver/ runs
the receiver, and notifier/ builds the notifier and prepares calls of it without Lambda. stack.py connects a cluster, an
AWS and a receiver. `make` calls demo/, bench/ and docs/.
"""
