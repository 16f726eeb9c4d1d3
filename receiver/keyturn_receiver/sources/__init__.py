"""AWS: values and versions out of Secrets Manager. The only place that knows AWS's SDK and its errors.

``stores`` says which identity reads where; a store reads values (``values``, ``secrets_manager``); ``flights`` joins
those who want the same.
"""
