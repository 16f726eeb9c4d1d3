"""Programs and definitions from elsewhere, pinned and cached: Go, the control plane, custom resource definitions."""
