"""A page that shows what caches do, live: hit rate, calls, latency, savings, errors, breakers.

```python
app.mount("/cache", Dashboard(cache))  # FastAPI, Starlette
uvicorn.run(Dashboard(cache))  # alone
mount_dashboard(app, "/cache", Dashboard(cache))  # aiohttp: aiopromptcache.aiohttp
share(cache)  # a process without a page of its own, on the pages of the others
```
"""

from ._dashboard._app import Dashboard, share

__all__ = ["Dashboard", "share"]
