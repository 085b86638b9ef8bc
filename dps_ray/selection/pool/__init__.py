"""Data structures for a pool of millions of prompts, where a step touches few of them.

beliefs     the beliefs of all prompts, made of the following
index       ids in the order of their seeded hash: duplicates, ties and look-ups from one sort
ranking     score, times sampled and place in that order, as one sortable number
rows        the prompts that need a row of their own
lazy_order  all other prompts, sorted only as far as needed
growing     an array that grows
"""
