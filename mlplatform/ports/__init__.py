"""Every protocol between the rules and the world, and every protocol of an extension.

Flows name only what stands here; `mlplatform.wiring` is the one place where ports meet adapters. Import the file that
holds the port, not this face.
"""
