"""Skills from parallel sentences: three disjoint sets, German that is no translation, prompts with both answers."""

import json

import pytest
from write_tatoeba_skills import LONGEST, SHORTEST, read_pairs, write_skills


@pytest.fixture
def folder(tmp_path):
    lines = [f"This is sentence number {i}.\tDas ist Satz Nummer {i}." for i in range(60)]
    lines += ["This is sentence number 3.\tDies ist der Satz Nummer 3.", "Go.\tGeh.", "x" * 50 + ".\tzu lang."]
    (tmp_path / "pairs.txt").write_text("1\t2\n" + "\n".join(lines) + "\n", encoding="utf-8")
    write_skills(tmp_path / "pairs.txt", tmp_path / "out", examples=20, prompts=10, seed=0)
    return tmp_path


def rows(folder, name):
    return [json.loads(line) for line in (folder / "out" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def number(text):
    return int("".join(c for c in text if c.isdigit()))


def test_short_pairs_once_each(folder):
    pairs = read_pairs(folder / "pairs.txt")
    assert len(pairs) == 60 and dict(pairs)["This is sentence number 3."] == "Das ist Satz Nummer 3."
    assert all(SHORTEST <= len(english) <= LONGEST for english, _ in pairs)


def test_what_each_file_shows(folder):
    german, answer, prompts = (rows(folder, name) for name in ("german", "answer", "prompts"))
    assert (len(german), len(answer), len(prompts)) == (20, 20, 10)
    seen = [{number(row["prompt"]) for row in part} for part in (german, answer, prompts)]
    assert not (seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2])
    assert all(row["continuation"].startswith("Das ist") for row in german)
    assert all(number(row["continuation"]) != number(row["prompt"]) for row in german)
    assert all(row["prompt"] == f"Say again: {row['continuation']}" for row in answer)
    assert all(row["prompt"] == f"Say again: {row['english']}\n" for row in prompts)
    assert all(number(row["german"]) == number(row["english"]) for row in prompts)
