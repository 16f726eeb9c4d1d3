"""`make demo`: the main job, live, on real parts. Every claim it makes at the end was observed, not reported."""
