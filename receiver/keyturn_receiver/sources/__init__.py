"""AWS: reads values and versions from Secrets Manager. Only this package knows AWS's SDK and its errors.

``stores`` picks the identity and the region that read a secret. ``batch_reader`` and ``secrets_manager`` read it, in
the threads of ``thread_pools``. ``error_mapping`` translates errors. ``signing_keys`` holds the keys that verify
notifications.
"""
