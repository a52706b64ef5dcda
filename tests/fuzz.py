"""Random input for everything that reads what a user wrote: python -m tests.fuzz [inputs] [seed] [parser ...]

Prints, for each parser, how many inputs were taken, refused in the library's own words, or raised another error, with
the first of those; the last line sums them up. Parsers: positions, graphs, causal, records, studies.
"""

from __future__ import annotations

import copy
import json
import random
import string
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

import causal_reft as cr
from causal_reft.errors import CausalReftError
from causal_reft.graph.loading import graph_from_data, graph_to_data
from causal_reft.sites.positions import parse_positions
from tests import words

Parse = Callable[[random.Random], object]
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 7, 2**63, -(2**31), 10**30, 0.5, float("nan"), float("inf"), "", " ", "all", "last",
    "f5+l5", "base", "source", "é\u2028\x00", "𝔘", [], [0], [[]], {}, {"": 0}, {"kind": "Subspace"}, "0", "1e9",
    b"bytes", (), (1, 2), {3}, object(),
)  # fmt: skip
PIECES = ("f5", "l5", "first", "last", "all", "generated", "subject", "+", " ", "<half", "-1", "0", "f0", "l", "+ +")
MEMORY = "/dev/shm"  # a folder of files in memory, where the system has one
JSON = tuple(value for value in ODD if isinstance(value, None | bool | int | float | str | list | dict))  # type: ignore[arg-type]


def main(inputs: int = 2000, seed: int = 0, *names: str) -> int:
    """Print the table; the exit code is 1 where anything was raw."""
    raw = 0
    for name in names or tuple(PARSERS):
        found, first = fuzzed(name, inputs, seed)
        print(f"{name:<10} {inputs} inputs: {found['taken']} taken, {found['refused']} refused, {found['raw']} raw")
        print(f"           the first: {first}" if first else "", end="\n" if first else "")
        raw += found["raw"]
    print(f"{raw} raw")
    return int(bool(raw))


def fuzzed(name: str, inputs: int, seed: int = 0) -> tuple[Counter[str], str]:
    """How a parser met random inputs, and the first error that is not the library's."""
    found, first, parse = Counter(taken=0, refused=0, raw=0), "", PARSERS[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in (bar := tqdm(range(inputs), name, mininterval=5)):
            outcome, error = _outcome(parse, random.Random(f"{seed} {number}"))
            found[outcome] += 1
            first = first or error
            bar.set_postfix(found, refresh=False)
    return found, first


def _outcome(parse: Parse, stream: random.Random) -> tuple[str, str]:
    try:
        parse(stream)
    except CausalReftError:
        return "refused", ""
    except Exception as error:
        return "raw", f"{type(error).__name__}: {error}"[:300]
    return "taken", ""


# What is parsed -----------------------------------------------------------------------------------------------------


def positions() -> Parse:
    """The positions language: parsed, printed, stored, parsed again to the same."""

    def parse(stream: random.Random) -> None:
        found = parse_positions(_word(stream) if stream.random() < 0.6 else _odd(stream))
        assert parse_positions(found.to_data()) == found, f"{found} is not what it says"

    return parse


def graphs() -> Parse:
    """The document of a saved graph with values exchanged, dropped and doubled; its tensors unharmed.

    A graph of every kind of node, and of each of its nodes, of which more is taken.
    """
    from tests.graph.saved import rich

    whole = rich()
    saved = [graph_to_data(graph) for graph in (whole, *(whole.only(name) for name in whole.nodes))]
    documents = [(json.dumps(data), tensors) for data, tensors in saved]

    def parse(stream: random.Random) -> None:
        text, tensors = stream.choice(documents)
        graph_from_data(_mutated(json.loads(text), stream), tensors)

    return parse


def causal() -> Parse:
    """A causal model and its counterfactuals, with up to two of their arguments odd."""
    mechanisms: tuple[Any, ...] = (
        lambda a: a, lambda: 1, lambda c: c, lambda *a: a, lambda **k: k, lambda a=1: a, len, None, 3, lambda b: [b],
        lambda a: None, lambda a, b: (a, b), "a == b",
    )  # fmt: skip
    names = ["a", "b", "c", "prompt", "", "f5", "a b", 3, None]

    def parse(stream: random.Random) -> None:
        inputs: dict[Any, Any] = {"a": range(9), "b": range(9)}
        made: dict[Any, Any] = {"same": lambda a, b: a == b, "answer": lambda same: same}
        asked: dict[str, Any] = {"variables": "same", "n": 60, "seed": 0}
        for _ in range(stream.randint(0, 2)):
            where = stream.choice([inputs, made, asked])
            if where is inputs:
                inputs[stream.choice(names)] = stream.choice(
                    [True, [True, False], [], [1], [1, 1], [None], _odd(stream)]
                )
            elif where is made:
                made[stream.choice([*names, "same", "answer"])] = stream.choice(mechanisms)
            else:
                asked[stream.choice(list(asked))] = _odd(stream)
        model = cr.CausalModel(inputs=inputs, mechanisms=made)
        model.counterfactuals(**asked).split(0.4, 0.2, 0.4)

    return parse


def records() -> Parse:
    """Rows for finetuning of every format, with up to two fields and values odd."""
    tokenizer = words.tokenizer()
    chat = [{"role": "user", "content": "who is it"}, {"role": "assistant", "content": "a dog"}]
    good: tuple[tuple[Callable[..., object], dict[str, Any]], ...] = (
        (cr.completions, {"prompt": "the cat", "completion": "sees it"}),
        (cr.completions, {"instruction": "who is it", "input": "", "output": "a dog"}),
        (cr.completions, {"messages": chat}),
        (cr.preferences, {"prompt": "the cat", "chosen": "sees it", "rejected": "hears it"}),
        (lambda rows, t, **k: cr.classification(rows, t, 2, **k), {"text": "the cat", "label": 1}),
        (cr.regression, {"text": "the cat", "label": 0.5}),
    )

    def parse(stream: random.Random) -> None:
        make, row = stream.choice(good)
        rows: list[Any] = [dict(row) for _ in range(stream.randint(1, 3))]
        for _ in range(stream.randint(0, 2)):
            changed = stream.choice(rows)
            if stream.random() < 0.1 or not isinstance(changed, dict):
                rows[stream.randrange(len(rows))] = _odd(stream)
            elif stream.random() < 0.8:
                changed[stream.choice(list(row))] = _text(stream)
            else:
                changed.pop(stream.choice(list(row)), None)
        options = {"max_length": stream.choice([None, 0, 3, 100, _odd(stream)])} if stream.random() < 0.3 else {}
        make(rows if stream.random() < 0.95 else _odd(stream), tokenizer, **options)

    return parse


def studies() -> Parse:
    """The description and the rows of a finished study with values exchanged, dropped and doubled, and sealed again."""
    from causal_reft.sweeps.sealed import OPEN, sealed
    from tests.alignment import planted
    from tests.alignment.small import small_study

    scratch = tempfile.TemporaryDirectory(dir=MEMORY if Path(MEMORY).is_dir() else None)
    folder = Path(scratch.name) / "study"
    few = planted.counterfactuals(48, 1).split(0.4, 0.2, 0.4)
    small_study(folder, seeds=range(1), data=few).run(progress=False)
    texts = {path: path.read_bytes() for path in sorted(folder.glob("*.json"))}

    def parse(stream: random.Random) -> None:
        path, text = stream.choice(list(texts.items()))
        content = json.loads(text)
        del content["sha256"]
        mutated = {"sha256": OPEN, **_mutated(content, stream)}
        try:
            path.write_bytes(sealed(json.dumps(mutated).encode()))
            cr.StudyResult.load(folder).table  # noqa: B018 - computed on access
        finally:
            path.write_bytes(text)

    parse.scratch = scratch  # type: ignore[attr-defined] # goes when the parser goes
    return parse


PARSERS: dict[str, Callable[[], Parse]] = {
    "positions": positions, "graphs": graphs, "causal": causal, "records": records, "studies": studies
}  # fmt: skip


# Random values ------------------------------------------------------------------------------------------------------


def _odd(stream: random.Random) -> Any:
    if stream.random() < 0.15:
        return [stream.choice(ODD) for _ in range(stream.randint(0, 3))]
    if stream.random() < 0.1:
        return slice(stream.choice([None, 0, 2, "a"]), stream.choice([None, 5]), stream.choice([None, 0, 1, -1]))
    return stream.choice(ODD)


def _word(stream: random.Random) -> str:
    pieces = [stream.choice(PIECES) for _ in range(stream.randint(1, 5))]
    return "".join(piece if stream.random() < 0.9 else stream.choice(string.printable) for piece in pieces)


def _text(stream: random.Random) -> Any:
    if stream.random() < 0.3:
        return _odd(stream)
    return " ".join(stream.choice([*words.WORDS, "zebra", ""]) for _ in range(stream.randint(0, 6)))


def _mutated(value: Any, stream: random.Random) -> Any:
    """A JSON document with one to three of its values exchanged, dropped or doubled."""
    for _ in range(stream.randint(1, 3)):
        holders = [holder for holder in _holders(value) if len(holder)]
        if not holders:
            return value
        holder = stream.choice(holders)
        key = stream.choice(range(len(holder)) if isinstance(holder, list) else sorted(holder))
        act = stream.random()
        if act < 0.6:
            holder[key] = copy.deepcopy(stream.choice(JSON))
        elif act < 0.8:
            del holder[key]
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        else:
            holder[stream.choice(["", "kind", "extra", key * 2])] = copy.deepcopy(holder[key])
    return value


def _holders(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _holders(inner)


if __name__ == "__main__":
    count, seed, *chosen = [*sys.argv[1:], *("2000", "0")[len(sys.argv[1:3]) :]]
    sys.exit(main(int(count), int(seed), *chosen))
