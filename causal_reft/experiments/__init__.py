"""EXPERIMENTS: whole experiments, written as a user would write them; only the command line imports them.

Each is in its own file or room: demo, equality, composition, memorisation. `command_line.EXPERIMENTS` is their table.
"""
