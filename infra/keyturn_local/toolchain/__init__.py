"""External programs and files, which are stored in a cache: Go, the control plane, Helm, Chromium and others."""
