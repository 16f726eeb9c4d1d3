"""AWS on this machine to which the stack is deployed: ministack's emulator, and the real SAM command line."""
