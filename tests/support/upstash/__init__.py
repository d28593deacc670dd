"""Upstash Redis on loopback: its REST protocol in front of a local Valkey or Redis."""
