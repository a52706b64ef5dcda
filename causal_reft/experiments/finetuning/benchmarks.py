"""What is learned, and how an answer is read off the text that a model writes.

The commonsense and arithmetic sets are in the format of LLM-Adapters (Hu et al. 2023, arXiv 2304.01933): JSON records
of instruction, output and answer. The GLUE sets are tab-separated files; a class is written as a word, so that one
model and one score serve all benchmarks. (The ReFT paper trains a classification head on them instead.) Instructions
are Alpaca records, and what is scored is the loss of held-out responses.
"""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from causal_reft.errors import DataError
from causal_reft.reft import alpaca_prompt

ACCURACY, LOSS = "accuracy", "loss"
MARK = "the correct answer is"


@dataclass(frozen=True)
class Item:
    """One record: what is asked, what is learned as its continuation, and the answer that scoring looks for.

    `instruction` is what is asked without the frame around it.
    """

    prompt: str
    completion: str
    answer: str
    instruction: str = ""


@dataclass(frozen=True)
class Benchmark:
    """A set of records and the way of scoring them.

    Args:
        name: of its folder.
        group: of the ReFT paper's experiments.
        read: the items of one of its files.
        files: the names of its training and its test file.
        extract: the answer in a text, or "" where there is none. Unused where the score is a loss.
        new_tokens: of a generated answer, at most.
        metric: "accuracy", or "loss" of the completions.
    """

    name: str
    group: str
    read: Callable[[Path], list[Item]]
    files: tuple[str, str] = ("train.json", "test.json")
    extract: Callable[[str], str] = str
    new_tokens: int = 16
    metric: str = ACCURACY

    def is_right(self, text: str, item: Item) -> bool:
        """Whether the answer in a text is the item's; numbers are compared as numbers."""
        found, wanted = self.extract(text), item.answer
        try:
            return abs(float(found) - float(wanted)) <= 1e-3
        except ValueError:
            return found.lower() == wanted.lower()

    def _teaches(self, item: Item) -> bool:
        return bool(item.completion.strip()) and (self.metric == LOSS or self.is_right(item.completion, item))

    def parts(self, folder: Path, limit: int, test_limit: int) -> tuple[dict[str, list[Item]], str]:
        """Training, selection and test items, drawn without repetition, and a sentence on where they come from.

        Selection items come from the training file and are not trained on. Where a benchmark has one file only, it is
        cut in halves. Records whose completion is empty or not their own answer are neither trained on nor selected
        with: the worked solutions of the arithmetic sets are a model's, and many are wrong. The sentence says both.

        Raises:
            DataError: there is no such file; fewer items than are asked for.
        """
        home = _home(folder, self.name)
        train_file, test_file = (home / name for name in self.files)
        tested = _shuffled(self.read(test_file))
        if train_file != test_file and train_file.is_file():
            trained, source = _shuffled(self.read(train_file)), f"{train_file.name}, scored on {test_file.name}"
        else:
            tested, trained = tested[: len(tested) // 2], tested[len(tested) // 2 :]
            why = "" if train_file == test_file else f" (there is no {train_file.name})"
            source = f"half of {test_file.name}, scored on the other half{why}"
        seen = {item.prompt for item in tested[:test_limit]}
        unseen = [item for item in trained if item.prompt not in seen]
        trained = [item for item in unseen if self._teaches(item)]
        if dropped := len(unseen) - len(trained):
            source += f"; {dropped} of {len(unseen)} whose completion is not the record's answer are not trained on"
        parts = {
            "train": trained[:limit],
            "selection": trained[limit : limit + test_limit],
            "test": tested[:test_limit],
        }
        if short := next((name for name, items in parts.items() if not items), None):
            raise DataError(
                f"{self.name}: no items are left for {short} ({len(trained)} to train on, {len(tested)} to score). Ask "
                "for fewer (--limit, --test-limit), or give a training file whose completions hold the answers."
            )
        return parts, source


def choice(words: Sequence[str]) -> Callable[[str], str]:
    """The first of the words in a text, looked for after "the correct answer is" where the text says so."""
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, words)) + r")\b", re.IGNORECASE)

    def extract(text: str) -> str:
        after = text.lower().rpartition(MARK)[2]
        found = pattern.search(after) or pattern.search(text)
        return found.group(1).lower() if found else ""

    return extract


def number(text: str) -> str:
    """The last number in a text, without thousands separators."""
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    return found[-1].replace(",", "") if found else ""


def letter(text: str) -> str:
    """The last capital letter from A to E that stands by itself."""
    found = re.findall(r"\b[A-E]\b", text)
    return found[-1] if found else ""


# Files --------------------------------------------------------------------------------------------------------------


def adapters_items(path: Path) -> list[Item]:
    """The records of a file in the format of LLM-Adapters."""
    return [Item(f"{row['instruction'].strip()}\n", row["output"].strip(), str(row["answer"])) for row in _json(path)]


def alpaca_items(path: Path) -> list[Item]:
    """The records of an Alpaca file."""
    rows = _json(path)
    asked = [(row["instruction"], row.get("input", "")) for row in rows]
    return [
        Item(alpaca_prompt(*given), row["output"], "", "\n".join(filter(None, given)))
        for given, row in zip(asked, rows, strict=True)
    ]


def table_items(
    texts: Mapping[str, int | str], label: int | str, words: Mapping[str, str], question: str, header: bool = True
) -> Callable[[Path], list[Item]]:
    """A reader of tab-separated files: which columns hold the texts and the label, and the word of each label."""

    def read(path: Path) -> list[Item]:
        lines = list(csv.reader(_text(path).splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
        head = lines.pop(0) if header else []
        place = {
            column: head.index(column) if isinstance(column, str) else column for column in [*texts.values(), label]
        }
        rows = [row for row in lines if len(row) > max(place.values())]
        shown = [" ".join(f"{name}: {row[place[column]]}" for name, column in texts.items()) for row in rows]
        answers = [words[row[place[label]]] for row in rows]
        return [Item(f"{text}\n{question}\n", answer, answer) for text, answer in zip(shown, answers, strict=True)]

    return read


def _commonsense(name: str, words: str) -> Benchmark:
    return Benchmark(name, "commonsense", adapters_items, extract=choice(words.split()))


def _arithmetic(name: str, extract: Callable[[str], str] = number) -> Benchmark:
    return Benchmark(name, "arithmetic", adapters_items, extract=extract, new_tokens=128)


_ANSWERS = "answer1 answer2 answer3 answer4 answer5"
_SENTIMENT, _YES, _SAME = {"0": "negative", "1": "positive"}, {"0": "no", "1": "yes"}, {"0": "different", "1": "same"}
_ENTAILED = {"entailment": "yes", "not_entailment": "no"}
_PAIR = {"first": "#1 String", "second": "#2 String"}

BENCHMARKS: dict[str, Benchmark] = {
    one.name: one
    for one in (
        _commonsense("boolq", "true false"),
        _commonsense("piqa", "solution1 solution2"),
        _commonsense("social_i_qa", _ANSWERS),
        _commonsense("winogrande", "option1 option2"),
        _commonsense("ARC-Easy", _ANSWERS),
        _commonsense("ARC-Challenge", _ANSWERS),
        _commonsense("openbookqa", _ANSWERS),
        _arithmetic("AQuA", letter),
        _arithmetic("gsm8k"),
        _arithmetic("mawps"),
        _arithmetic("SVAMP"),
        Benchmark(
            "SST-2", "glue", table_items({"review": 0}, 1, _SENTIMENT, "positive or negative?", header=False),
            ("train.tsv", "dev.tsv"), choice(list(_SENTIMENT.values())), 4,
        ),
        Benchmark(
            "CoLA", "glue", table_items({"sentence": 3}, 1, _YES, "acceptable, yes or no?", header=False),
            ("train.tsv", "dev.tsv"), choice(list(_YES.values())), 4,
        ),
        Benchmark(
            "RTE", "glue",
            table_items({"text": "sentence1", "claim": "sentence2"}, "label", _ENTAILED, "does it follow, yes or no?"),
            ("train.tsv", "dev.tsv"), choice(list(_YES.values())), 4,
        ),
        Benchmark(
            "MRPC", "glue", table_items(_PAIR, "Quality", _SAME, "same or different?"),
            ("msr_paraphrase_train.txt", "msr_paraphrase_test.txt"), choice(list(_SAME.values())), 4,
        ),
        Benchmark(
            "instruct", "instruct", alpaca_items, ("instruction-data.json", "instruction-data.json"), new_tokens=128,
            metric=LOSS,
        ),
    )
}  # fmt: skip
GROUPS = tuple(dict.fromkeys(one.group for one in BENCHMARKS.values()))


def _home(folder: Path, name: str) -> Path:
    """The folder of a benchmark, at any depth of the data folder."""
    found = sorted(path for path in [folder, *folder.rglob(name)] if path.is_dir() and path.name == name)
    if not found:
        raise DataError(f"--data {folder} holds no folder {name!r}. It holds one for each benchmark, at any depth.")
    return found[0]


def _shuffled(items: Sequence[Item]) -> list[Item]:
    """The same order in every experiment: which items are used follows from their number."""
    once = list({item.prompt: item for item in items}.values())
    random.Random(0).shuffle(once)
    return once


def _json(path: Path) -> list[dict[str, str]]:
    return json.loads(_text(path))


def _text(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"{path} does not exist.")
    return path.read_text(encoding="utf-8-sig")
