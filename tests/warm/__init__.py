"""Ray workers that need not import vLLM: forked from one process that has.

Importing vLLM takes 17 s of a core, torch and DeepSpeed 5 s, Ray 1 s, and a test of engines starts several
workers. A cluster of these tests therefore starts its workers by `setup_worker.py`, which stands in for
Ray's file of that name: it asks the fork server for a copy of a process that has imported everything. What the
copy runs is Ray's own `default_worker.py`.

    pytest ── starts ──> fork server (imports once)
       └── starts ──> Ray ── starts ──> setup_worker.py ── asks ──> fork server ── forks ──> the worker
"""
