"""The MODE cloud client: what a device and a user's app ask of MODE, over HTTPS.

Three rules hold in this package:

1. `http` is the one module where the HTTP library's exceptions become bletoken's, and it never sends anything twice.
2. What MODE answers is read once, in `models`, into frozen dataclasses; nothing else looks into JSON.
3. Keys, tokens and bodies are in no message, no repr, no log line and no URL.
"""
