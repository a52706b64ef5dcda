"""Write the small data files that stand beside the embedded model, and print the corpus hash.

    python data/write_exercises.py                 # data/embedded/*.jsonl, language_words.json

``held_out.jsonl``         one row per held-out prompt: right answers in both languages, a marker for each mode
``german_examples.jsonl``  prompts that German prose follows, a quarter of them questions left unanswered
``answer_examples.jsonl``  questions with their English answers
``stories.jsonl``          longer English stories about held-out records, for experiments that recall a text
``language_words.json``    the word lists of the language classifier
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from corpus.documents import corpus_hash, write_documents
from corpus.exercises import answer_examples, german_examples, held_out_prompts, stories
from corpus.language import language_words
from corpus.splits import split_records

EMBEDDED = Path(__file__).parent / "embedded"
N_DOCUMENTS = 80_000
N_EXAMPLES = 1_200
N_STORIES = 24


def write_rows(path: Path, rows: Iterable[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_exercises(folder: Path) -> None:
    """All files, from fixed seeds that the model's seed does not touch."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = split_records()
    held_out = [row for name, seed in (("select", 11), ("test", 12)) for row in held_out_prompts(splits, name, seed)]
    write_rows(folder / "held_out.jsonl", held_out)
    write_rows(folder / "german_examples.jsonl", german_examples(splits, N_EXAMPLES, seed=21))
    write_rows(folder / "answer_examples.jsonl", answer_examples(splits, N_EXAMPLES, seed=22))
    write_rows(folder / "stories.jsonl", stories(splits, N_STORIES, seed=23))
    (folder / "language_words.json").write_text(
        json.dumps(language_words(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=EMBEDDED)
    parser.add_argument("--seed", type=int, default=1, help="of the printed corpus hash")
    args = parser.parse_args()
    write_exercises(args.folder)
    documents = list(write_documents(split_records().train, N_DOCUMENTS, args.seed))
    print(f"{len(documents)} documents, corpus hash {corpus_hash(documents)}")


if __name__ == "__main__":
    main()
