"""AWS on this machine: moto's server, plus the label events and the Ed25519 keys that moto lacks."""
