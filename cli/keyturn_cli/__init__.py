"""The command line of Keyturn: ``keyturn``, which is also ``kubectl keyturn``.

It shows what the receivers have made of each AWS secret, predicts what a rotation will restart, and finds what is
broken. It imports the receiver's pure core and the contract, and never the receiver's edges.
"""
