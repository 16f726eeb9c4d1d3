"""Keyturn's decisions: which secret fills which Secret, what is written, and which consumers are restarted.

All functions are pure: no I/O, no clock, no asyncio, no SDK. Each takes frozen data, and returns frozen data or raises
an error. So each decision can be read and tested on its own.
"""
