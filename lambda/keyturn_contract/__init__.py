"""The wire contract between the notifier and the receiver: the format of deliveries, and their signatures.

Both sides import this package. The notifier produces the deliveries, so the package belongs to the notifier. The code
is pure: it does no I/O, reads no clock, and uses no SDK. It uses only the standard library, because Lambda pays for
every import at each cold start.
"""
