"""The labelers' app and the HTTP API."""

VERSION = "0.1.0"
PREFIX = "/api/v1"  # of the HTTP API
