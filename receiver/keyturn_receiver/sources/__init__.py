"""AWS: readers of values and versions in Secrets Manager. No other package calls AWS's SDK or handles its errors.

``stores`` selects the identity and the region with which a secret is read. ``batch_reader`` and ``secrets_manager``
read the secret, in the threads of ``thread_pools``. ``error_mapping`` translates errors. ``signing_keys`` holds the
keys that verify notifications.
"""
