"""The notifier: a Lambda function that takes AWS's events from an SQS queue and delivers them, signed, to receivers.

``event`` parses an event, ``aws_event_types`` says what becomes of it, ``delivery`` signs it with keys from ``signing``
and posts it, and ``disposition`` classifies the reply. ``handler`` and ``rotation`` are the entry points of the two
Lambda functions.
Third-party dependencies: requirements/notifier.txt.
"""
