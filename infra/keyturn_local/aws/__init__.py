"""An AWS on this machine: moto's server, with the events and the Ed25519 keys that moto lacks."""
