"""Every selection method in real training, on the same terms, and a report of what came out.

plan.py ─> runner.py ─> run folders ─> replay.py, measures.py ─> rows.py ─> equal_accuracy.py, table.py ─> figures.py, page.py
(figures look as drawing.py says)
"""
