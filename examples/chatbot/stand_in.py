"""What stands in for the model: one that knows a few things."""

from __future__ import annotations

import re

from aiopromptcache.testing import OpenAIServer, RecordedRequest

LATENCY = 0.7
"""Seconds until the stand-in begins to answer."""
PACE = 0.07
"""Seconds a word."""

KNOWN = {
    "sky": "Sunlight is made of all colours, and air scatters the short waves far more than the "
    "long ones. Blue is short, so it reaches your eyes from everywhere, while the rest comes "
    "straight from the sun. In the evening the light has to cross much more air, the blue is "
    "lost on the way, and what is left is red.",
    "egg": "Let the water boil first, then put the egg in gently. Six minutes give a soft yolk, "
    "eight a creamy one, ten a firm one. Cool it in cold water at once, so that it stops "
    "cooking and peels well.",
    "cache": "A cache keeps an answer so that nobody has to work it out twice. The first one who "
    "asks waits and pays. Those who ask at the same moment wait along with them, and whoever asks "
    "later has it at once. The art is in knowing when an old answer is still a good one.",
    "poem": "The tide comes in without a sound,\nit takes the footprints from the ground.\n"
    "By morning nobody can say\nwho walked along the beach today.",
    "cat": "How about Miso, Pixel or Olive? They are short, they end softly, and they sound well "
    "when called across a garden. Say each of them aloud ten times. The one that you do not tire "
    "of is the one.",
    "sleep": "Get up at the same time every day, weekends too. Keep the bedroom cool and dark, "
    "have your last coffee before two in the afternoon, and put the phone in another room. If "
    "you lie awake for long, get up and read until you are tired.",
}
FALLBACK = (
    "I am the stand-in that answers when there is no key, so I know only a few things by heart: "
    "the sky, eggs, caches, cats, sleep and one poem. You asked: “{}”. A real model would have "
    "an answer to that. Ask again in a new chat, and see that even this one is not made twice."
)


def known_answer(request: RecordedRequest) -> str:
    """The answer to the last question, by the first word in it that is known."""
    words = re.findall(r"[a-z]+", request.prompt.lower())
    found = next((KNOWN[name] for word in words if (name := word.removesuffix("s")) in KNOWN), "")
    return found or FALLBACK.format(" ".join(request.prompt.split()[:30]))


def local_model() -> OpenAIServer:
    """A server that speaks the OpenAI protocol, with the pace of a model."""
    return OpenAIServer(latency=LATENCY, chunk_delay=PACE, answer=known_answer)
