"""Keyturn's decisions: which AWS secret fills which Secret, what is written, and which consumers are restarted.

All functions are pure: they do no I/O, read no clock, and use neither asyncio nor an SDK. Each function takes frozen
data. It returns frozen data, or raises an error. So each decision can be read and tested on its own.
"""
