"""The legacy side: plain RQ on Redis. It knows how to carry a run, not what is in it."""
