"""Plug-ins for the frameworks that people train with. Each module needs its framework, and imports no other."""
