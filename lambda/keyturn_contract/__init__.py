"""The wire contract between the notifier and the receiver: what a delivery says, and how it is signed.

Shared by both sides and owned by the producer. Pure: no I/O, no clock, no SDK, and nothing outside the standard
library, for the Lambda pays for every import at each cold start.
"""
