"""External programs and files, which are kept in a cache: Go, the control plane, Helm, Chromium and others."""
