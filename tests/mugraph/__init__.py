"""Tests of the graph: its text, its canonical form, its rules, its meaning in floats."""
