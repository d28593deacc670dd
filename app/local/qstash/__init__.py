"""QStash on loopback: the part of its REST protocol that this product calls, and deliveries."""
