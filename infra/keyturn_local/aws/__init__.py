"""AWS on this machine: the deployed stack on an emulator (deployed.py), and moto's server (server.py)."""
