"""External programs and files, pinned and cached: Go, the control plane, and custom resource definitions."""
