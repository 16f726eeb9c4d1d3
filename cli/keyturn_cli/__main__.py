"""``python -m keyturn_cli``."""

from keyturn_cli.main import main

main()
