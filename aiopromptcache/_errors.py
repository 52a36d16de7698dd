"""What can go wrong, as one tree.

    Exception
    └── PromptCacheError
        ├── ConfigurationError   (also a ValueError)
        ├── NotCached
        ├── ReentrantCall
        └── StreamBroken

A fault of the cache itself (a tier that is down, slow, full or hostile) is never among them: it
is a miss, an event and a log line.
"""


class PromptCacheError(Exception):
    """Root of all that this library raises of its own accord."""


class ConfigurationError(PromptCacheError, ValueError):
    """An argument is not usable.

    Raised when a cache, tier or policy is made; the message names the value and what is allowed.
    """


class NotCached(PromptCacheError):
    """`only_if_cached` was asked for, and no tier had a usable answer.

    Raised instead of going upstream. Ask again without `only_if_cached`, or warm the cache first.
    """


class ReentrantCall(PromptCacheError):
    """The work that computes a key waits, directly or in a circle, for that same key.

    Raised instead of a deadlock. Give the inner call a key of its own.
    """


class StreamBroken(PromptCacheError):
    """A live stream that is shared has nothing more for this reader, though it has not ended.

    Raised where it was closed before, where the task that reads the upstream for all was cancelled
    from outside, and for a reader that fell so far behind the others that what it had to read is no
    longer kept. The readers of a wrapped client get it as the cause of an `APIConnectionError`.
    Ask again.
    """
