"""Stands where SQLite would: pyroute2 names it for a database that istio-init never opens."""
