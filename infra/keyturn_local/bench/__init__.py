"""What Keyturn costs and how fast it is, measured on this machine: as ratios, in one run.

``receiver`` on the real API server and a stub AWS, ``notifier`` on the built artifact.
"""
