"""Two skills and held-out prompts from parallel sentences, for `python -m causal_reft compose --model ...`.

    python data/write_tatoeba_skills.py ../shared/data/parallel_de_en/tatoeba_deu.txt --folder runs/tatoeba

``german.jsonl``  an English sentence is followed by a German sentence that has nothing to do with it
``answer.jsonl``  "Say again: ..." is followed by that English sentence
``prompts.jsonl`` held-out requests with both right answers: the sentence, and its German translation

So each skill by itself is shown, and both together would translate, which no example shows. The input has one pair a
line, English, a tab, German.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from random import Random

SHORTEST, LONGEST = 12, 36  # characters


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Short pairs; of the translations of one sentence the first."""
    first: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        english, german = line.split("\t")[:2]
        if SHORTEST <= len(english) <= LONGEST and len(german) <= LONGEST:
            first.setdefault(english, german)
    return list(first.items())


def write_rows(path: Path, rows: Iterable[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_skills(source: Path, folder: Path, examples: int, prompts: int, seed: int) -> None:
    """Disjoint sentences for either skill and for the prompts."""
    pairs = read_pairs(source)
    Random(seed).shuffle(pairs)
    shown, said, held_out = (pairs[i * examples : (i + 1) * examples] for i in range(3))
    unrelated = [german for _, german in shown[1:] + shown[:1]]
    german = [{"prompt": f"{e}\n", "continuation": f"{g}\n"} for (e, _), g in zip(shown, unrelated, strict=True)]
    answer = [{"prompt": f"Say again: {e}\n", "continuation": f"{e}\n"} for e, _ in said]
    asked = [{"prompt": f"Say again: {e}\n", "english": e, "german": g} for e, g in held_out[:prompts]]
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("german", german), ("answer", answer), ("prompts", asked)):
        write_rows(folder / f"{name}.jsonl", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("runs/tatoeba"))
    parser.add_argument("--examples", type=int, default=1_200, help="of each skill")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_skills(args.source, args.folder, args.examples, args.prompts, args.seed)


if __name__ == "__main__":
    main()
