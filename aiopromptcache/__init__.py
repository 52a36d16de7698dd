"""Asyncio cache for prompts and model answers, with one API call for identical requests."""

from . import normalize
from ._cache import PromptCache
from ._entry import Entry, Kind, Usage
from ._errors import (
    ConfigurationError,
    NotCached,
    PromptCacheError,
    ReentrantCall,
    StreamBroken,
)
from ._events import CacheEvent, Hook
from ._policy import Policy, Request
from ._prices import Price
from ._stats import ModelStats, Money, Stats, TokenCount
from ._status import CacheStatus, cache_status
from ._warm import WarmReport
from .tiers._base import LocalTier, Tier, TierContext
from .tiers._memory import MemoryTier
from .tiers._redis import RedisTier

__version__ = "0.1.0"

__all__ = [
    "CacheEvent",
    "CacheStatus",
    "ConfigurationError",
    "Entry",
    "Hook",
    "Kind",
    "LocalTier",
    "MemoryTier",
    "ModelStats",
    "Money",
    "NotCached",
    "Policy",
    "Price",
    "PromptCache",
    "PromptCacheError",
    "RedisTier",
    "ReentrantCall",
    "Request",
    "Stats",
    "StreamBroken",
    "Tier",
    "TierContext",
    "TokenCount",
    "Usage",
    "WarmReport",
    "cache_status",
    "normalize",
]
