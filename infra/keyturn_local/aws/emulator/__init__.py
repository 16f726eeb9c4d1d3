"""A local AWS: ministack's emulator. The real SAM command line deploys the stack to it."""
