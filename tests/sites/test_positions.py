"""The positions language against a reference that lists a row's tokens in Python, exhaustively on small prompts."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from causal_reft.errors import PositionError
from causal_reft.sites import PART, UNNAMED, Positions, Prompt, Tokens, after_text, mentions, parse_positions, resolve
from tests.named_tokens import named_in_order


def rows_of(tokens: Tokens, batch: int) -> list[list[int]]:
    return [tokens.columns[tokens.rows == row].tolist() for row in range(batch)]


def masked(rows: list[tuple[int, int, int]], answers: list[int]) -> torch.Tensor:
    """The mask of rows (padding before, prompt tokens, padding after), answers between prompt and padding."""
    assert len({before + n + a + after for (before, n, after), a in zip(rows, answers, strict=True)}) == 1
    return torch.tensor([[0] * b + [1] * (n + a) + [0] * c for (b, n, c), a in zip(rows, answers, strict=True)])


words = st.one_of(
    st.sampled_from(["all", "generated", "first", "last", "subject"]),
    st.tuples(st.sampled_from("fl"), st.integers(1, 9), st.sampled_from(["", "<half"])).map(
        "{0[0]}{0[1]}{0[2]}".format
    ),
    st.integers(-3, 2).map(str),
)
anything = st.one_of(
    words,
    st.lists(words, min_size=2, max_size=3).map(lambda parts: "+".join(sorted(parts, key="generated".__eq__))),
    st.integers(-3, 2),
    st.lists(st.integers(-3, 2), min_size=1, max_size=4),
    st.builds(slice, *[st.none() | st.integers(-9, 9)] * 2, st.sampled_from([None, 1, 2, -1])),
)
texts = st.lists(st.tuples(st.integers(3, 6), st.integers(0, 3)), min_size=1, max_size=4)


@given(positions=anything, rows=texts, left=st.booleans(), room=st.integers(0, 2), data=st.data())
def test_named_tokens_are_those_of_the_reference(
    positions: Any, rows: list[tuple[int, int]], left: bool, room: int, data: st.DataObject
) -> None:
    width = max(n + a for n, a in rows) + room
    padded = [((width - n - a, n, 0) if left else (0, n, width - n - a)) for n, a in rows]
    mask = masked(padded, [a for _, a in rows])
    spans = [data.draw(st.lists(st.integers(-n, n - 1), max_size=3)) for n, _ in rows]
    prompt = Prompt.of(mask, torch.tensor([n for n, _ in rows]))
    tokens = resolve(parse_positions(positions), prompt, {"subject": spans})

    expected = [
        [start + token for token in named_in_order(positions, n, a, {"subject": span})]
        for (n, a), (start, _, _), span in zip(rows, padded, spans, strict=True)
    ]
    assert rows_of(tokens, len(rows)) == expected
    assert tokens.ordinal.tolist() == [i for row in expected for i in range(len(row))]
    assert tokens.counts.tolist() == list(map(len, expected))
    assert tokens.whole == (expected == [list(range(width))] * len(rows))
    assert bool(mask[tokens.rows, tokens.columns].all()), "never a token outside the text"


def test_a_mention_is_the_number_of_a_part_and_the_place_in_it() -> None:
    prompt = Prompt.of(torch.tensor([[0, 1, 1, 1, 1, 1]]), torch.tensor([4]))
    tokens = resolve(parse_positions("l2+f3+generated"), prompt)
    assert tokens.columns.tolist() == [3, 4, 1, 2, 5]
    assert tokens.mention.tolist() == [0, 1, PART, PART + 1, 2 * PART]
    assert (tokens.n_parts == 3 and tokens.total is tokens.counts) or tokens.total.tolist() == [5]


@pytest.mark.parametrize("window", [(0, 3), (2, 5), (5, 7), (0, 7)])
@pytest.mark.parametrize("positions", ["f2+l1", "subject+generated", "all+generated", [2, 0]])
def test_a_window_shows_its_tokens_as_the_whole_text_numbers_them(positions: Any, window: tuple[int, int]) -> None:
    prompt = Prompt.of(masked([(2, 3, 0), (0, 5, 0)], [2, 2]), torch.tensor([3, 5]))
    parsed = parse_positions(positions)
    text = mentions(parsed, prompt, {"subject": [[2, 0], [1]]})
    whole, shown = Tokens.of(text, 2), Tokens.of(text, 2, window, unfinished=True)
    kept = (whole.columns >= window[0]) & (whole.columns < window[1])
    for found, wanted in (
        (shown.rows, whole.rows), (shown.columns + window[0], whole.columns), (shown.ordinal, whole.ordinal),
        (shown.mention, whole.mention),
    ):  # fmt: skip
        assert torch.equal(found, wanted[kept])
    assert shown.total.tolist() == whole.counts.tolist() and shown.counts.tolist() == [
        int((whole.rows[kept] == row).sum()) for row in (0, 1)
    ]
    assert shown.unfinished and not whole.unfinished and shown.n_parts == 2
    cells = list(zip(shown.rows.tolist(), shown.columns.tolist(), strict=True))
    assert shown.whole == (cells == list(itertools.product((0, 1), range(window[1] - window[0]))))


@pytest.mark.parametrize("positions", ["f1+generated", "generated", "last"])
def test_tokens_that_decoding_adds_are_those_of_the_longer_text(positions: str) -> None:
    rows, lengths, parsed = [(2, 3, 0), (0, 5, 0)], torch.tensor([3, 5]), parse_positions(positions)
    longer = mentions(parsed, Prompt.of(masked(rows, [4, 4]), lengths))
    for answers in (0, 1):
        shorter = Prompt.of(masked(rows, [answers] * 2), lengths)
        assert torch.equal(after_text(parsed, shorter, 4 - answers), longer[:, 5 + answers :])
    longer[1] = UNNAMED  # a row that is not edited
    now, later = (Tokens.of(longer[:, : column + 1], 2, (column, column + 1)) for column in (5, 7))
    for name in ("rows", "columns", "ordinal", "mention", "counts", "total"):
        assert torch.equal(getattr(now.further(2), name), getattr(later, name))


def test_tokens_named_alike_pair_in_place() -> None:
    prompt, spans = Prompt.of(torch.ones(2, 3)), {"two": [[0, 1]] * 2, "one": [[2]] * 2}
    named = {
        word: resolve(parse_positions(word), prompt, spans)
        for word in ("f2", "l2", "first+last", "two+one", "one+two", "f1", "generated")
    }
    assert named["f2"].named_like(named["l2"]) and named["f2"].named_like(named["first+last"])
    assert not named["two+one"].named_like(named["one+two"]) and not named["f2"].named_like(named["f1"])
    assert len(named["generated"]) == 0 == len(Tokens.of(torch.zeros(0, 3, dtype=torch.long)))
    moved = named["two+one"].to(torch.device("meta"))
    assert {
        getattr(moved, name).device.type for name in ("rows", "columns", "ordinal", "mention", "counts", "total")
    } == {"meta"}


@pytest.mark.parametrize(("first", "last"), list(itertools.product(range(1, 5), range(1, 5))))
def test_prefix_and_suffix_on_every_short_prompt(first: int, last: int) -> None:
    """f5+l5 clips, names each token once, and never leaves the prompt."""
    for length in range(1, 8):
        mask = torch.tensor([[0, 0] + [1] * length, [1] * length + [0, 0]])
        tokens = resolve(parse_positions(f"f{first}+l{last}"), Prompt.of(mask))
        named = sorted(set(range(min(first, length))) | set(range(max(0, length - last), length)))
        assert rows_of(tokens, 2) == [[2 + t for t in named], named]


@given(positions=anything)
def test_what_is_stored_is_read_back(positions: Any) -> None:
    parsed = parse_positions(positions)
    assert parse_positions(parsed.to_data()) == parsed
    assert parse_positions(parsed) is parsed


@pytest.mark.parametrize(
    ("given_", "stored"),
    [
        (3, [3]),
        ([2, 5], [2, 5]),
        (slice(1, None), {"slice": [1, None, None]}),
        ("f5 + l5", "f5+l5"),
        ("subject[-1]+2", "subject[-1]+2"),
    ],
)
def test_positions_are_stored_in_the_form_that_folders_have(given_: Any, stored: Any) -> None:
    assert parse_positions(given_).to_data() == stored


@pytest.mark.parametrize(
    ("given_", "printed"),
    [
        (3, "3"),
        ([2, 5], "[2, 5]"),
        ("f1+l1", "'first+last'"),
        ("f5 + l5", "'f5+l5'"),
        (slice(1, None), "slice(1, None, None)"),
        ("subject", "'subject'"),
    ],
)
def test_positions_print_as_written(given_: Any, printed: str) -> None:
    assert str(parse_positions(given_)) == printed


def test_what_positions_say_of_themselves() -> None:
    every, mixed = parse_positions("all"), parse_positions("subject+generated")
    assert every.everything and every.in_prompt and not every.generated
    assert mixed.span_names == ("subject",) and mixed.generated and mixed.in_prompt and not mixed.everything
    assert not parse_positions("generated").in_prompt


@pytest.mark.parametrize(
    ("unreadable", "said"),
    [
        (True, "boolean.*positions='all'"),
        ([], "not readable.*'f5\\+l5'"),
        ([True], "not readable"),
        ([1, "x"], "not readable.*spans="),
        (1.5, "not readable"),
        (None, "not readable"),
        ("f0", "'f0' names no token"),
        ("last+", "'' is neither a position word, an index nor a span name"),
        ("a+b?", "'b\\?' is neither"),
        ("generated+last", "generated ones come after the prompt.*Write 'last\\+generated'"),
    ],
)
def test_what_the_language_does_not_know_is_refused(unreadable: Any, said: str) -> None:
    with pytest.raises(PositionError, match=said):
        parse_positions(unreadable)


@pytest.mark.parametrize("index", [3, -4, "7", [0, 3]])
def test_an_index_outside_one_rows_prompt_is_refused(index: Any) -> None:
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 1, 1, 1]])
    with pytest.raises(
        PositionError, match=r"outside the prompt of row 1, which has 3 tokens \(allowed: -3 to 2\).*clipped"
    ):
        resolve(parse_positions(index), Prompt.of(mask))


def test_an_index_is_counted_in_the_prompt_not_in_its_answer() -> None:
    prompt = Prompt.of(torch.ones(1, 6), torch.tensor([4]))
    assert rows_of(resolve(parse_positions(-1), prompt), 1) == [[3]]
    with pytest.raises(PositionError, match="has 4 tokens"):
        resolve(parse_positions(4), prompt)


def test_spans_that_do_not_fit_are_refused() -> None:
    prompt, subject = Prompt.of(torch.ones(2, 3)), parse_positions("subjct")
    with pytest.raises(PositionError, match=r"'subjct' is a span name.*Did you mean 'subject'\?.*one entry per row"):
        resolve(subject, prompt, {"subject": [[0], [1]]})
    with pytest.raises(PositionError, match=r"brings? no such span|bring no such span"):
        resolve(subject, prompt)
    with pytest.raises(PositionError, match=r"spans\['subjct'\] has 3 entries for a batch of 2"):
        resolve(subject, prompt, {"subjct": [[0], [1], [2]]})
    with pytest.raises(
        PositionError, match=r"spans\['subjct'\]\[1\] names token 3, but the prompt of row 1 has 3 tokens.*padding"
    ):
        resolve(subject, prompt, {"subjct": [[0], [3]]})


@pytest.mark.parametrize("rows", [[1, [0, 2]], [range(1, 2), range(0, 3, 2)], [(1,), (0, -1)]])
def test_spans_are_ints_lists_or_ranges(rows: Any) -> None:
    tokens = resolve(parse_positions("subject"), Prompt.of(torch.ones(2, 3)), {"subject": rows})
    assert rows_of(tokens, 2) == [[1], [0, 2]]


@pytest.mark.parametrize("rows", [[range(1, 3), [0]], torch.tensor([[1, 2], [1, 0]])])
@pytest.mark.parametrize(("padding", "start"), [("right", 0), ("left", 2)])
def test_one_token_of_a_span(rows: Any, padding: str, start: int) -> None:
    mask = torch.ones(2, 5)
    mask[:, 3:] = 0
    prompt = Prompt.of(mask if padding == "right" else mask.flip(1))
    last = parse_positions("subject[-1]")
    assert rows_of(resolve(last, prompt, {"subject": rows}), 2) == [[start + 2], [start]]
    assert parse_positions(last.to_data()) == last and str(last) == "'subject[-1]'"
    assert last.span_names == ("subject",)


def test_a_token_that_a_span_does_not_have_is_refused() -> None:
    with pytest.raises(PositionError, match=r"'subject\[1\]': the span 'subject' of row 1 has 1 tokens.*from -1 to 0"):
        resolve(parse_positions("subject[1]"), Prompt.of(torch.ones(2, 3)), {"subject": [[0, 1], 2]})
    with pytest.raises(PositionError, match="from -1 to 0"):
        resolve(parse_positions("subject[-2]"), Prompt.of(torch.ones(1, 3)), {"subject": [[1]]})
    with pytest.raises(PositionError, match="names token -4"):
        resolve(parse_positions("subject"), Prompt.of(torch.ones(1, 3)), {"subject": [[-4]]})
    with pytest.raises(PositionError, match="neither a position word"):
        parse_positions("subject[a]")


def test_spans_may_be_a_tensor() -> None:
    tokens = resolve(
        parse_positions("subject"), Prompt.of(torch.ones(2, 3)), {"subject": torch.tensor([[0, 1], [2, 1]])}
    )
    assert rows_of(tokens, 2) == [[0, 1], [2, 1]]


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ([[1, 1], [0, 0]], "Row 1 .* holds no real token"),
        ([[1, 1, 1], [1, 0, 1]], "Row 1 .* has a hole"),
        ([[0, 1, 0, 1]], "hole"),
    ],
)
def test_masks_in_which_the_last_token_has_no_meaning_are_refused(mask: list[list[int]], said: str) -> None:
    with pytest.raises(PositionError, match=said):
        Prompt.of(torch.tensor(mask))


@pytest.mark.parametrize("mask", list(itertools.product([0, 1], repeat=5))[1:])
def test_every_mask_of_five_columns_is_read_or_refused(mask: tuple[int, ...]) -> None:
    real = [column for column, bit in enumerate(mask) if bit]
    if real != list(range(real[0], real[-1] + 1)):
        with pytest.raises(PositionError, match="hole"):
            Prompt.of(torch.tensor([mask]))
    else:
        prompt = Prompt.of(torch.tensor([mask]))
        assert (int(prompt.start), int(prompt.stop), int(prompt.end), prompt.width) == (
            real[0],
            real[-1] + 1,
            real[-1] + 1,
            5,
        )


@pytest.mark.parametrize("length", [0, 4, -1])
def test_prompt_lengths_outside_the_row_are_refused(length: int) -> None:
    with pytest.raises(
        PositionError, match=rf"prompt_lengths\[1\] = {length}, but row 1 has 3 real tokens; allowed: 1 to 3"
    ):
        Prompt.of(torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]), torch.tensor([2, length]))


def test_a_prompt_may_have_one_token_or_all() -> None:
    prompt = Prompt.of(torch.tensor([[0, 1, 1, 1]] * 2), torch.tensor([1, 3]))
    assert (prompt.stop - prompt.start).tolist() == [1, 3] and prompt.end.tolist() == [4, 4]


def test_bool_and_float_masks_are_masks() -> None:
    for dtype in (torch.bool, torch.float32, torch.int32):
        assert Prompt.of(torch.tensor([[0, 1, 1]]).to(dtype)).start.tolist() == [1]


def test_positions_are_a_value() -> None:
    assert parse_positions("f2+l2") == parse_positions(" f2 + l2 ") and isinstance(parse_positions(1), Positions)
    assert len({parse_positions([1, 2]), parse_positions((1, 2))}) == 1


@pytest.mark.parametrize("left", [False, True])
def test_repeated_rows_and_shifted_columns_name_the_same_tokens(left: bool) -> None:
    mask, lengths = masked([(2 * left, 3, 2 * (not left)), (0, 5, 0)], [1, 1]), torch.tensor([3, 5])
    prompt = Prompt.of(mask, lengths)
    for word in ("f2+l1", "all", "generated"):
        named = rows_of(resolve(parse_positions(word), prompt), 2)
        assert rows_of(resolve(parse_positions(word), prompt.repeated(1)), 2) == named
        assert rows_of(resolve(parse_positions(word), prompt.repeated(2)), 4) == [row for row in named for _ in "ab"]
        moved = rows_of(resolve(parse_positions(word), prompt.shifted(3, prompt.width + 3)), 2)
        assert moved == [[column + 3 for column in row] for row in named]


@pytest.mark.parametrize(("length", "half"), [(4, 2), (5, 2), (12, 5)])
def test_at_most_half_of_a_prompt_is_rounded_down(length: int, half: int) -> None:
    prompt = Prompt.of(torch.ones(1, length))
    assert rows_of(resolve(parse_positions("f5<half"), prompt), 1) == [list(range(half))]
    assert rows_of(resolve(parse_positions("l5<half"), prompt), 1) == [list(range(length - half, length))]
