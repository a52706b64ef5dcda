"""What must be computed for a dataset, and no more: exact shortcuts, checked against full passes, told in words.

plan       which shortcut each graph gets, the self-check, the words
members    where a graph enters the model and which tokens it touches
together   graphs on one causal decoder, computed jointly: recordings, windows, a staircase of entries
lent       the shortcut for every other model: what other runs lend, kept
"""
