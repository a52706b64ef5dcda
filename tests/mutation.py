"""Would the tests notice? One small change of the code at a time: python -m tests.mutation [changes] [seed] [file ...]

Draws changes of the files that carry the numbers: comparisons, arithmetic, constants, conditions, order of arguments,
returned values, removed statements. Against each it runs the tests of the file's own room that reach the changed line,
the fastest first, without the run-time type checker. Prints how many changes a test failed on, with the exact interval
of the share, and which none did. Annotations, docstrings and errors' words stay. So do what a change of says nothing:
the order of arguments of `max` and the like, the names of random streams and of context variables, `strict=True` of
`zip`, which only asserts. The numbers of a drawing (inches, font sizes, what lies on top) are looked at and not tested:
those of `graph/drawing.py` stay, and tests ask where its marks and texts are relative to each other.

It works on a copy of the tree. Other packages are imported once; the tests of a change run in a fork of that process.
"""

from __future__ import annotations

import ast
import compileall
import importlib
import json
import os
import py_compile
import random
import resource
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FORMULAS = (  # of methods whose formulas the graph's own tests do not compare
    "zero ablation", "noise ablation", "Boundless DAS, training", "DBM over neurons, evaluation", "ConsReFT",
    "LobiReFT", "NodiReFT", "added source", "schematic ReFT", "directional ablation", "trained steering vector", "RED",
    "(IA)^3", "ReFT-r1", "JoLA's edit", "LoReFT with an activation",
)  # fmt: skip
ROOMS: dict[str, tuple[str, ...]] = {  # what is changed, and the tests of its room
    "sites/*.py": (
        "sites/test_positions.py",
        "sites/test_site.py",
        *(
            f"sites/test_architectures.py::test_{name}"
            for name in (
                "one_head_of_a_source_moves_that_head_alone",
                "who_takes_a_sources_value_gives_what_the_source_gives",
                "a_row_of_the_table_has_every_component_in_a_layout_that_a_row_of_a_users_own_may_have",
                "a_component_and_the_path_of_its_module_are_one_place",
                "the_table_says_whether_a_change_of_the_mlps_output_is_one_of_the_blocks",
                "the_table_says_after_how_many_tokens_a_family_has_no_more_positions",
                "the_side_of_the_padding_changes_nothing",
            )
        ),
    ),
    "featurizers/*.py": ("featurizers", "laws/test_lenses.py"),
    "graph/*.py": (
        "graph",
        "laws/test_presets_of_parts.py",
        "featurizers/test_featurizers.py::test_a_featurizer_is_its_settings_and_its_tensors",
        "training/test_penalty.py::test_the_penalty_of_reft_r1_is_the_mean_of_the_other_latents",
        "training/test_penalty.py::test_a_direction_that_sees_no_latent_learns_nothing_and_says_so",
        "training/test_penalty.py::test_gates_are_drawn_as_hard_concrete",
        *(
            f"laws/test_method_table.py::test_a_row_of_the_method_table_equals_its_formula[{name}-gpt2-left-ragged]"
            for name in FORMULAS
        ),
    ),
    "execution/transform.py": (
        "execution/test_row_axis.py",
        "execution/test_no_numbers.py",
        "execution/test_stories.py::test_06_eval_left_dropout_on_and_dropout_hit_the_whole_stream",
        "execution/test_order_of_positions.py::test_zero_takes_from_three_and_two_takes_from_one",
        "execution/test_order_of_positions.py::test_collected_states_and_a_constant_follow_the_order_of_naming",
        "execution/test_order_of_positions.py::test_spans_of_other_lengths_that_only_add_up_to_the_same_number_are_refused",
        "execution/test_generation.py::test_an_interchange_from_a_source_run_acts_on_the_prompt",
        "execution/test_generation.py::test_a_learned_source_that_reads_another_site_pairs_rows_of_beams",
        "execution/test_generation.py::test_values_by_position_go_on_counting_through_the_decoding_steps",
        "execution/test_generation.py::test_a_source_that_runs_out_of_tokens_is_refused_while_decoding",
        "graph/test_sources.py::test_per_row_follows_the_beams_of_a_generation",
        "sites/test_architectures.py::test_one_head_of_a_source_moves_that_head_alone",
        "laws/test_shifts.py",
        "laws/test_interventions.py",
    ),
    "alignment/metrics.py": ("alignment/test_metrics.py",),
    "alignment/statistics.py": ("alignment/test_statistics.py", "alignment/test_metrics.py"),
}
IMPORTED = ("beartype", "hypothesis", "pandas", "scipy.stats", "torch", "transformers", "nnsight")
SLOWEST = 4  # seconds of the processor, under the look at which lines are reached; slower tests are left out
SECONDS = 120  # of the processor, for the tests of a change; what takes longer was noticed
WITHOUT = ("-pno:cacheprovider", "-pno:xdist", "-pno:nbmake", "-pno:anyio")
OPTIONS = ("-x", "-q", "--assert=plain", "--tb=no", "-o", "addopts=--import-mode=importlib", *WITHOUT)
SWAPPED: dict[type, type] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
SYMMETRIC = ("min", "max", "minimum", "maximum", "promote_types")
NAMING = (
    "derive",
    "BlockValue",
    "ContextVar",
    "TypeVar",
    "Field",
    "number",
)  # their strings are names, or errors' words
LOOKED_AT = ("graph/drawing.py",)


@dataclass(frozen=True)
class Change:
    """Bytes `start` to `end` of a file, read `old`, become `new`."""

    path: Path
    line: int
    last: int
    on_import: bool
    start: int
    end: int
    old: str
    new: str

    def applied(self, code: bytes) -> bytes:
        return code[: self.start] + self.new.encode() + code[self.end :]

    def __str__(self) -> str:
        before, after = (" ".join(text.split())[:110] for text in (self.old, self.new))
        return f"{self.path}:{self.line}  {before}  ->  {after}"


def changes_of(path: Path) -> Iterator[Change]:
    """Every change of one file."""
    code = (ROOT / path).read_bytes()
    starts = [0]
    for line in code.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node, on_import in _nodes(ast.parse(code)):
        for old, new in _others(node):
            if str(path).endswith(LOOKED_AT) and _is_number(old):
                continue
            assert old.end_lineno is not None and old.end_col_offset is not None
            start, end = starts[old.lineno - 1] + old.col_offset, starts[old.end_lineno - 1] + old.end_col_offset
            text = f"({ast.unparse(new)})" if isinstance(new, ast.expr) else ast.unparse(new)
            yield Change(path, old.lineno, old.end_lineno, on_import, start, end, code[start:end].decode(), text)


def _nodes(node: ast.AST, on_import: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """Nodes whose change could be noticed, and whether they run when the file is imported."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns") or (isinstance(node, ast.Raise) and field == "exc"):
            continue
        now = on_import and not (field == "body" and isinstance(node, ast.FunctionDef | ast.Lambda))
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, ast.AST) and not _is_words(inner) and not _is_name(inner, node):
                yield inner, now
                yield from _nodes(inner, now)


def _is_words(node: ast.AST) -> bool:
    """A docstring, a formatted text, a warning, what only a type checker reads, the list of public names."""
    if isinstance(node, ast.Expr):
        call = node.value.func if isinstance(node.value, ast.Call) else node.value
        return isinstance(call, ast.Constant) or ast.unparse(call) == "warnings.warn"
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    named = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    return named or isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom)


def _is_name(node: ast.AST, owner: ast.AST) -> bool:
    """A string that only names what a call makes, or the `strict` of `zip`."""
    named = isinstance(owner, ast.Call) and _name(owner.func) in NAMING
    return (named and isinstance(node, ast.Constant) and isinstance(node.value, str)) or (
        isinstance(node, ast.keyword) and node.arg == "strict"
    )


def _name(func: ast.expr) -> str:
    return ast.unparse(func).partition("[")[0].rpartition(".")[2]


def _is_number(node: ast.AST) -> bool:
    value = node.operand if isinstance(node, ast.UnaryOp) else node
    return isinstance(value, ast.Constant) and type(value.value) in (int, float)


def _others(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, ast.expr | ast.stmt]]:
    """Parts of a node, each with what could stand in its place."""
    match node:
        case ast.Compare(left, [first, *rest], right):
            yield node, ast.Compare(left, [SWAPPED[type(first)](), *rest], right)
        case ast.BoolOp(op, values):
            yield node, ast.BoolOp(SWAPPED[type(op)](), values)
        case ast.BinOp(left, op, right) if type(op) in SWAPPED:
            yield node, ast.BinOp(left, SWAPPED[type(op)](), right)
        case ast.AugAssign(target, op, value) if type(op) in SWAPPED:
            yield node, ast.AugAssign(target, SWAPPED[type(op)](), value)
        case ast.UnaryOp(_, operand):
            yield node, operand
        case ast.Constant(bool() as value):
            yield node, ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield node, ast.Constant(value + 1)
        case ast.Constant(str() as value):
            yield node, ast.Constant(f"{value}_")
        case ast.IfExp(test, body, orelse):
            yield node, ast.IfExp(test, orelse, body)
        case ast.If(test) | ast.While(test):
            yield test, ast.UnaryOp(ast.Not(), test)
        case ast.Return(value) if value is not None and ast.unparse(value) != "None":
            yield node, ast.Return(ast.Constant(None))
        case ast.Call(func, [first, second, *rest], keywords) if _name(func) not in SYMMETRIC:
            yield node, ast.Call(func, [second, first, *rest], keywords)
        case ast.Expr() | ast.Raise() | ast.Assign([ast.Attribute() | ast.Subscript()]):
            yield node, ast.Pass()


# Running ------------------------------------------------------------------------------------------------------------


def _seconds() -> float:
    """Of the processor, for this process and those that it started."""
    return sum(os.times()[:4])


class Reached:
    """A plugin of pytest: how long each test took, and which lines of which files it reached."""

    def __init__(self, files: set[str]) -> None:
        self.files, self.tests = files, list[tuple[float, str, list[tuple[str, int]]]]()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        lines: set[tuple[str, int]] = set()

        def see(frame: FrameType, event: str, _: object) -> Any:
            if frame.f_code.co_filename not in self.files:
                return None
            lines.add((frame.f_code.co_filename, frame.f_lineno))
            return see

        start = _seconds()
        sys.settrace(see)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            self.tests.append((_seconds() - start, item.nodeid, sorted(lines)))


class Bench:
    """A copy of the tree, in which the tests run."""

    def __init__(self, copy: Path) -> None:
        self.copy = copy
        for name in ("causal_reft", "tests", "data"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "runs"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        # Compiled once, and used where the bytes of the source are still the same.
        compileall.compile_dir(copy, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
        sys.dont_write_bytecode = True
        os.environ.setdefault("CAUSAL_REFT_SHARED", str(ROOT.parent / "shared"))
        os.environ |= {"CI": "1"}  # hypothesis draws the same examples for every change
        for name in IMPORTED:
            importlib.import_module(name)
        os.chdir(copy)
        sys.path[:] = [str(copy), *(place for place in sys.path if place not in ("", str(ROOT)))]
        for name in [name for name in sys.modules if name.split(".")[0] in ("causal_reft", "tests")]:
            del sys.modules[name]

    def room(self, pattern: str) -> list[tuple[str, set[tuple[str, int]]]]:
        """The tests of a room, the fastest first, each with the lines that it reaches.

        Raises:
            SystemExit: one fails on the code as it is.
        """
        found, files = self.copy / "reached.json", (self.copy / "causal_reft").glob(pattern)
        reached = Reached({str(path) for path in files})
        if self.fails([f"tests/{test}" for test in ROOMS[pattern]], reached, found):
            raise SystemExit(f"These tests fail on the code as it is: {' '.join(ROOMS[pattern])}")
        tests = sorted(test for test in json.loads(found.read_text()) if test[0] < SLOWEST)
        print(f"{pattern}: {len(tests)} tests, {sum(seconds for seconds, *_ in tests):.0f} s", flush=True)
        own = len(str(self.copy)) + 1
        return [(name, {(path[own:], line) for path, line in lines}) for _, name, lines in tests]

    def notices(self, change: Change, room: list[tuple[str, set[tuple[str, int]]]]) -> bool:
        """Whether a test fails on a change; what runs on import is reached by all."""
        path, code = self.copy / change.path, (ROOT / change.path).read_bytes()
        here = {(str(change.path), line) for line in range(change.line, change.last + 1)}
        tests = [name for name, lines in room if change.on_import or lines & here]
        path.write_bytes(change.applied(code))
        try:
            return bool(tests) and self.fails(tests)
        finally:
            path.write_bytes(code)

    def fails(self, tests: list[str], reached: Reached | None = None, found: Path | None = None) -> bool:
        """Whether pytest fails, in a fork."""
        sys.stdout.flush()
        child = os.fork()
        if not child:
            _pytest(tests, reached, found)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 4 and any("::" in test for test in tests):  # a change renamed parameters: the tests of whole files
            return self.fails(sorted({test.partition("::")[0] for test in tests}), reached, found)
        assert code in (0, 1, 2, 4), f"pytest ended with {code}, which says nothing about the change"
        return code != 0


def _pytest(tests: list[str], reached: Reached | None, found: Path | None) -> None:
    """pytest without a word; the process ends with its status."""
    status = 70
    with suppress(BaseException):
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        if reached is None:
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        status = int(pytest.main([*OPTIONS, *tests], plugins=[] if reached is None else [reached]))
        if reached is not None and found is not None:
            found.write_text(json.dumps(reached.tests))
    os._exit(status)


def main(count: int = 200, seed: int = 0, *names: str) -> int:
    """Print how each drawn change ended, and the share that a test failed on, in all and by room."""
    rooms = {
        path.relative_to(ROOT): pattern
        for pattern in ROOMS
        for path in sorted((ROOT / "causal_reft").glob(pattern))
        if not names or str(path.relative_to(ROOT)) in names
    }
    every = [change for path in rooms for change in changes_of(path)]
    drawn = sorted(random.Random(seed).sample(range(len(every)), min(count, len(every))))
    total, noticed, tests = Counter[str](), Counter[str](), dict[str, Any]()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch))
        for change in (every[number] for number in drawn):
            room = rooms[change.path]
            tests[room] = tests.get(room) or bench.room(room)
            found = bench.notices(change, tests[room])
            total[room] += 1
            noticed[room] += found
            print(f"{'noticed' if found else 'SURVIVED':<8} {change}", flush=True)
        os.chdir(ROOT)
    from causal_reft.alignment.statistics import binomial_interval

    for room in total:
        print(f"{room}: {noticed[room]} of {total[room]}")
    low, high = binomial_interval(noticed.total(), len(drawn))
    print(f"{noticed.total()} of {len(drawn)} changes noticed, {noticed.total() / len(drawn):.1%} ", end="")
    print(f"({low:.1%} to {high:.1%}); drawn with seed {seed} from {len(every)}")
    return 0


if __name__ == "__main__":
    count, seed, *chosen = [*sys.argv[1:], *("200", "0")[len(sys.argv[1:3]) :]]
    sys.exit(main(int(count), int(seed), *chosen))
