"""What a trained model is worth, and whether its figures can be believed: one file a question."""
