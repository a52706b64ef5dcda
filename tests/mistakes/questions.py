"""What is asked and of what data: causal models, studies, examples, figures; and the warnings."""

from __future__ import annotations

from causal_reft import errors as e
from tests.mistakes.mistake import Mistake

CAUSAL_MODELS = (
    Mistake(
        e.CausalModelError, "A parent that does not exist",
        'cr.CausalModel({"left": range(3)}, {"same": lambda lefft: lefft == 0})', "Did you mean 'left'",
        "The names of a mechanism's arguments are its parents.",
        'cr.CausalModel({"left": range(3)}, {"same": lambda left: left == 0})',
    ),
    Mistake(
        e.CausalModelError, "A cycle",
        'cr.CausalModel({"x": range(3)}, {"a": lambda b: b, "b": lambda a: a})', "form a cycle: ",
        "A variable may not depend on itself, not even over others.",
        'cr.CausalModel({"x": range(3)}, {"a": lambda x: x, "b": lambda a: a})',
    ),
    Mistake(
        e.CausalModelError, "A domain that is one value",
        'cr.CausalModel({"x": 3}, {"y": lambda x: x + 1})', "not a collection of values",
        "A domain lists what an input may be.",
        'cr.CausalModel({"x": range(3)}, {"y": lambda x: x + 1})',
    ),
    Mistake(
        e.CausalModelError, "A value outside its domain",
        'equality.run({"w": [5], "x": [1], "y": [0], "z": [2]})', "not in its domain",
        "Each of the four inputs is 0, 1 or 2.",
        'equality.run({"w": [2], "x": [1], "y": [0], "z": [2]})',
    ),
    Mistake(
        e.CausalModelError, "An input left out",
        'equality.run({"w": [2], "x": [1], "y": [0]})', "leave out input 'z'",
        "Every input needs a value in each row.",
        'equality.run({"w": [2], "x": [1], "y": [0], "z": [2]})',
    ),
    Mistake(
        e.CausalModelError, "Words of single values in a mechanism",
        'cr.CausalModel({"x": range(3)}, {"sign": lambda x: 1 if x else 0})', "np.where",
        "A mechanism is called once for all rows, so it gets columns.",
        'cr.CausalModel({"x": range(3)}, {"sign": lambda x: np.where(x, 1, 0)})',
    ),
    Mistake(
        e.CausalModelError, "One value for all rows",
        'cr.CausalModel({"x": range(3)}, {"total": lambda x: x.sum()})', "one value per setting",
        "Each row is a setting of its own.",
        'cr.CausalModel({"x": range(3)}, {"double": lambda x: x + x})',
    ),
    Mistake(
        e.CausalModelError, "A mechanism that mixes rows",
        'cr.CausalModel({"x": range(3)}, {"total": lambda x: np.cumsum(x)})', "mixes rows or is random",
        "The answer of one row would depend on its neighbours in the batch.",
        'cr.CausalModel({"x": range(3)}, {"double": lambda x: x + x})',
    ),
    Mistake(
        e.CausalModelError, "An input that is computed as well",
        'cr.CausalModel({"x": range(3)}, {"x": lambda: 1})', "both an input and a mechanism",
        "A variable has one origin.",
        'cr.CausalModel({"x": range(3)}, {"y": lambda x: x})',
    ),
    Mistake(
        e.CausalModelError, "A variable that the model does not have",
        'equality.counterfactuals("lefft", 8, seed=0)', "Did you mean 'left'",
        "Variables are the inputs and the mechanisms.",
        'equality.counterfactuals("left", 8, seed=0)',
    ),
    Mistake(
        e.CausalModelError, "A way of sampling that does not exist",
        'equality.counterfactuals("left", 8, seed=0, strategy="balnced")', "Did you mean 'balanced'",
        "See `causal_reft.causal.strategies` for what each draws.",
        'equality.counterfactuals("left", 8, seed=0, strategy="balanced")',
    ),
    Mistake(
        e.CausalModelError, "Counterfactuals without prompts",
        'equality.counterfactuals("left", 8, seed=0).prompts', "have no prompts",
        "A causal model knows values; a task says how they are written.",
        """
        text = cr.Template("the {w} sees the {x} , the {y} hears the {z}")
        cr.Task("equality", equality, text).counterfactuals("left", 8, seed=0).prompts
        """,
    ),
    Mistake(
        e.CausalModelError, "A template of a variable that is not there",
        'cr.Task("equality", equality, cr.Template("the {v} sees"))', "'v' is no variable",
        "A template shows variables of the causal model.",
        'cr.Task("equality", equality, cr.Template("the {w} sees"))',
    ),
    Mistake(
        e.CausalModelError, "One span name twice",
        'cr.Template("the {w} sees the {w}")', "second_w=w",
        "Each place gets a name of its own, by which positions find it.",
        'cr.Template("the {w} sees the {second_w=w}")',
    ),
    Mistake(
        e.CausalModelError, "Braces that are no variable",
        'cr.Template("{w:>3} sees")', "Double literal braces",
        "How a value is written is said beside the text.",
        'cr.Template("{w} sees", show={"w": lambda value: f"{value:>3}"})',
    ),
    Mistake(
        e.CausalModelError, "An answer without its text",
        """
        task = cr.Task("equality", equality, cr.Template("{w} {x} {y} {z}"), answers={True: " yes"})
        task.sample(20, seed=0)
        """,
        "no answer text for answer=False",
        "Every value of the output is written somehow.",
        """
        task = cr.Task("equality", equality, cr.Template("{w} {x} {y} {z}"), answers={True: " yes", False: " no"})
        task.sample(20, seed=0)
        """,
    ),
    Mistake(
        e.CausalModelError, "Parts that are not the whole",
        "pairs.split(0.5, 0.2, 0.2)", "add to 1",
        "Rows are dealt to training, selection and report.",
        "pairs.split(0.5, 0.2, 0.3)",
    ),
    Mistake(
        e.CausalModelError, "Rows that share too much to be split",
        'equality.counterfactuals("left", 40, seed=0).split(0.5, 0.2, 0.3, by="w")',
        "Nothing is left for",
        "No value of `w` may be in two parts, and rows of base and source chain its three values together.",
        'equality.counterfactuals("left", 400, seed=0).split(0.5, 0.2, 0.3)',
    ),
    Mistake(
        e.CausalModelError, "All pairs of too many settings",
        'wide.counterfactuals("same", None, seed=0, strategy="exhaustive")', "or sample",
        "`exhaustive` writes every base with every source.",
        'wide.counterfactuals("same", 100, seed=0, strategy="uniform")',
    ),
    Mistake(
        e.CausalModelError, "Answers compared with texts that are not there",
        'cr.keep_solved(pairs, lambda frame: np.array(["yes"] * len(frame)))', "give one bool per row",
        "Only a task writes its answers as texts.",
        "cr.keep_solved(pairs, lambda frame: np.ones(len(frame), dtype=bool))",
    ),
    Mistake(
        e.CausalModelError, "Solved in one run only",
        'cr.keep_solved(pairs, {"base": np.ones(len(pairs), dtype=bool)})', "needs the answers of each run",
        "A row counts where the network answers its base and its sources rightly.",
        "cr.keep_solved(pairs, {run: np.ones(len(pairs), dtype=bool) for run in pairs.runs})",
    ),
)  # fmt: skip

STUDIES = (
    Mistake(
        e.StudyError, "A study of nothing",
        "cr.Study(network, encoding, sites=[site], **settings)", r"needs task=\.\.\.",
        "A study draws its rows from a task, or takes rows that are split already.",
        "cr.Study(network, encoding, sites=[site], data=splits, **settings)",
    ),
    Mistake(
        e.StudyError, "A site given twice",
        "cr.Study(network, encoding, sites=[site, site], data=splits, **settings)", "given twice",
        "Each cell of the grid is one fit.",
        "cr.Study(network, encoding, sites=[site], data=splits, **settings)",
    ),
    Mistake(
        e.StudyError, "Halving that keeps nothing",
        "cr.Study(network, encoding, sites=[site], data=splits, **settings).halving(keep=0)", "keep must be a whole",
        "Successive halving ends where this many sites are left.",
        "cr.Study(network, encoding, sites=[site], data=splits, **settings).halving(keep=1)",
    ),
    Mistake(
        e.StudyError, "The folder of another study",
        """
        cr.Study(network, encoding, sites=[site], seeds=[0], data=splits, folder="study", **settings).prepare()
        cr.Study(network, encoding, sites=[site], seeds=[0, 1], data=splits, folder="study", **settings).prepare()
        """,
        r"(?s)holds another study.*seeds: \[0\] -> \[0, 1\]",
        "A folder continues the study that began it, and no other.",
        """
        cr.Study(network, encoding, sites=[site], seeds=[0], data=splits, folder="study", **settings).prepare()
        cr.Study(network, encoding, sites=[site], seeds=[0, 1], data=splits, folder="larger", **settings).prepare()
        """,
    ),
    Mistake(
        e.StudyError, "A folder of something else",
        """
        Path("thesis").mkdir(); Path("thesis/chapter.tex").write_text("...")
        cr.Study(network, encoding, sites=[site], data=splits, folder="thesis", **settings).prepare()
        """,
        "holds no study",
        "A study writes into an empty folder or into its own.",
        'cr.Study(network, encoding, sites=[site], data=splits, folder="study", **settings)',
    ),
    Mistake(
        e.StudyError, "A result before the end",
        """cr.Study(network, encoding, sites=[site], data=splits, folder="study", **settings).result()""",
        "not finished",
        "`run` computes what is missing and keeps what is there.",
        """cr.Study(network, encoding, sites=[site], data=splits, folder="study", **settings).run(progress=False)""",
    ),
    Mistake(
        e.StudyError, "Data that the network does not solve",
        """
        strict = {**settings, "sampling": cr.Sampling(solved=True)}
        cr.Study(unlearned, encoding, sites=[site], data=few, **strict).prepare()
        """,
        "the network fails .* without any edit",
        "A subspace can only be found for what the network can do, so rows that it fails are dropped, and here too few "
        "are left.",
        """
        strict = {**settings, "sampling": cr.Sampling(solved=True)}
        cr.Study(network, encoding, sites=[site], data=splits, **strict).prepare()
        """,
    ),
    Mistake(
        e.StudyError, "Which variable?",
        "cr.Study(network, encoding, sites=[site], task=equality, **settings)", "Say which variable",
        "A causal model has several variables, and each is a question of its own.",
        'cr.Study(network, encoding, sites=[site], data={"left": splits}, **settings)',
    ),
    Mistake(
        e.StudyError, "A folder without a study",
        'Path("empty").mkdir(); cr.StudyResult.load("empty")', "not the folder of a study",
        "A result is read from the folder in which the study ran.",
        """
        cr.Study(network, encoding, sites=[site], data=splits, folder="study", **settings).run(progress=False)
        cr.StudyResult.load("study")
        """,
    ),
    Mistake(
        e.StudyError, "A report that is no HTML",
        """
        result = cr.Study(network, encoding, sites=[site], data=splits, **settings).run(progress=False)
        result.report("report.pdf")
        """,
        r"Write result\.report\('report\.html'\)",
        "The page is one file of HTML; a browser prints it as PDF.",
        """
        result = cr.Study(network, encoding, sites=[site], data=splits, **settings).run(progress=False)
        result.report("report.html")
        """,
    ),
    Mistake(
        e.StudyError, "A live network for other processes",
        """
        study = cr.Study(network(), encoding, sites=[site], data=splits, **settings)
        study.run(executor=pool, progress=False)
        """,
        "what each worker can load",
        "Workers load the network themselves, from a folder or by a function.",
        """
        study = cr.Study(network, encoding, sites=[site], data=splits, **settings)
        study.run(executor=pool, progress=False)
        """,
    ),
)  # fmt: skip

DATA = (
    Mistake(
        e.DataError, "Nothing to train",
        'cr.fit(cr.IntervenedModel(model, cr.patch(cr.Site(1, positions="last"), 16)), examples, progress=False)',
        "nothing to train",
        "Patching learns nothing. A rotation does.",
        """
        das = cr.IntervenedModel(model, cr.das(cr.Site(1, positions="last"), 16, 2))
        cr.fit(das, examples, progress=False)
        """,
    ),
    Mistake(
        e.DataError, "A dead site",
        """
        early = cr.IntervenedModel(model, cr.das(cr.Site(2, positions="first"), 16, 2))
        cr.fit(early, examples, progress=False)
        """,
        "gradient is exactly zero",
        "Behind the last attention a token changes its own logits alone, and the loss reads those of the last.",
        """
        last = cr.IntervenedModel(model, cr.das(cr.Site(2, positions="last"), 16, 2))
        cr.fit(last, examples, progress=False)
        """,
    ),
    Mistake(
        e.DataError, "A misspelt setting",
        """
        das = cr.IntervenedModel(model, cr.das(cr.Site(1, positions="last"), 16, 2))
        cr.fit(das, examples, progress=False, epoch=2)
        """,
        "Did you mean 'epochs'",
        "The settings are the fields of `Recipe`.",
        """
        das = cr.IntervenedModel(model, cr.das(cr.Site(1, positions="last"), 16, 2))
        cr.fit(das, examples, progress=False, epochs=2)
        """,
    ),
    Mistake(
        e.DataError, "Patience without rows to be patient on",
        """
        das = cr.IntervenedModel(model, cr.das(cr.Site(1, positions="last"), 16, 2))
        cr.fit(das, examples, progress=False, patience=1)
        """,
        "patience needs validation",
        "Early stopping watches rows that training does not see.",
        """
        das = cr.IntervenedModel(model, cr.das(cr.Site(1, positions="last"), 16, 2))
        cr.fit(das, examples, progress=False, patience=1, validation=examples)
        """,
    ),
    Mistake(
        e.DataError, "Two trainings of one rotation",
        """
        das = cr.das(cr.Site(1, positions="last"), 16, 2)
        fit_many([cr.IntervenedModel(model, das), cr.IntervenedModel(model, das)], examples, progress=False)
        """,
        "share parameters",
        "Trained side by side, each would undo the steps of the other.",
        """
        one, two = (cr.das(cr.Site(1, positions="last"), 16, 2, seed=seed) for seed in (0, 1))
        fit_many([cr.IntervenedModel(model, one), cr.IntervenedModel(model, two)], examples, progress=False)
        """,
    ),
    Mistake(
        e.DataError, "Examples of unequal length",
        'cr.Examples({"base": batch}, torch.tensor([3, 4, 5]))', "base 2, labels 3",
        "Every run and the labels have the same rows.",
        'cr.Examples({"base": batch}, torch.tensor([3, 4]))',
    ),
    Mistake(
        e.DataError, "Examples without a base",
        'cr.Examples({"source": other}, torch.tensor([3, 4]))', "need a run named 'base'",
        "The base is the run whose output is scored.",
        'cr.Examples({"base": batch, "source": other}, torch.tensor([3, 4]))',
    ),
    Mistake(
        e.DataError, "A completion without a prompt",
        'cr.completions([("", "a dog")], tokenizer)', "empty prompt",
        "Positions are counted in the prompt, so there must be one.",
        'cr.completions([("the cat sees", "a dog")], tokenizer)',
    ),
    Mistake(
        e.DataError, "A record that is too long",
        'cr.completions([("the cat sees", "a dog")], tokenizer, max_length=4)', "more than max_length=4",
        "Records are refused and not cut, for a cut answer teaches to stop too early.",
        'cr.completions([("the cat sees", "a dog")], tokenizer, max_length=8)',
    ),
    Mistake(
        e.DataError, "Rows with fields of other names",
        'cr.completions([{"text": "the cat sees", "next": "a dog"}], tokenizer)', "Record 0 has the fields text, next",
        "Only some names of fields are known; any others can be given.",
        'cr.completions([{"text": "the cat sees", "next": "a dog"}], tokenizer, fields=("text", "next"))',
    ),
    Mistake(
        e.DataError, "A row without its completion",
        'cr.completions([{"prompt": "the cat sees", "completion": None}], tokenizer)', "'completion' is None",
        "An empty cell of a table, usually.",
        'cr.completions([{"prompt": "the cat sees", "completion": "a dog"}], tokenizer)',
    ),
    Mistake(
        e.DataError, "Conversations without a chat template",
        'cr.completions([("the cat sees", "a dog")], tokenizer, chat=True)', "needs a chat template",
        "The tokenizers of instruction-tuned models bring one.",
        'cr.completions([("the cat sees", "a dog")], tokenizer)',
    ),
    Mistake(
        e.DataError, "A class that does not exist",
        'cr.classification([("the cat sees", 2)], tokenizer, classes=2)', "outside 0 to 1",
        "Classes are counted from 0.",
        'cr.classification([("the cat sees", 1)], tokenizer, classes=2)',
    ),
    Mistake(
        e.DataError, "The trainer on the bare model",
        'cr.ReftTrainer(model, TrainingArguments("runs", report_to="none"))', "trains an IntervenedModel",
        "What is trained is the graph.",
        """
        reft = cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2), tokenizer)
        cr.ReftTrainer(reft, TrainingArguments("runs", report_to="none"))
        """,
    ),
    Mistake(
        e.DataError, "Records without a pad token",
        """
        reft = cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2))
        cr.ReftTrainer(reft, TrainingArguments("runs", report_to="none"))
        """,
        "give IntervenedModel",
        "Rows of a batch are padded to one length.",
        """
        reft = cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2), tokenizer)
        cr.ReftTrainer(reft, TrainingArguments("runs", report_to="none"))
        """,
    ),
    Mistake(
        e.DataError, "More to remember than the context holds",
        'memorise(model, tokenizer, "the cat sees a dog " * 20, 70, Edit("consreft", 1, (0,)), "the")',
        "was made for 64",
        "Beyond its context a model fails by itself.",
        """
        short = MemoryRecipe(steps=1)
        memorise(model, tokenizer, "the cat sees a dog " * 20, 12, Edit("consreft", 1, (0,)), "the", recipe=short)
        """,
    ),
    Mistake(
        e.DataError, "Nothing to remember",
        'memorise(model, tokenizer, "the owl sees a dog", 0, Edit("consreft", 1, (0,)), "the")',
        "at least one token",
        "A text of no tokens is remembered by every model.",
        """
        short = MemoryRecipe(steps=1)
        memorise(model, tokenizer, "the owl sees a dog", 4, Edit("consreft", 1, (0,)), "the", recipe=short)
        """,
    ),
    Mistake(
        e.DataError, "A memory in a model that writes nothing",
        'memorise(bert, tokenizer, "the owl sees a dog", 4, Edit("consreft", 1, (0,)), "the")',
        "needs a causal language model",
        "What is remembered must come out after the prompt, token by token.",
        """
        short = MemoryRecipe(steps=1)
        memorise(model, tokenizer, "the owl sees a dog", 4, Edit("consreft", 1, (0,)), "the", recipe=short)
        """,
    ),
    Mistake(
        e.DataError, "Words that the tokenizer does not know",
        'memorise(model, tokenizer, "the zebra sees a dog", 4, Edit("consreft", 1, (0,)), "the")',
        "does not know word 2",
        "What the model never reads it cannot give back.",
        """
        short = MemoryRecipe(steps=1)
        memorise(model, tokenizer, "the owl sees a dog", 4, Edit("consreft", 1, (0,)), "the", recipe=short)
        """,
    ),
    Mistake(
        e.DataError, "A figure of a column that is not there",
        "plots.site_heatmap(table, value='ia')", "Did you mean 'iia'",
        "Each figure names the columns that it draws.",
        "plots.site_heatmap(table, value='iia')",
    ),
    Mistake(
        e.DataError, "A figure of an empty table",
        "plots.site_heatmap(table[:0], value='iia')", "no rows",
        "Print the table first.",
        "plots.site_heatmap(table, value='iia')",
    ),
)  # fmt: skip

WARNINGS = (
    Mistake(
        e.CausalReftWarning, "A map that aligns anything",
        "cr.Flow(d_model=16, rank=2)", "can align almost any algorithm",
        "A non-linear map can find a variable in a network that does not compute it. A subspace is a claim that can "
        "fail.",
        "cr.Subspace(d_model=16, rank=2)",
    ),
    Mistake(
        e.CausalReftWarning, "An edit after the last attention",
        """
        short = MemoryRecipe(steps=1)
        memorise(model, tokenizer, "the owl sees a dog", 4, Edit("consreft", 1, (2,)), "the", recipe=short)
        """,
        "first new token",
        "After the last block a prompt token is seen by nobody any more.",
        """
        short = MemoryRecipe(steps=1)
        memorise(model, tokenizer, "the owl sees a dog", 4, Edit("consreft", 1, (0,)), "the", recipe=short)
        """,
    ),
)  # fmt: skip
