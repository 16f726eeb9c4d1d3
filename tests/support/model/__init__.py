"""The model that checks every history: the values that AWS has had, and the states that Keyturn may derive from
them."""
