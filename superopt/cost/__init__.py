"""The cost of placed graphs: a device table, an analytic model, and measurement."""
