"""The command line: the only code that knows a terminal. Handlers import torch, ``--help`` does not."""
