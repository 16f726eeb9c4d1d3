"""Addresses inside an enclosure; they are not visible outside."""

HOST = "10.2.0.1"  # the enclosure, as its pods reach it: API server, DNS, AWS
PODS = "10.1.0.0/16"
SERVICES = "10.0.0.0/24"  # as in the API server's flags
DOMAIN = "cluster.local"
