"""Where: sites and positions."""

from __future__ import annotations

from causal_reft import errors as e
from tests.mistakes.mistake import Mistake

SITES = (
    Mistake(
        e.SiteError, "A component that does not exist",
        'cr.Site(1, "blok_output")', r"'blok_output'.*Did you mean 'block_output'",
        "Components have one name in every family. Anything else is named by the path of its module.",
        'cr.Site(1, "block_output")',
    ),
    Mistake(
        e.SiteError, "A grid with the names of one site",
        'cr.site_grid([0, 1], component="mlp_output")', r"no 'component'. Did you mean 'components'",
        "A grid takes all alternatives of each: layers, positions, components, heads.",
        'cr.site_grid([0, 1], components="mlp_output")',
    ),
    Mistake(
        e.SiteError, "A layer that the model does not have",
        "cr.IntervenedModel(model, cr.patch(cr.Site(7), 16))", "layers 0 to 2",
        "Layers count from 0. The graph is checked against the model as soon as the two meet.",
        "cr.IntervenedModel(model, cr.patch(cr.Site(2), 16))",
    ),
    Mistake(
        e.SiteError, "A negative layer",
        "cr.Site(-1)", r"num_hidden_layers - 1",
        "A graph is a value of its own, which must mean the same on every model it is put on.",
        "cr.Site(model.config.num_hidden_layers - 1)",
    ),
    Mistake(
        e.SiteError, "A component without its layer",
        'cr.Site(component="mlp_output")', r"needs a layer",
        "Every component but `embeddings` and `final_norm` is a part of one block.",
        'cr.Site(0, "mlp_output")',
    ),
    Mistake(
        e.SiteError, "A layer for what belongs to the whole model",
        'cr.Site(2, "final_norm")', r"belongs to the whole model",
        "There is one `embeddings` and one `final_norm`.",
        'cr.Site(component="final_norm")',
    ),
    Mistake(
        e.SiteError, "A head that the model does not have",
        'cr.IntervenedModel(model, cr.patch(cr.Site(1, "attention_query", head=9), 4))', "heads 0 to 3",
        "Heads count from 0, too.",
        'cr.IntervenedModel(model, cr.patch(cr.Site(1, "attention_query", head=3), 4))',
    ),
    Mistake(
        e.SiteError, "A key head by the number of a query head",
        'cr.IntervenedModel(model, cr.patch(cr.Site(1, "attention_key", head=3), 4))', "heads 0 to 1",
        "Under grouped-query attention several query heads share one head of keys and values; here four share two.",
        'cr.IntervenedModel(model, cr.patch(cr.Site(1, "attention_key", head=1), 4))',
    ),
    Mistake(
        e.SiteError, "A head of a component without heads",
        'cr.Site(1, "mlp_output", head=0)', "has no heads",
        "Heads exist before they are mixed: at queries, keys, values, and what goes into the output projection.",
        'cr.Site(1, "attention_head_output", head=0)',
    ),
    Mistake(
        e.SiteError, "A component that this family lacks",
        'cr.IntervenedModel(bert, cr.patch(cr.Site(component="final_norm"), 16))', "has no 'final_norm'",
        "BERT normalises at the end of each block and not once more after the last; the table of architectures says "
        "which family has what.",
        "cr.IntervenedModel(bert, cr.patch(cr.Site(1), 16))",
    ),
    Mistake(
        e.SiteError, "Which of two stacks?",
        "cr.IntervenedModel(t5, cr.patch(cr.Site(1), 16))", "two stacks",
        "An encoder-decoder model has a layer 1 twice.",
        'cr.IntervenedModel(t5, cr.patch(cr.Site(1, "decoder.block_output"), 16))',
    ),
    Mistake(
        e.SiteError, "A misspelt module path",
        'cr.IntervenedModel(model, cr.patch(cr.Site.at("model.layers.1.mpl"), 16))',
        r"Did you mean 'model.layers.1.mlp'",
        "`Site.at` takes the names that `model.named_modules()` prints.",
        'cr.IntervenedModel(model, cr.patch(cr.Site.at("model.layers.1.mlp"), 16))',
    ),
    Mistake(
        e.SiteError, "A layer of a plain module",
        "cr.IntervenedModel(toy, cr.patch(cr.Site(0), 8))", "no transformers config",
        "Layers and components are words about transformers.",
        'cr.IntervenedModel(toy, cr.patch(cr.Site.at("first"), 8))',
    ),
    Mistake(
        e.SiteError, "A family that the table does not know",
        "cr.IntervenedModel(bigcode, cr.patch(cr.Site(0), 16))", "no row for 'gpt_bigcode'",
        "One call describes a family: the name of its list of blocks, and where in a block each component is.",
        """
        cr.register_architecture("gpt_bigcode", blocks="h", components={"mlp_output": ("mlp.c_proj", "output")})
        cr.IntervenedModel(bigcode, cr.patch(cr.Site(0), 16))
        """,
    ),
    Mistake(
        e.SiteError, "A family described by a list that it does not have",
        """
        cr.register_architecture("gpt_bigcode", blocks="layers", components={})
        cr.IntervenedModel(bigcode, cr.patch(cr.Site(0), 16))
        """,
        "0 lists named 'layers'",
        "`blocks` is the name of the `ModuleList` in which the blocks are; `print(model)` shows it.",
        """
        cr.register_architecture("gpt_bigcode", blocks="h", components={})
        cr.IntervenedModel(bigcode, cr.patch(cr.Site(0), 16))
        """,
    ),
    Mistake(
        e.SiteError, "A family described by a path that its blocks do not have",
        """
        cr.register_architecture("gpt_bigcode", blocks="h", components={"mlp_output": ("mlp.down", "output")})
        cr.IntervenedModel(bigcode, cr.patch(cr.Site(0, "mlp_output"), 16))
        """,
        "the table says 'transformer.h.0.mlp.down'",
        "Paths are those of modules inside a block.",
        """
        cr.register_architecture("gpt_bigcode", blocks="h", components={"mlp_output": ("mlp.c_proj", "output")})
        cr.IntervenedModel(bigcode, cr.patch(cr.Site(0, "mlp_output"), 16))
        """,
    ),
    Mistake(
        e.SiteError, "A family described by a component that nobody knows",
        'cr.register_architecture("gpt_bigcode", blocks="h", components={"mlp_outptu": ("mlp.c_proj", "output")})',
        "Did you mean 'mlp_output'",
        "The names of components are the same in every family.",
        'cr.register_architecture("gpt_bigcode", blocks="h", components={"mlp_output": ("mlp.c_proj", "output")})',
    ),
    Mistake(
        e.SiteError, "A family described by a port that is none",
        'cr.register_architecture("gpt_bigcode", blocks="h", components={"mlp_output": ("mlp.c_proj", "outputs")})',
        "use input or output",
        "A module has what goes in and what comes out.",
        'cr.register_architecture("gpt_bigcode", blocks="h", components={"mlp_output": ("mlp.c_proj", "output")})',
    ),
    Mistake(
        e.SiteError, "A port with token ids instead of states",
        'cr.IntervenedModel(model, cr.patch(cr.Site.at("model.embed_tokens", port="input"), 16))(batch, source=other)',
        "real-valued",
        "An edit needs real numbers.",
        'cr.IntervenedModel(model, cr.patch(cr.Site(component="embeddings"), 16))(batch, source=other)',
    ),
    Mistake(
        e.SiteError, "A module that runs twice in one forward",
        'cr.IntervenedModel(twice, cr.patch(cr.Site.at("inner"), 3))(x, source=x)', "runs more than once",
        "'Its output' would be two tensors. Name a module that runs once.",
        'cr.IntervenedModel(twice, cr.patch(cr.Site.at("last"), 3))(x, source=x)',
    ),
    Mistake(
        e.SiteError, "A value inside a forward, with hooks",
        """
        site = cr.Site.at("model.layers.1.self_attn", "source:apply_rotary_pos_emb_0[0]")
        cr.IntervenedModel(model, cr.patch(site, 16))
        """,
        "backend='nnsight'",
        "Hooks see what goes into a module and what comes out. nnsight also reads the lines between.",
        """
        site = cr.Site.at("model.layers.1.self_attn", "source:apply_rotary_pos_emb_0[0]")
        cr.IntervenedModel(model, cr.patch(site, 16), backend="nnsight")
        """,
    ),
)  # fmt: skip

POSITIONS = (
    Mistake(
        e.PositionError, "A position outside a prompt",
        "cr.IntervenedModel(model, cr.patch(cr.Site(1, positions=3), 16))(batch, source=other)",
        r"position 3 is outside the prompt of row 1, which has 2 tokens",
        "An index must exist in every row: the second prompt has two tokens. `f` and `l` are clipped to what is there.",
        'cr.IntervenedModel(model, cr.patch(cr.Site(1, positions="l3"), 16))(batch, source=other)',
    ),
    Mistake(
        e.PositionError, "No positions",
        "cr.Site(1, positions=[])", r"is not readable",
        "An edit of no token is not an edit. All tokens are 'all'.",
        'cr.Site(1, positions="all")',
    ),
    Mistake(
        e.PositionError, "A nested list for rows",
        "cr.Site(1, positions=[[2, 3], [4]])", "spans=",
        "A site knows no rows. What differs by row is a span, and comes with the inputs.",
        """
        graph = cr.InterventionGraph(seen=cr.Collect("base", cr.Site(1, positions="subject")))
        cr.IntervenedModel(model, graph)(batch, spans={"subject": [[1, 2], [1]]})
        """,
        untyped=True,
    ),
    Mistake(
        e.PositionError, "The first no tokens",
        'cr.Site(1, positions="f0+l1")', "'f0' names no token",
        "Leave out what names nothing.",
        'cr.Site(1, positions="l1")',
    ),
    Mistake(
        e.PositionError, "A boolean",
        "cr.Site(1, positions=True)", "is a boolean",
        "True is the number 1 in Python, so it would mean the second token.",
        'cr.Site(1, positions="all")',
    ),
    Mistake(
        e.PositionError, "Words that are no positions",
        'cr.Site(1, positions="first,last")', "neither a position word",
        "Several parts are joined by a plus.",
        'cr.Site(1, positions="first+last")',
    ),
    Mistake(
        e.PositionError, "A span that the inputs do not bring",
        'cr.IntervenedModel(model, cr.steer(cr.Site(1, positions="animal"), torch.ones(16)))(batch)',
        r"'animal' is a span name",
        "A word that the position language does not know is the name of a span. Token numbers of each row come with "
        "the call; studies take them from the task's template.",
        """
        steered = cr.IntervenedModel(model, cr.steer(cr.Site(1, positions="animal"), torch.ones(16)))
        steered(batch, spans={"animal": [[1], [1]]})
        """,
    ),
    Mistake(
        e.PositionError, "Spans for too few rows",
        """
        steered = cr.IntervenedModel(model, cr.steer(cr.Site(1, positions="animal"), torch.ones(16)))
        steered(batch, spans={"animal": [[1]]})
        """,
        "1 entries for a batch of 2 rows",
        "One entry for each row of the batch.",
        """
        steered = cr.IntervenedModel(model, cr.steer(cr.Site(1, positions="animal"), torch.ones(16)))
        steered(batch, spans={"animal": [[1], [1]]})
        """,
    ),
    Mistake(
        e.PositionError, "Spans counted with padding",
        """
        steered = cr.IntervenedModel(model, cr.steer(cr.Site(1, positions="animal"), torch.ones(16)))
        steered(batch, spans={"animal": [[1], [4]]})
        """,
        r"names token 4, but the prompt of row 1 has 2 tokens.*counted with padding",
        "Tokens of a span are counted from the first real token of the row, on whichever side the padding is.",
        """
        steered = cr.IntervenedModel(model, cr.steer(cr.Site(1, positions="animal"), torch.ones(16)))
        steered(batch, spans={"animal": [[1], [1]]})
        """,
    ),
    Mistake(
        e.PositionError, "Runs that name unequal numbers of tokens",
        'cr.IntervenedModel(model, cr.patch(cr.Site(1, positions="all"), 16))(batch, source=longer)',
        "pair one to one",
        "An interchange puts the first named token of the source into the first of the base, and so on.",
        'cr.IntervenedModel(model, cr.patch(cr.Site(1, positions="last"), 16))(batch, source=longer)',
    ),
    Mistake(
        e.PositionError, "One source for several rows",
        """
        one = {key: value[:1] for key, value in other.items()}
        cr.IntervenedModel(model, cr.patch(cr.Site(1, positions="last"), 16))(batch, source=one)
        """,
        "has 1 rows and the edited run has 2",
        "Rows pair one to one. Writing one source into all rows is meant rarely, so say it.",
        """
        same = {key: value[:1].expand(2, -1) for key, value in other.items()}
        cr.IntervenedModel(model, cr.patch(cr.Site(1, positions="last"), 16))(batch, source=same)
        """,
    ),
    Mistake(
        e.PositionError, "A mask with a hole",
        """
        holed = {**batch, "attention_mask": torch.tensor([[1, 0, 1, 1, 1], [1, 1, 0, 0, 0]])}
        cr.IntervenedModel(model, cr.patch(cr.Site(1, positions="last"), 16))(holed, source=other)
        """,
        "Row 0 of the attention mask has a hole",
        "First and last tokens have no meaning in a text with padding in the middle.",
        'cr.IntervenedModel(model, cr.patch(cr.Site(1, positions="last"), 16))(batch, source=other)',
    ),
    Mistake(
        e.PositionError, "A row of nothing but padding",
        """
        empty = {**batch, "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])}
        cr.IntervenedModel(model, cr.patch(cr.Site(1, positions="last"), 16))(empty, source=other)
        """,
        "Row 1 of the attention mask holds no real token",
        "An empty text has no last token. Leave the row out.",
        'cr.IntervenedModel(model, cr.patch(cr.Site(1, positions="last"), 16))(batch, source=other)',
    ),
    Mistake(
        e.PositionError, "A prompt longer than its text",
        """
        steered = cr.IntervenedModel(model, cr.steer(cr.Site(1, positions="last"), torch.ones(16)))
        steered(batch, prompt_lengths=[5, 3])
        """,
        r"prompt_lengths\[1\] = 3, but row 1 has 2 real tokens",
        "`prompt_lengths` counts the real tokens before the answer.",
        """
        steered = cr.IntervenedModel(model, cr.steer(cr.Site(1, positions="last"), torch.ones(16)))
        steered(batch, prompt_lengths=[3, 1])
        """,
    ),
    Mistake(
        e.PositionError, "Switches for the wrong number of rows",
        'cr.IntervenedModel(model, cr.steer(cr.Site(1), torch.ones(16)))(batch, active={"edit": [True]})',
        "one true or false for each of the 2 rows",
        "`active` says for each row of the batch whether a node acts.",
        'cr.IntervenedModel(model, cr.steer(cr.Site(1), torch.ones(16)))(batch, active={"edit": [True, False]})',
    ),
    Mistake(
        e.PositionError, "Positions of a state that has none",
        'cr.IntervenedModel(bert, cr.patch(cr.Site.at("pooler", positions="last"), 16))(batch, source=other)',
        "Write positions='all'",
        "A pooled state is one vector for each row.",
        'cr.IntervenedModel(bert, cr.patch(cr.Site.at("pooler"), 16))(batch, source=other)',
    ),
)  # fmt: skip
