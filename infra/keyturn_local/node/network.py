"""The addresses and the DNS domain inside an enclosure. They cannot be reached from outside."""

HOST = "10.2.0.1"  # the enclosure's own address, at which pods reach the API server, DNS and AWS
PODS = "10.1.0.0/16"
SERVICES = "10.0.0.0/24"  # the same range as in the API server's flags
DOMAIN = "cluster.local"
