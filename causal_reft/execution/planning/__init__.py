"""What must be computed for a dataset, and no more: exact shortcuts, checked against full passes, explained in text.

plan            which shortcut each graph gets; the self-check (`selfcheck`), the text (`explain`)
decoder         a causal decoder, and where each graph enters it
windows         which tokens of each row are computed
recorded_states what the base run computes without edits: keys and values of early tokens, hidden states
source_cache    states that the base run takes from other runs; the one shortcut for models that are no decoders
joint_passes    the logits of graphs on one decoder, in as few forwards as possible; each is a `joint_forward`
"""
