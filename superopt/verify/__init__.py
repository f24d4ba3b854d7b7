"""Verification: equality over finite fields, the numeric gate, certificates."""
