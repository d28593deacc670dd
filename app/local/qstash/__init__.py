"""QStash on loopback: its REST protocol, its signed deliveries, and its bad days on demand."""
