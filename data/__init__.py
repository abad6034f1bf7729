"""Feedback at rest: records, the store, snapshots, and the ways in and out."""
