"""A stand-in for the Inngest server: the recorded wire protocol, on loopback, for the real SDK.

It is at least as strict as the real one, and refuses by name what it does not do. Like the real
self-hosted server without Redis it keeps its state in memory only: a restart loses the runs.
"""
