"""The scripts that the Redis tier runs on the server, each of them one atomic step.

Where it matters what runs when: a namespace has a log, a stream of who changed what. A process
reads it to keep its memory true, and a fill is refused if the log says that something overtook it.

On one server a script touches everything at once. On a cluster the keys of one entry are in one
hash slot and the bookkeeping of its namespace (log, index, tags) in another, so the scripts come in
halves: `FILL` without bookkeeping keys, then `BOOK`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

LOG_LENGTH = 10_000
"""News that a log remembers, roughly."""
LOG_LIFE = 86_400_000
"""Milliseconds that a log outlives its latest news."""
CHECKED = 1_000
"""News that a fill is checked against at most; behind more than that it is refused."""


class Script:
    """A script and the digest that the server knows it by."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest().encode()


class Call(NamedTuple):
    """One run of a script."""

    script: Script
    keys: Sequence[bytes]
    args: Sequence[Any]

    @property
    def short(self) -> list[Any]:
        """The command for a server that knows the script."""
        return ["EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args]

    @property
    def whole(self) -> list[Any]:
        """The command that also teaches the script."""
        return ["EVAL", self.script.text, len(self.keys), *self.keys, *self.args]


_COMMON = f"""
local function holder(lease)
  local held = redis.call('GETRANGE', lease, 0, -1)  -- "" where there is none
  return held, string.sub(held, -1) == 'w'
end

local function owns(held, token)
  return token ~= '' and string.sub(held, 1, #token) == token
end

local function say(log, kind, name, sealed, writer)
  local news = {{'MAXLEN', '~', {LOG_LENGTH}, '*', 'k', kind, 'n', name, 's', sealed, 'w', writer}}
  if redis.call('XADD', log, 'NOMKSTREAM', unpack(news)) then return end
  -- An "h" at the beginning: who still listens where another log was has missed something.
  redis.call('XADD', log, '*', 'k', 'h', 'n', '', 's', '', 'w', writer)
  redis.call('PEXPIRE', log, {LOG_LIFE})
  redis.call('XADD', log, unpack(news))
end
"""

# An id is "milliseconds-number"; a log that was never trimmed shows all that was ever said. A log
# that was lost with everything else does not speak against what waited for the server to return.
# What the writer `but` said does not count.
_OVERTAKEN = f"""
local function later(one, other)
  local a, b = string.match(one, '(%d+)-(%d+)')
  local c, d = string.match(other, '(%d+)-(%d+)')
  if a ~= c then return tonumber(a) > tonumber(c) end
  return tonumber(b) > tonumber(d)
end

local function trimmed(log)
  local about = redis.call('XINFO', 'STREAM', log)
  local known = {{}}
  for i = 1, #about, 2 do known[about[i]] = about[i + 1] end
  return known['entries-added'] ~= known['length']
end

local function overtaken(log, since, names, mine, but)
  local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  local cut = not first or later(first[1], since)
  if cut and mine and since ~= '0-0' then return true end  -- the log went, and the lease did not
  if not first then return false end
  if cut and trimmed(log) then return true end
  local news = redis.call('XRANGE', log, '(' .. since, '+', 'COUNT', {CHECKED})
  if #news == {CHECKED} then return true end
  for _, item in ipairs(news) do
    local kind, name = item[2][2], item[2][4]
    local counts = kind == 'd' or kind == 's' or kind == 't'
    counts = counts and names[kind == 't' and 't' .. name or name] or kind == 'c'
    if counts and item[2][8] ~= but then return true end
  end
  return false
end
"""

# A tag's set holds the keys of its entries by the time that they expire, and expires with the last.
_KEEP_BOOKS = """
local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000), time[1] * 1000000 + time[2]
end

local function label(set, key, now, life, alone)
  redis.call('ZREMRANGEBYSCORE', set, '-inf', string.format('%.0f', now))
  redis.call('ZADD', set, life == 0 and '+inf' or string.format('%.0f', now + life), key)
  if alone then
    for _, other in ipairs(redis.call('ZRANDMEMBER', set, 4)) do
      if redis.call('EXISTS', other) == 0 then redis.call('ZREM', set, other) end
    end
  end
  local last = redis.call('ZRANGE', set, -1, -1, 'WITHSCORES')[2]
  if last == 'inf' then redis.call('PERSIST', set) else redis.call('PEXPIREAT', set, last) end
end

local function enter(index, key, micros, life, most)
  redis.call('ZADD', index, string.format('%.0f', micros), key)
  local left = redis.call('PTTL', index)
  if life == 0 then redis.call('PERSIST', index)
  elseif redis.call('ZCARD', index) == 1 or (left >= 0 and left < life) then
    redis.call('PEXPIRE', index, life)
  end
  local victims = {}
  local over = redis.call('ZCARD', index) - most
  if over > 0 then
    local popped = redis.call('ZPOPMIN', index, over)
    for i = 1, #popped, 2 do victims[#victims + 1] = popped[i] end
  end
  return victims
end
"""

# KEYS: [log,] then entry and lease of each. ARGV: milliseconds, 1 if there is a log, token, the
# mark to go past, 1 to take the leases. Gives for each the record, or {milliseconds that another's
# lease lasts}, or {0, position in the log} with the lease. A waiter leaves a "w" on the lease; one
# that is taken has it from the start, as others may wait already, and hold an older value.
CLAIM = Script("""
local life, logged, token, past, take = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5] == '1'
local position, known = '0-0', logged == 0
local answers = {}
for i = logged + 1, #KEYS, 2 do
  local entry, lease, record, held = KEYS[i], KEYS[i + 1], false, false
  if not take then
    local both = redis.call('MGET', entry, lease)
    record, held = both[1], both[2]
  end
  if record and record ~= '' and (past == '' or string.sub(record, 1, #past) ~= past) then
    answers[#answers + 1] = record
  elseif held and string.sub(held, 1, #token) ~= token then  -- its own: the first reply was lost
    if string.sub(held, -1) ~= 'w' then redis.call('APPEND', lease, 'w') end
    answers[#answers + 1] = {redis.call('PTTL', lease)}
  else
    redis.call('SET', lease, take and token .. 'w' or token, 'PX', life)
    if not known then
      local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
      position, known = last and last[1] or position, true
    end
    answers[#answers + 1] = {0, position}
  end
end
return #answers == 1 and answers[1] or answers  -- one alone is cheaper to read
""")

# KEYS: entry, lease [, log, index, sets of tags]. ARGV: "set", "fill" or "given", token (of "given"
# the writer whose news do not count; "": all do), since, record, milliseconds to live (0: for
# ever), name for the log, sealed name, writer, most entries (0: any), how many older places, those
# (under keys that were rotated out, or others' newest), then the names that the log may know this
# by (tags with a "t" before them). Gives 1 where stored, 0 where overtaken, 2 where stored and the
# log, elsewhere on a cluster, must say so.
# What was "given" and is overtaken leaves nobody's value: which of them is newer is not known.
FILL = Script(
    _COMMON
    + _OVERTAKEN
    + _KEEP_BOOKS
    + """
local entry, lease, log, index = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local set, given, since = ARGV[1] == 'set', ARGV[1] == 'given', ARGV[3]
local token, but = given and '' or ARGV[2], given and ARGV[2]
local record, life = ARGV[4], tonumber(ARGV[5])
local name, sealed, writer, most = ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9])
local older = tonumber(ARGV[10])
local held, waited = holder(lease)
if not set then
  local mine = owns(held, token)
  if token ~= '' and not mine then
    local there = redis.call('GET', entry)
    if there == record then return 1 end  -- the reply of the first try was lost
    if there or held ~= '' then return 0 end  -- or else it ran out, and nobody came
  end
  if log and since ~= '' then
    local names = {}
    for i = 11 + older, #ARGV do names[ARGV[i]] = true end
    if overtaken(log, since, names, mine, but) then
      if mine then redis.call('DEL', lease) end
      if mine and waited then say(log, 'r', name, sealed, writer) end
      if given then
        redis.call('UNLINK', entry)
        say(log, 'd', name, sealed, writer)
      end
      return 0
    end
  end
end
local replaced = redis.call('EXISTS', entry) == 1
for i = 11, 10 + older do replaced = redis.call('UNLINK', ARGV[i]) == 1 or replaced end
redis.call('SET', entry, record)
if life > 0 then redis.call('PEXPIRE', entry, life) end
redis.call('DEL', lease)
local told = set or waited or replaced or token == ''  -- a lease would tell the others
if not log then return told and 2 or 1 end
if told then say(log, set and 'd' or 's', name, sealed, writer) end
local now, micros = clock()
for i = 5, #KEYS do label(KEYS[i], entry, now, life, true) end
if most > 0 then
  local victims = enter(index, entry, micros, life, most)
  for _, victim in ipairs(victims) do redis.call('UNLINK', victim) end
end
return 1
"""
)

# The other half of FILL on a cluster. KEYS: log, index, sets of tags. ARGV: entry, milliseconds to
# live, most entries, kind of news ("" for none), name, sealed name, writer, since ("" to store
# without a look at the log), the writer whose news do not count ("": all do), then names as in
# FILL. Gives nil where overtaken, else what must go.
BOOK = Script(
    _COMMON
    + _OVERTAKEN
    + _KEEP_BOOKS
    + """
local entry, life, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local kind, since, but = ARGV[4], ARGV[8], ARGV[9]
if since ~= '' then
  local names = {}
  for i = 10, #ARGV do names[ARGV[i]] = true end
  if overtaken(KEYS[1], since, names, false, but) then return false end
end
if kind ~= '' then say(KEYS[1], kind, ARGV[5], ARGV[6], ARGV[7]) end
local now, micros = clock()
for i = 3, #KEYS do label(KEYS[i], entry, now, life, false) end
if most > 0 then return enter(KEYS[2], entry, micros, life, most) end
return {}
"""
)

# KEYS: log. ARGV: since, the writer whose news do not count ("": all do), then names as in FILL.
# Gives 1 where nothing has overtaken what is to be stored.
STANDS = Script(
    _OVERTAKEN
    + """
local names = {}
for i = 3, #ARGV do names[ARGV[i]] = true end
return overtaken(KEYS[1], ARGV[1], names, false, ARGV[2]) and 0 or 1
"""
)

# KEYS: lease [, log]. ARGV: token, name, sealed name, writer, kind of news. Gives 1 where the lease
# was given back and others wait for it.
RELEASE = Script(
    _COMMON
    + """
local held, waited = holder(KEYS[1])
if not owns(held, ARGV[1]) then return 0 end
redis.call('DEL', KEYS[1])
if waited and KEYS[2] then say(KEYS[2], ARGV[5], ARGV[2], ARGV[3], ARGV[4]) end
return waited and 1 or 0
"""
)

# KEYS: lease. ARGV: token, milliseconds.
RENEW = Script(
    _COMMON
    + """
if owns((holder(KEYS[1])), ARGV[1]) then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
"""
)

# KEYS: log, index, then of each slot its lease and the places of its entry. ARGV: places of each,
# writer, then of each name and sealed name. Gives for each how many entries were there.
DROP = Script(
    _COMMON
    + """
local places = tonumber(ARGV[1])
local counts = {}
for i = 0, (#ARGV - 2) / 2 - 1 do
  local at = 3 + i * (places + 1)
  redis.call('DEL', KEYS[at])
  local count = 0
  for j = at + 1, at + places do
    count = count + redis.call('UNLINK', KEYS[j])
    redis.call('ZREM', KEYS[2], KEYS[j])
  end
  counts[i + 1] = count
  say(KEYS[1], 'd', ARGV[2 * i + 3], ARGV[2 * i + 4], ARGV[2])
end
return counts
"""
)

# KEYS: log. ARGV: writer, then of each news kind, name, sealed name.
SAY = Script(
    _COMMON
    + """
for i = 2, #ARGV, 3 do say(KEYS[1], ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[1]) end
return 1
"""
)

# KEYS: log, index, set of a tag. ARGV: how many at most, name, sealed name, writer, 1 to say so.
# Gives how many entries were removed, and how many were looked at.
INVALIDATE = Script(
    _COMMON
    + """
local members = redis.call('ZRANGE', KEYS[3], 0, ARGV[1] - 1)
local count = 0
for _, member in ipairs(members) do
  count = count + redis.call('UNLINK', member)
  redis.call('ZREM', KEYS[2], member)
end
if #members > 0 then redis.call('ZREMRANGEBYRANK', KEYS[3], 0, #members - 1) end
if #members < tonumber(ARGV[1]) and ARGV[5] == '1' then
  say(KEYS[1], 't', ARGV[2], ARGV[3], ARGV[4])
end
return {count, #members}
"""
)

# KEYS: index, or set of a tag. ARGV: from which rank on, how many. Strikes out entries that are not
# there any more; gives how many were looked at, and how many struck out.
PRUNE = Script("""
local members = redis.call('ZRANGE', KEYS[1], ARGV[1], ARGV[1] + ARGV[2] - 1)
local gone = 0
for _, member in ipairs(members) do
  if redis.call('EXISTS', member) == 0 then gone = gone + redis.call('ZREM', KEYS[1], member) end
end
return {#members, gone}
""")

# The same on a cluster. KEYS: index, or set of a tag. ARGV: entries that are gone, with their
# scores. Strikes out those that still have that score; gives how many.
STRIKE = Script("""
local gone = 0
for i = 1, #ARGV, 2 do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if score and tonumber(score) == tonumber(ARGV[i + 1]) then
    gone = gone + redis.call('ZREM', KEYS[1], ARGV[i])
  end
end
return gone
""")

# KEYS: log. ARGV: writer, position that the listener knows ("" for none). Gives the position to
# listen from, 1 where news after the known position may be lost, and the server's clock.
HELLO = Script(f"""
local since, lost = ARGV[2], 0
if since == '' or not redis.call('XRANGE', KEYS[1], since, since)[1] then
  lost = 1
  local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
  since = last and last[1] or redis.call('XADD', KEYS[1], '*',
                                               'k', 'h', 'n', '', 's', '', 'w', ARGV[1])
end
redis.call('PEXPIRE', KEYS[1], {LOG_LIFE})
local time = redis.call('TIME')
return {{since, lost, time[1], time[2]}}
""")
