"""Side by side with other libraries: the same weights, data and steps in one process, interleaved, with repeats."""
