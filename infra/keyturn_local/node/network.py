"""The addresses inside an enclosure, and who listens where: nothing outside ever sees them."""

HOST = "10.2.0.1"  # the enclosure itself, as its pods reach it: the API server, DNS, an AWS
PODS = "10.1.0.0/16"
SERVICES = "10.0.0.0/24"  # as the control plane's API server is told
DOMAIN = "cluster.local"
