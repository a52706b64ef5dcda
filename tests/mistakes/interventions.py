"""What is written: featurizers and graphs."""

from __future__ import annotations

from causal_reft import errors as e
from tests.mistakes.mistake import Mistake

FEATURIZERS = (
    Mistake(
        e.FeaturizerError, "A rank above the width",
        "cr.Subspace(d_model=16, rank=17)", "between 1 and d_model = 16",
        "There are no more orthogonal directions than dimensions.",
        "cr.Subspace(d_model=16, rank=8)",
    ),
    Mistake(
        e.FeaturizerError, "A rank above the rows that confine it",
        "cr.Subspace.within(torch.eye(2, 16), rank=4)", "the basis has 2 rows",
        "A subspace inside given rows has at most as many dimensions as they.",
        "cr.Subspace.within(torch.eye(2, 16), rank=2)",
    ),
    Mistake(
        e.FeaturizerError, "A basis that is no matrix of numbers",
        'cr.Subspace.within(torch.full((2, 16), float("nan")), rank=1)', "NaN or infinity in it",
        "Rows of a division by zero, for instance, span nothing.",
        "cr.Subspace.within(torch.eye(2, 16), rank=1)",
    ),
    Mistake(
        e.FeaturizerError, "A confined search without what confines it",
        "cr.SubspaceWithin(rank=4)", "read=0.95, varied=0.95 or both",
        "What the network reads, what the data vary, or what they vary of what is read.",
        "cr.SubspaceWithin(rank=4, read=0.95)",
    ),
    Mistake(
        e.FeaturizerError, "A share of directions above one",
        "cr.SubspaceWithin(rank=4, read=9.5)", "between 0 and 1",
        "A whole number is how many directions are kept, a number below 1 the share that they hold.",
        "cr.SubspaceWithin(rank=4, read=8)",
    ),
    Mistake(
        e.FeaturizerError, "A featurizer of another width than the site",
        "cr.IntervenedModel(model, cr.loreft(cr.Site(1), d_model=32, rank=2))(batch)", "Build it with d_model=16",
        "The width is that of the site: `model.config.hidden_size` for a block, less for one head, often more inside "
        "an MLP.",
        "cr.IntervenedModel(model, cr.loreft(cr.Site(1), d_model=16, rank=2))(batch)",
    ),
    Mistake(
        e.FeaturizerError, "A vector of another width than the site",
        "cr.IntervenedModel(model, cr.steer(cr.Site(1), torch.ones(8)))(batch)", "16 wide in this model",
        "A steering vector has the width of the site.",
        "cr.IntervenedModel(model, cr.steer(cr.Site(1), torch.ones(16)))(batch)",
    ),
    Mistake(
        e.FeaturizerError, "Rows that depend on each other",
        "cr.Subspace.from_rows(torch.ones(2, 16))", "linearly dependent",
        "Two equal rows span one direction, not two.",
        "cr.Subspace.from_rows(torch.eye(16)[:2])",
    ),
    Mistake(
        e.FeaturizerError, "More principal directions than the states have",
        "cr.Subspace.pca(torch.randn(3, 16), rank=4)", "vary in 2 directions",
        "Three points lie in a plane around their mean.",
        "cr.Subspace.pca(torch.randn(30, 16), rank=4)",
    ),
    Mistake(
        e.FeaturizerError, "A split that leaves rows over",
        "cr.Subspace(16, 8).split(german=4, formal=2)", "rest=2",
        "Every row belongs to a slice, so that none is trained by nobody.",
        "cr.Subspace(16, 8).split(german=4, formal=2, rest=2)",
    ),
    Mistake(
        e.FeaturizerError, "A kind of mask that does not exist",
        'cr.Mask(cr.Subspace(16, 16), kind="soft")', "'boundary' and 'coordinates'",
        "A mask keeps the first coordinates up to a learned boundary, or chooses each one.",
        'cr.Mask(cr.Subspace(16, 16), kind="boundary")',
        untyped=True,
    ),
    Mistake(
        e.FeaturizerError, "A mask over heads that do not fit",
        "cr.Mask(cr.Identity(16), groups=3)", "cannot be cut into equal groups",
        "Each group holds as many coordinates as every other: there are as many groups as heads.",
        "cr.Mask(cr.Identity(16), groups=4)",
    ),
    Mistake(
        e.FeaturizerError, "A sparse autoencoder without its number",
        'cr.Autoencoder(torch.randn(32, 16), torch.randn(16, 32), activation="topk")', "goes with k=",
        "Each activation takes its own number: `topk` how many features stay on, `jumprelu` its thresholds.",
        'cr.Autoencoder(torch.randn(32, 16), torch.randn(16, 32), activation="topk", k=4)',
    ),
)  # fmt: skip

GRAPHS = (
    Mistake(
        e.GraphError, "A full rotation without a mask",
        "cr.das(cr.Site(1), d_model=16, rank=16)", "a full rotation cancels",
        "Interchanging all coordinates of any rotation is plain patching, so there is nothing to learn.",
        "cr.boundless_das(cr.Site(1), d_model=16)",
    ),
    Mistake(
        e.GraphError, "A source that writes fewer coordinates than there are",
        "cr.Interchange(cr.Site(1), cr.Subspace(16, 4), cr.LearnedSource(rank=2, d_model=16))",
        r"LearnedSource\(rank=4",
        "The source gives the coordinates that the featurizer writes.",
        "cr.Interchange(cr.Site(1), cr.Subspace(16, 4), cr.LearnedSource(rank=4, d_model=16))",
    ),
    Mistake(
        e.GraphError, "A source for another width",
        "cr.Interchange(cr.Site(1), cr.Subspace(16, 4), cr.LearnedSource(rank=4, d_model=8))", "d_model=16",
        "A learned source reads the state that it edits.",
        "cr.Interchange(cr.Site(1), cr.Subspace(16, 4), cr.LearnedSource(rank=4, d_model=16))",
    ),
    Mistake(
        e.GraphError, "Runs that wait for each other",
        """
        cr.InterventionGraph(
            one=cr.Interchange(cr.Site(1), cr.Identity(16), cr.Collect("mid")),
            two=cr.Interchange(cr.Site(0), cr.Identity(16), cr.Collect("base", cr.Site(2)), run="mid"),
        )
        """,
        "wait for each other",
        "The base waits for `mid`, and `mid` for the base. Path patching takes the middle run's source from a third.",
        """
        cr.InterventionGraph(
            one=cr.Interchange(cr.Site(1), cr.Identity(16), cr.Collect("mid")),
            two=cr.Interchange(cr.Site(0), cr.Identity(16), cr.Collect("source", cr.Site(2)), run="mid"),
        )
        """,
    ),
    Mistake(
        e.GraphError, "A state that comes later in the same forward",
        """
        later = cr.LearnedSource(2, 16, reads=cr.Collect("base", cr.Site(2)), init="random")
        graph = cr.InterventionGraph(edit=cr.Interchange(cr.Site(1), cr.Subspace(16, 2), later))
        cr.IntervenedModel(model, graph)(batch)
        """,
        "Read an earlier site",
        "When layer 1 is edited, layer 2 has not been computed.",
        """
        earlier = cr.LearnedSource(2, 16, reads=cr.Collect("base", cr.Site(0)), init="random")
        graph = cr.InterventionGraph(edit=cr.Interchange(cr.Site(1), cr.Subspace(16, 2), earlier))
        cr.IntervenedModel(model, graph)(batch)
        """,
    ),
    Mistake(
        e.GraphError, "A module that the forward never calls",
        'cr.IntervenedModel(twice, cr.patch(cr.Site.at("idle"), 3))(x, source=x)', "never reached 'idle'",
        "The module exists, but with these inputs nothing runs it, and an edit there would do nothing.",
        'cr.IntervenedModel(twice, cr.patch(cr.Site.at("last"), 3))(x, source=x)',
    ),
    Mistake(
        e.GraphError, "Two nodes of one name",
        "cr.loreft(cr.Site(1), 16, 2) + cr.loreft(cr.Site(2), 16, 2)", "Both graphs have a node named 'edit'",
        "Graphs join by the names of their nodes, so names must differ.",
        'cr.loreft(cr.Site(1), 16, 2).renamed({"edit": "early"}) + cr.loreft(cr.Site(2), 16, 2)',
    ),
    Mistake(
        e.GraphError, "A node that the graph does not have",
        'cr.loreft(cr.Site(1), 16, 2)["eidt"]', "Did you mean 'edit'",
        "The names of nodes are in the graph's repr.",
        'cr.loreft(cr.Site(1), 16, 2)["edit"]',
    ),
    Mistake(
        e.GraphError, "A name that torch uses itself",
        'cr.InterventionGraph(train=cr.Collect("base", cr.Site(1)))', "cannot name a node",
        "A graph's parameters live in torch modules, where a few names are taken.",
        'cr.InterventionGraph(train_=cr.Collect("base", cr.Site(1)))',
    ),
    Mistake(
        e.GraphError, "A collect without a site",
        'cr.InterventionGraph(seen=cr.Collect("base"))', "needs a site",
        "Inside an interchange the site may be left out; it is then the interchange's own.",
        'cr.InterventionGraph(seen=cr.Collect("base", cr.Site(1)))',
    ),
    Mistake(
        e.GraphError, "A run called as an argument of the model",
        'cr.IntervenedModel(model, cr.InterventionGraph(seen=cr.Collect("labels", cr.Site(1))))', "Rename the run",
        "Runs are keywords of the call, beside the model's own.",
        'cr.IntervenedModel(model, cr.InterventionGraph(seen=cr.Collect("labelled", cr.Site(1))))',
    ),
    Mistake(
        e.GraphError, "A run whose name is no keyword",
        'cr.Collect("source 1")', "must be an identifier",
        "One writes `model(base, source_1=...)`.",
        'cr.Collect("source_1")',
    ),
    Mistake(
        e.GraphError, "Nothing to collect",
        "cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2)).collect(batch)", "no Collect node",
        "`collect` returns what the graph's Collect nodes see.",
        """
        seen = cr.InterventionGraph(seen=cr.Collect("base", cr.Site(2)))
        cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2) + seen).collect(batch)
        """,
    ),
    Mistake(
        e.GraphError, "A constant of a shape without meaning",
        "cr.Constant(torch.zeros(2, 3, 16))", r"give a float, \(rank,\) or \(n_positions, rank\)",
        "A constant is the same for all rows.",
        "cr.Constant(torch.zeros(3, 16))",
    ),
    Mistake(
        e.GraphError, "Another number of constants than tokens",
        """
        edit = cr.Interchange(cr.Site(1, positions="all"), cr.Identity(16), cr.Constant(torch.zeros(3, 16)))
        cr.IntervenedModel(model, cr.InterventionGraph(edit=edit))(batch)
        """,
        "one value for each of 3 tokens, but row 0 names 5.*PerRow",
        "The values belong to the tokens of a row, in order; their first axis is not the batch.",
        """
        edit = cr.Interchange(cr.Site(1, positions=[0, -1]), cr.Identity(16), cr.Constant(torch.zeros(2, 16)))
        cr.IntervenedModel(model, cr.InterventionGraph(edit=edit))(batch)
        """,
    ),
    Mistake(
        e.GraphError, "A start that cannot be no edit",
        'cr.direft(cr.Site(1), 16, 2, activation="relu")', "init='random'",
        "A shift starts at 0, where the slope of relu is 0 as well: it would never learn.",
        'cr.direft(cr.Site(1), 16, 2, activation="relu", init="random")',
    ),
    Mistake(
        e.GraphError, "A misspelt backend",
        'cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2), backend="nnsigt")', "Did you mean 'nnsight'",
        "There are two.",
        'cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2), backend="nnsight")',
    ),
    Mistake(
        e.GraphError, "A remote run with hooks",
        "cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2), remote=True)", "backend='nnsight'",
        "Hooks are for models in this process.",
        'cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2), backend="nnsight")',
    ),
    Mistake(
        e.GraphError, "An alignment of what is no variable",
        'cr.Alignment(equality, cr.das(cr.Site.at("first"), 8, 2))', "is no variable of the causal model",
        "The names of the graph's nodes are the variables that they should hold.",
        """
        left = cr.Interchange(cr.Site.at("first"), cr.Subspace(8, 2), cr.Collect("source"))
        cr.Alignment(equality, cr.InterventionGraph(left=left))
        """,
    ),
    Mistake(
        e.GraphError, "An alignment without an interchange",
        'cr.Alignment(equality, cr.loreft(cr.Site.at("first"), 8, 2).renamed({"edit": "left"}))',
        "must interchange with another run",
        "Alignment asks what a state of another run does here.",
        'cr.Alignment(equality, cr.das(cr.Site.at("first"), 8, 2).renamed({"edit": "left"}))',
    ),
    Mistake(
        e.GraphError, "One plan for two base models",
        """
        das = cr.das(cr.Site(1, positions="last"), 16, 2)
        plan_all([cr.IntervenedModel(model, das), cr.IntervenedModel(copy, das)], examples)
        """,
        "one base model",
        "What is computed once is computed for all graphs, so they must be on the same model object.",
        """
        one, two = (cr.das(cr.Site(1, positions="last"), 16, 2, seed=seed) for seed in (0, 1))
        plan_all([cr.IntervenedModel(model, one), cr.IntervenedModel(model, two)], examples)
        """,
    ),
    Mistake(
        e.GraphError, "A served graph with a second run",
        """
        served = cr.Served(model)
        served.add("swap", cr.das(cr.Site(1), 16, 2))
        """,
        "only edits of the base run are served",
        "A row of a served batch brings one text, so nothing can be collected from another.",
        """
        served = cr.Served(model)
        served.add("formal", cr.loreft(cr.Site(1), 16, 2))
        """,
    ),
    Mistake(
        e.GraphError, "A graph that is not served",
        """
        served = cr.Served(model)
        served.add("formal", cr.loreft(cr.Site(1), 16, 2))
        served(batch, graphs=["frmal", None])
        """,
        "Did you mean 'formal'",
        "Each row names a graph that was added, or None.",
        """
        served = cr.Served(model)
        served.add("formal", cr.loreft(cr.Site(1), 16, 2))
        served(batch, graphs=["formal", None])
        """,
    ),
    Mistake(
        e.GraphError, "An edit of some tokens, folded into weights",
        "cr.fold(model, cr.loreft(cr.Site(1, 'attention_output', 'last'), 16, 2))", "weights act on all",
        "A weight does the same to every token, so only an edit of every token, decoded ones too, is inside weights.",
        "cr.fold(model, cr.loreft(cr.Site(1, 'attention_output', 'all+generated'), 16, 2))",
    ),
    Mistake(
        e.GraphError, "An edit of a sum, folded into weights",
        "cr.fold(model, cr.loreft(cr.Site(1, positions='all+generated'), 16, 2))", "constant shift only",
        "The output of a block is the residual stream plus what its layers give; weights see their own part of it.",
        "cr.fold(model, cr.lobireft(cr.Site(1, positions='all+generated'), 16, 2))",
    ),
)  # fmt: skip
