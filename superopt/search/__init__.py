"""The search: value enumeration with abstract pruning, extraction, kernel cut and placement."""
