"""The algebras under which graphs are evaluated: floats here, fields, abstract terms and text beside."""
