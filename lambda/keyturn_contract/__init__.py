"""The wire contract between the notifier and the receiver: the format of deliveries and their signatures.

Both sides import this package; the notifier, which produces the deliveries, owns it. The code is pure: no I/O, no
clock, no SDK. It uses the standard library only, because Lambda pays for every import at each cold start.
"""
