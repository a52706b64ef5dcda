"""How a model is called, and how graphs are kept."""

from __future__ import annotations

from causal_reft import errors as e
from tests.mistakes.mistake import Mistake

RUNS = (
    Mistake(
        e.RunError, "A run that the call does not give",
        'cr.IntervenedModel(model, cr.patch(cr.Site(1, positions="last"), 16))(batch)', r"needs run source",
        "An interchange takes states of another run, so it must be given that run's inputs.",
        'cr.IntervenedModel(model, cr.patch(cr.Site(1, positions="last"), 16))(batch, source=other)',
    ),
    Mistake(
        e.RunError, "A misspelt run",
        'cr.IntervenedModel(model, cr.patch(cr.Site(1, positions="last"), 16))(batch, sorce=other)',
        "Did you mean 'source'",
        "Keywords that nobody reads are refused, for they would change nothing.",
        'cr.IntervenedModel(model, cr.patch(cr.Site(1, positions="last"), 16))(batch, source=other)',
    ),
    Mistake(
        e.RunError, "A run that the graph does not use",
        "cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2))(batch, source=other)", "'source' is neither a run",
        "LoReFT computes its edit from the base run alone.",
        "cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2))(batch)",
    ),
    Mistake(
        e.RunError, "A misspelt argument of the model",
        """
        lora = cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2))
        lora(input_ids=batch["input_ids"], attention_maks=batch["attention_mask"])
        """,
        "Did you mean 'attention_mask'",
        "Some models accept any keyword in silence; here it is refused.",
        """
        lora = cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2))
        lora(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        """,
    ),
    Mistake(
        e.RunError, "The same argument twice",
        'cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2))(batch, input_ids=other["input_ids"])', "given twice",
        "Which of the two is meant?",
        "cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2))(batch)",
    ),
    Mistake(
        e.RunError, "Text for a model without its tokenizer",
        'cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2))("the cat sees")', "this model has no tokenizer",
        "Strings become tokens through the tokenizer that the model was given.",
        'cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2), tokenizer)("the cat sees")',
    ),
    Mistake(
        e.RunError, "Lists instead of tensors",
        'cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2))(tokenizer(["the cat sees"]))', "return_tensors='pt'",
        "A tokenizer gives lists unless it is asked for tensors.",
        """
        tokens = tokenizer(["the cat sees"], return_tensors="pt", return_token_type_ids=False)
        cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2))(tokens)
        """,
    ),
    Mistake(
        e.RunError, "Padding without a mask",
        'cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2))(batch["input_ids"])', "no attention_mask",
        "Without the mask 'the last token' of a short row would be padding.",
        "cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2))(batch)",
    ),
    Mistake(
        e.RunError, "A mask of four dimensions",
        """
        causal = torch.ones(2, 1, 5, 5).tril()
        lora = cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2))
        lora(input_ids=batch["input_ids"], attention_mask=causal)
        """,
        "the 2-D mask",
        "Where a prompt begins and ends is read from the tokenizer's mask.",
        "cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2))(batch)",
    ),
    Mistake(
        e.RunError, "Tensors on another device than the model",
        """
        moved = {key: value.to("meta") for key, value in batch.items()}
        cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2))(moved)
        """,
        r"is on meta, but the model is on cpu",
        "Inputs go where the model's first weights are.",
        """
        reft = cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2))
        reft({key: value.to(reft.device) for key, value in batch.items()})
        """,
    ),
    Mistake(
        e.RunError, "A model without its weights",
        "cr.IntervenedModel(empty, cr.loreft(cr.Site(1), 16, 2))(batch)", "is on meta",
        "On the device `meta` a model has shapes and no numbers.",
        'cr.IntervenedModel(empty.to_empty(device="cpu"), cr.loreft(cr.Site(1), 16, 2))(batch)',
    ),
    Mistake(
        e.RunError, "A text beyond the context",
        'cr.IntervenedModel(bert, cr.steer(cr.Site(1), torch.ones(16)))(torch.full((1, 70), 5))',
        "learned positions for 64",
        "Where positions are learned, later ones do not exist; torch would answer with an index out of range.",
        "cr.IntervenedModel(bert, cr.steer(cr.Site(1), torch.ones(16)))(torch.full((1, 64), 5))",
    ),
    Mistake(
        e.RunError, "Labels without a prompt",
        'cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2))(batch, labels=batch["input_ids"])',
        "score the very first token",
        "Positions are counted in the prompt, which ends where the labels begin.",
        """
        labels = torch.where(batch["attention_mask"].cumsum(1) > 1, batch["input_ids"], -100)
        labels[batch["attention_mask"] == 0] = -100
        cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2))(batch, labels=labels)
        """,
    ),
    Mistake(
        e.RunError, "A switch for a node that is not there",
        'cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2))(batch, active={"eidt": [True, False]})',
        "Did you mean 'edit'",
        "`active` is by the name of a node.",
        'cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2))(batch, active={"edit": [True, False]})',
    ),
    Mistake(
        e.RunError, "Generation with labels",
        """
        reft = cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2))
        reft.generate(**batch, labels=batch["input_ids"], max_new_tokens=2)
        """,
        "generate takes no labels",
        "There is nothing to score while texts are made.",
        """
        reft = cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2))
        reft.generate(**batch, max_new_tokens=2)
        """,
    ),
    Mistake(
        e.RunError, "Generation by a model that gives no texts",
        'cr.IntervenedModel(bert, cr.loreft(cr.Site(1), 16, 2)).generate(**batch)', "gives no texts",
        "An encoder has no next token.",
        "cr.IntervenedModel(bert, cr.loreft(cr.Site(1), 16, 2))(**batch)",
    ),
    Mistake(
        e.RunError, "The edited model as its own assistant",
        """
        reft = cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2))
        reft.generate(**batch, assistant_model=model, max_new_tokens=2)
        """,
        "assistant shares modules with the edited model",
        "What the assistant proposes would be edited as well.",
        """
        reft = cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2))
        reft.generate(**batch, max_new_tokens=2)
        """,
    ),
    Mistake(
        e.RunError, "A decoding loop of its own",
        """
        reft = cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2))
        reft.generate(**batch, penalty_alpha=0.6, top_k=4, max_new_tokens=2)
        """,
        "decodes in its own way",
        "Edits of positions are known where decoding is greedy, by sampling, by beams or assisted.",
        """
        reft = cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2))
        reft.generate(**batch, num_beams=2, max_new_tokens=2)
        """,
    ),
    Mistake(
        e.RunError, "Served rows without a graph each",
        'cr.Served(model)(batch, graphs=[None])', "1 entries for 2 rows",
        "Each row of a served batch has its graph, or None.",
        "cr.Served(model)(batch, graphs=[None, None])",
    ),
    Mistake(
        e.RunError, "A live module for a remote run",
        'cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2), backend="nnsight", remote=True)',
        "a model that a server can load",
        "A server loads the model by its name.",
        'cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2), backend="nnsight")',
    ),
)  # fmt: skip

SAVED = 'cr.loreft(cr.Site(1), 16, 2).save("formal")\n'

STORAGE = (
    Mistake(
        e.StorageError, "A folder that is not empty",
        SAVED + 'cr.loreft(cr.Site(2), 16, 2).save("formal")', "is not empty",
        "A saved graph is never overwritten unasked.",
        SAVED + 'cr.loreft(cr.Site(2), 16, 2).save("formal", overwrite=True)',
    ),
    Mistake(
        e.StorageError, "A folder that holds no graph",
        'cr.load_graph("informal")', "holds no graph.json",
        "A saved graph is `graph.json`, `weights.safetensors` and `digests.json`, which holds their digests.",
        SAVED + 'cr.load_graph("formal")',
    ),
    Mistake(
        e.StorageError, "A file that was cut off, edited or mixed up",
        SAVED
        + 'text = Path("formal/graph.json").read_text()\n'
        + """Path("formal/graph.json").write_text(text.replace('"all"', '"last"'))\n"""
        + 'cr.load_graph("formal")',
        "does not have the digest",
        "Every file is under a digest, because a changed number would load without a word. To change a graph, change "
        "it as a value and save that.",
        """
        cr.loreft(cr.Site(1, positions="last"), 16, 2).save("formal")
        cr.load_graph("formal")
        """,
    ),
    Mistake(
        e.StorageError, "A featurizer of one's own that nobody registered",
        'cr.InterventionGraph(edit=cr.Interchange(cr.Site(1), Doubled(), cr.Collect("source"))).save("doubled")',
        r"register_featurizer\(Doubled\)",
        "A folder names its featurizers by kind and never imports a class that a file names.",
        """
        cr.register_featurizer(Doubled)
        cr.InterventionGraph(edit=cr.Interchange(cr.Site(1), Doubled(), cr.Collect("source"))).save("doubled")
        """,
    ),
    Mistake(
        e.StorageError, "A graph for a model of another shape",
        """
        cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2)).save_pretrained("formal")
        cr.IntervenedModel.from_pretrained("formal", bert)
        """,
        "was made for a model with model_type='llama'",
        "The edit was learned in the states of one model. Give it that one.",
        """
        cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2)).save_pretrained("formal")
        cr.IntervenedModel.from_pretrained("formal", model)
        """,
    ),
    Mistake(
        e.StorageError, "A base model that has no name",
        """
        cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2)).save_pretrained("formal")
        cr.IntervenedModel.from_pretrained("formal")
        """,
        "does not say which base model",
        "Only models that came from a folder or a hub can be found again by name.",
        """
        cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2)).save_pretrained("formal")
        cr.IntervenedModel.from_pretrained("formal", model)
        """,
    ),
)  # fmt: skip
