"""JSON text of annotations. Equal contents give equal texts, so that two replicas write the same bytes."""

import json

# ``json.dumps`` makes a new encoder for each call with arguments.
compact_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
