"""What a cache does, for monitoring: `metrics.prometheus` and `metrics.opentelemetry`.

Counting costs nothing more for being read: both read, when they are asked, what the cache counts
anyway. A cache may die while it is read; nothing here keeps one alive.
"""
