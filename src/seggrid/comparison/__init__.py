"""Many records -> one comparison: its figures, its words, and how it is shown."""
