"""The notifier: a Lambda function that takes AWS's events from an SQS queue, signs them, and delivers them to
receivers.

``event`` parses an event, and ``aws_event_types`` determines what becomes of it. ``delivery`` signs it with keys from
``signing`` and posts it, and ``disposition`` classifies the reply. ``handler`` and ``rotation`` are the entry points of
the two Lambda functions. Third-party dependencies are in requirements/notifier.txt.
"""
