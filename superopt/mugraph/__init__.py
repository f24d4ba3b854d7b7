"""The multi-level graph: scalar and operator tables, named axes, algebras, placement, text form."""
