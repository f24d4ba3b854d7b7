"""Tests of the checks: fields, the gate, the certificate."""
