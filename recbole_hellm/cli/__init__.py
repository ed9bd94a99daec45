"""The command line: ``run_hellm.py``, ``recbole-hellm`` and ``python -m recbole_hellm``."""
