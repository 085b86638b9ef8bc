"""How a pool of millions of prompts is kept so that a step touches few of them.

index       ids in the order of their seeded hash: duplicates, ties and look-ups from one sort
ranking     score, times sampled and place in that order, as one sortable number
rows        the prompts that need a row of their own
lazy_order  all the others, sorted only as far as anybody asks
growing     an array that grows
"""
