"""Makes one binding true: observe, fill, roll out, report. Nothing else changes anything in the cluster."""
