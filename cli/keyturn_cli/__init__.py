"""The command line of Keyturn: ``keyturn``, which is also ``kubectl keyturn``.

The command line shows the state of each bound Secret, predicts which workloads a rotation restarts, and finds faults.
It imports only the receiver's pure core and the contract. It never imports the parts of the receiver that do I/O.
"""
