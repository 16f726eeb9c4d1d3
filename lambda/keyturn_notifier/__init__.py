"""The notifier: takes AWS's events from the queue and delivers them, signed, to the receiver.

``event`` understands (pure), ``delivery`` signs and posts, ``handler`` is what Lambda calls. What it needs from outside
is in requirements/notifier.txt.
"""
