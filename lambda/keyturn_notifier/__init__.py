"""The notifier: a Lambda function. It takes AWS's events from an SQS queue, makes notifications of them, signs these,
and delivers them to receivers.

``event_parser`` turns an event into a notification with the table in ``aws_event_types``. ``delivery`` signs
notifications with keys from ``signing``, and posts them. ``disposition`` classifies the reply. ``handler`` and
``rotation`` are the entry points of the two Lambda functions. Third-party dependencies are in
requirements/notifier.txt.
"""
