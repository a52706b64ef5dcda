"""EXPERIMENTS: whole experiments, written as a user would write them. Nothing but the command line imports them."""
