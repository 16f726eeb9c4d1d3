"""What Keyturn decides: which Secret is filled from what, what is written, who is restarted.

Pure: no I/O, no clock, no asyncio, no SDK. Everything is frozen data in, frozen data or an error out, so that each
decision can be read, and tested, by itself.
"""
