"""The frontend: PyTorch functions to graphs over named axes, and what stays in PyTorch, and why.

``capture`` exports a function; ``partition`` cuts what was captured into pieces that have a graph
(``Supported``) and operators that PyTorch keeps (``Boundary``); ``Program.run`` runs them in order.
Nothing is imported here: torch.export takes a while to load, and warm starts do without it.
"""
