"""AWS: values and versions from Secrets Manager. The only package that knows AWS's SDK and its errors.

``stores`` picks the identity and the region that read a secret; ``batch_reader`` and ``secrets_manager`` read it in the
``thread_pools``; ``error_mapping`` translates what fails. ``signing_keys`` holds the keys that verify notifications.
"""
