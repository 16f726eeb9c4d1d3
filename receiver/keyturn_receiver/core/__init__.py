"""Keyturn's decisions: which Secret is filled from which secret, what is written, which consumers are restarted.

Pure: no I/O, no clock, no asyncio, no SDK. Each function takes frozen data and returns frozen data or raises an error,
so that each decision can be read, and tested, by itself.
"""
