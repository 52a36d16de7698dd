"""The dashboard: what a cache counts, sampled, shared between processes, and shown in a page."""
