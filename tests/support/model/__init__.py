"""The model that any history is checked against: what AWS had, and what Keyturn may have made of it."""
