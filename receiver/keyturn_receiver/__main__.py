"""``python -m keyturn_receiver``."""

from keyturn_receiver.app import main

main()
