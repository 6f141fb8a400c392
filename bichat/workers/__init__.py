"""What runs beside requests: folding read models, and answering questions with a model."""
