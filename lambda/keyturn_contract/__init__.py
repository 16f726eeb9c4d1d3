"""The wire contract between the notifier and the receiver: the format of deliveries, and their signatures.

Both sides import this package. The package is part of the notifier's folder, because the notifier produces the
deliveries. The code is pure: it does no I/O, reads no clock, and uses no SDK. It uses only the standard library,
because Lambda pays for every import at each cold start.
"""
