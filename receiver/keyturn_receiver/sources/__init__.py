"""AWS: values and versions out of Secrets Manager. The only place that knows AWS's SDK and its errors."""
