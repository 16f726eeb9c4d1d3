"""A local AWS: ministack's emulator. The real command line of SAM deploys the stack to it."""
